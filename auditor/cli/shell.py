"""What every command shares: options, errors as exit codes, progress, folders that can be written."""

from __future__ import annotations

import errno
import math
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, ParamSpec, TypeVar

import typer

from tools.errors import AuditorError

if TYPE_CHECKING:
    from auditor.outlook import Outlook


def on_or_off(value: str | None) -> str | None:
    """Return the value of an option that is on or off.

    Raises:
        BadParameter: it is neither.
    """
    if value not in (None, "on", "off"):
        raise typer.BadParameter(f"{value!r} is neither on nor off")
    return value


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
Thinking = Annotated[
    str | None,
    typer.Option(
        callback=on_or_off,
        help="on or off: whether the subject thinks before it answers [default: off where that can be asked for]",
    ),
]
NewTokens = Annotated[
    int | None,
    typer.Option(
        "--max-new-tokens", min=1, max=1024, help="Tokens of an answer, after a thought [default: 96, a scenario's own]"
    ),
]
Temperature = Annotated[float | None, typer.Option(min=0, max=2, help="Of sampled replies; 0 is greedy [default: 0.7]")]
Judge = Annotated[str | None, typer.Option(help="Who answers questions about replies: base, or PROVIDER:NAME.")]
Hypotheses = Annotated[
    list[str] | None,
    typer.Option(
        "--hypothesis", help='A sentence that is tested first, e.g. "it refuses when the user is a nurse"; repeatable.'
    ),
]
Failures = Annotated[
    Path | None,
    typer.Option("--failures", help="JSON Lines {messages}: transcripts that went wrong, which are looked at first."),
]
NoCatalogue = Annotated[
    bool, typer.Option("--no-catalogue", help="Go without a catalogue: nothing to try early, no families.")
]
MaxTrials = Annotated[
    int | None, typer.Option(min=4, max=4096, help="Pairs of a test, before it gets more [default: 64]")
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Say nothing of what is happening.")]
DEFAULT_DB = Path("auditor.db")
DEBUG = "AUDITOR_DEBUG"
"""The environment variable that has the traceback of an unexpected error printed."""
P = ParamSpec("P")
R = TypeVar("R")


def command(function: Callable[P, R]) -> Callable[P, R]:
    """Turn every error into one line on stderr and its exit code: a traceback is shown to those who ask for it."""

    @wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except AuditorError as error:
            fail(str(error), error.exit_code)
        except KeyboardInterrupt:
            fail("interrupted; run the command again: what it had finished and can go on from is kept", 1)
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno == errno.EPIPE:  # whoever read the output has left
                raise
            if told := _of_a_path(error):
                fail(told, 2)
            _unexpected(error)

    return wrapped


def _of_a_path(error: Exception) -> str:
    """Return what the system says of a file that was named, an empty text for any other error."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{str(error.filename)[:200]}: {error.strerror}; pass another path, or mend this one"
    loop = isinstance(error, RuntimeError) and str(error).startswith("Symlink loop")  # as Python before 3.13 says it
    return f"{str(error)[:200]}; pass another path, or mend this one" if loop else ""


def _unexpected(error: Exception) -> NoReturn:
    """Say in one line what went wrong that nobody foresaw; with `DEBUG` set, the traceback first."""
    if os.environ.get(DEBUG):
        traceback.print_exception(error)
    said = " ".join(str(error).split())[:400]
    fail(f"{type(error).__name__}: {said}; this was not foreseen, {DEBUG}=1 in the environment shows where", 1)


def fail(message: str, code: int) -> NoReturn:
    """Say what is wrong on stderr, and exit; a terminal that is gone is told nothing."""
    with suppress(OSError):
        typer.echo(f"auditor: {one_line(message)}", err=True)
    raise typer.Exit(code)


def note(message: str) -> None:
    """Say on stderr, in one line, what a person should know before work begins."""
    with suppress(OSError):
        typer.echo(f"note: {one_line(message)}", err=True)


def plain(text: str) -> str:
    """Return text with control characters shown as escapes: it may quote what a subject wrote."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def one_line(text: str) -> str:
    """Return text on one line, plain: the lines of another's message joined."""
    return plain(" ".join(line.strip() for line in text.splitlines() if line.strip()))


def typed_again(context: typer.Context, *more: str) -> str:
    """Return the command line under way as it can be typed again, with `more` behind it; defaults are left out."""
    parts = ["auditor", str(context.info_name)]
    for given in context.command.params:
        name, value = str(given.name), context.params.get(str(given.name))
        source = context.get_parameter_source(name)
        if given.param_type_name == "argument":
            parts.append(str(value))
        elif value is not None and source is not None and source.name != "DEFAULT" and given.opts[0] not in more:
            parts += [given.opts[0]] if value is True else [given.opts[0], str(value)]
    return shlex.join([*parts, *more])


def a_number(value: float | None) -> float | None:
    """Return an option's number, which has to be one: `nan` passes every bound, and `inf` most."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is no finite number.")
    return value


class Progress:
    """Says on stderr what has happened: a bar on a terminal, one plain line a step elsewhere, nothing when quiet."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self.bar: Any = None

    def say(self, text: str, outlook: Outlook) -> None:
        """Say what has just happened, and where the audit stands."""
        if self.quiet:
            return
        with suppress(OSError):  # a terminal that is gone stops no audit
            self._write(f"{outlook.audit_id} · {one_line(text)}", outlook)

    def _write(self, line: str, outlook: Outlook) -> None:
        if not sys.stderr.isatty():
            typer.echo(f"{line} [{outlook.spent:,} of {outlook.budget:,} tokens{_left(outlook)}]", err=True)
            return
        if self.bar is None:
            from tqdm import tqdm

            self.bar = tqdm(file=sys.stderr, unit=" tokens", leave=False, dynamic_ncols=True,
                            bar_format="{desc} {bar} {n:,.0f} of about {total:,.0f} tokens {postfix}")  # fmt: skip
        self.bar.write(line, file=sys.stderr)
        self.bar.total, self.bar.n = outlook.spent + outlook.to_come, outlook.spent
        self.bar.set_description_str(outlook.audit_id, refresh=False)
        self.bar.set_postfix_str(_left(outlook).removeprefix(", "))

    def close(self) -> None:
        """Take the bar off the terminal."""
        if self.bar is not None:
            with suppress(OSError):
                self.bar.close()


def _left(outlook: Outlook) -> str:
    """Return the seconds to come in words, empty where nothing was measured yet."""
    seconds = outlook.seconds_left
    if seconds is None:
        return ""
    return f", about {seconds:.0f} s to come" if seconds < 120 else f", about {seconds / 60:.0f} min to come"


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
