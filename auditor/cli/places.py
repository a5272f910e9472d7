"""What the commands on testbeds share: where one lies, and how many processes work at once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from auditor.cli.shell import check_out

if TYPE_CHECKING:
    from scenarios.home import Home

Jobs = Annotated[int, typer.Option(min=1, help="Processes at once, of one thread each; the result is the same.")]
HomeFolder = Annotated[
    Path | None, typer.Option("--home", help="Folder of suites/, answers/ and testbed/ [default: scenarios/]")
]


def home_of(folder: Path | None) -> Home:
    """Return the testbed in a folder, or the one beside the code."""
    from scenarios.home import Home

    if folder is not None:
        check_out(folder, "--home")
    return Home() if folder is None else Home(folder)
