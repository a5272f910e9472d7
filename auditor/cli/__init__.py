"""The command line: parses, calls, prints; the only place that prints or exits."""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
import warnings

from auditor.cli.audits import app
from auditor.cli.calibrating import calibrate
from auditor.cli.judges import judge_app
from auditor.cli.ledgers import grade, list_audits, report, verify
from auditor.cli.oracles import oracle_app
from auditor.cli.planting import plant
from auditor.cli.scan import scan
from auditor.cli.testbed import testbed_app

app.command("list")(list_audits)
for ledger_command in (report, verify, grade):
    app.command()(ledger_command)
app.add_typer(testbed_app, name="testbed")
app.add_typer(oracle_app, name="oracle")
app.add_typer(judge_app, name="judge")
app.command()(plant)
app.command()(calibrate)
app.command()(scan)


def main() -> None:
    """Run the command line; 0 the work was done, 1 our failure, 2 the user's mistake."""
    _open_streams()
    _stop_in_words()
    logging.basicConfig(level=logging.WARNING if sys.stderr.isatty() else logging.ERROR, stream=sys.stderr)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.simplefilter("ignore")
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    app()


def _open_streams() -> None:
    """Put /dev/null where a stream was closed, so that no file takes its number; write what an encoding lacks as escapes."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _stop_in_words() -> None:
    """Have an end from outside, or a terminal that is cut off, stop a command as Ctrl-C does; what is ignored stays so."""
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)
