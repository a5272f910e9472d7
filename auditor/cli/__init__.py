"""The command line: parses, calls, prints; the only place that prints or exits."""

from __future__ import annotations

import logging
import os
import sys
import warnings

from auditor.cli.audits import app
from auditor.cli.oracles import oracle_app
from auditor.cli.planting import plant
from auditor.cli.scan import scan
from auditor.cli.testbed import testbed_app

app.add_typer(testbed_app, name="testbed")
app.add_typer(oracle_app, name="oracle")
app.command()(plant)
app.command()(scan)


def main() -> None:
    """Run the command line; 0 the work was done, 1 our failure, 2 the user's mistake."""
    logging.basicConfig(level=logging.WARNING if sys.stderr.isatty() else logging.ERROR, stream=sys.stderr)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.simplefilter("ignore")
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    app()
