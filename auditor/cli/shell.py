"""What every command shares: options, errors as exit codes, progress, folders that can be written."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, ParamSpec, TypeVar

import typer

from tools.errors import AuditorError

if TYPE_CHECKING:
    from auditor.steps import Step

Db = Annotated[Path, typer.Option("--db", help="The ledger file.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Out = Annotated[Path | None, typer.Option("--out", help="Folder for the report [default: ./audit-reports/AUDIT]")]
Planner = Annotated[str | None, typer.Option(help="embedded, scripted or llm.")]
Model = Annotated[
    str | None, typer.Option(help="PROVIDER:NAME of the llm planner, e.g. openai:NAME; OPENAI_BASE_URL is honoured.")
]
Tools = Annotated[str | None, typer.Option(help="Instruments to use, separated by commas.")]
Budget = Annotated[int | None, typer.Option(min=1, help="Forward tokens over all roles [default: 300000]")]
Seed = Annotated[int | None, typer.Option(help="Seed of every draw.")]
DEFAULT_DB = Path("auditor.db")
P = ParamSpec("P")
R = TypeVar("R")


def command(function: Callable[P, R]) -> Callable[P, R]:
    """Turn the errors that a user can act on into one line on stderr and their exit code."""

    @wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except AuditorError as error:
            fail(str(error), error.exit_code)
        except KeyboardInterrupt:
            fail(
                "interrupted; `auditor resume AUDIT` continues an audit and `--resume` a bench, "
                "any other command can be run again",
                1,
            )

    return wrapped


def fail(message: str, code: int) -> NoReturn:
    """Say what is wrong on stderr, and exit."""
    typer.echo(f"auditor: {plain(message)}", err=True)
    raise typer.Exit(code)


def plain(text: str) -> str:
    """Return text with control characters shown as escapes: it may quote what a subject wrote."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


class Progress:
    """Says on stderr what the audit is doing, when someone is looking."""

    def looking(self, tool: str) -> None:
        """Say that the survey's next tool is running."""
        self._say(f"looking with {tool}")

    def step(self, number: int, step: Step) -> None:
        """Say which step is being taken."""
        kind = step.kind.replace("_", " ")
        what = getattr(step, "tool", None) or getattr(step, "hypothesis_id", None) or ""
        claim = getattr(step, "claim", None)
        self._say(f"{kind} {claim.statement if claim else what} {getattr(step, 'grade', '')}".strip())

    def _say(self, text: str) -> None:
        if sys.stderr.isatty() or os.environ.get("AUDITOR_PROGRESS"):
            typer.echo(f"  · {plain(text)}", err=True)


def check_out(out: Path | None, option: str = "--out") -> None:
    """Refuse a folder that can't be written before work is spent on it; leave nothing there."""
    from tempfile import TemporaryFile

    with writing(out or Path("audit-reports"), option):
        folder = (out or Path("audit-reports")).resolve()
        while not folder.exists():
            folder = folder.parent
        with TemporaryFile(dir=folder):
            pass


@contextmanager
def writing(out: Path, option: str = "--out") -> Iterator[None]:
    """Turn a failure to write to `out` inside the block into an error that says so, and which `option` chose it.

    Raises:
        SpecError: instead of an `OSError`.
    """
    from auditor.errors import SpecError

    try:
        yield
    except OSError as error:
        raise SpecError(f"{out} can't be written to: {error.strerror or error}; pass another {option}") from error
