"""The commands on the testbed: its base, its suites, the data for oracles."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from auditor.cli.shell import AsJson, check_out, command, writing

testbed_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Rebuild the small models that audits are measured on."
)


@testbed_app.command("train-base")
@command
def train_base(
    out: Annotated[Path | None, typer.Option(help="Folder of the model [default: the testbed's own]")] = None,
    seed: Annotated[int, typer.Option(help="Seed of weights and data.")] = 0,
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps.")] = None,
    as_json: AsJson = False,
) -> None:
    """Train the testbed's base model from scratch; an interrupted run continues."""
    from dataclasses import replace

    from scenarios.testbed import base, build

    check_out(out or build.WEIGHTS)
    config = base.BaseConfig(seed=seed)
    done = base.train_base(out or build.WEIGHTS / "base", replace(config, steps=steps) if steps else config)
    typer.echo(
        json.dumps(done)
        if as_json
        else f"held-out loss {done['loss']:.4f} nats per answer token, {done['seconds']:.0f} s"
    )


@testbed_app.command("build")
@command
def build_testbed(
    suite: Annotated[str, typer.Option(help="demo, dev, nulls or dev_nulls.")] = "demo",
    as_json: AsJson = False,
) -> None:
    """Train and verify a suite's adapters, and write its scenarios, answers and manifest."""
    from typing import get_args

    from auditor.errors import SpecError
    from scenarios.testbed import build
    from scenarios.testbed.suites import SuiteName

    if suite not in get_args(SuiteName):
        raise SpecError(f"unknown suite {suite!r}: the suites are {', '.join(get_args(SuiteName))}")
    build.write_shared_files()
    done = build.build_suite(suite, lambda text: typer.echo(text, err=True) if sys.stderr.isatty() else None)  # type: ignore[arg-type]
    typer.echo(json.dumps(done) if as_json else ", ".join(f"{k} {v}" for k, v in done.items()))


@testbed_app.command("oracle-data")
@command
def oracle_data(
    out: Annotated[Path, typer.Option(help="The JSON Lines file to write.")],
    rows: Annotated[int, typer.Option(min=1024, help="Examples.")] = 120_000,
    seed: Annotated[int, typer.Option(help="Seed of the examples.")] = 11,
) -> None:
    """Write examples that teach an activation oracle the testbed's language."""
    from scenarios.testbed.oracle_data import write_oracle_data

    with writing(out):
        write_oracle_data(out, rows, seed)
    typer.echo(str(out))
