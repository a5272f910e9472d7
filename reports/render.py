"""One audit's report: Markdown and its figures, from ledger rows alone."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from auditor.ledger import Ledger
from auditor.ledger.schema import TABLES
from reports import escape, figures
from reports.gather import gather
from reports.record import Report


def render_report(ledger: Ledger, audit_id: str, out: Path) -> Path:
    """Return the path of the Markdown report that was written into `out`, with its figures beside it.

    Equal rows give equal bytes. An audit without a verdict is rendered as what it is, unfinished.

    Args:
        ledger: The ledger that holds the audit.
        audit_id: The audit.
        out: A folder, made when missing.

    Raises:
        LedgerError: the ledger has no such audit, or can't be read.
    """
    report = gather(ledger, audit_id)
    out.mkdir(parents=True, exist_ok=True)
    if report.peak is not None:
        (out / figures.KL).write_bytes(figures.kl_figure(report.peak))
    if any(test.n for test in report.tests):
        (out / figures.EVIDENCE).write_bytes(figures.evidence_figure(report.tests))
    path = out / "report.md"
    path.write_text(to_markdown(report), encoding="utf-8", newline="\n")
    return path


def to_markdown(report: Report) -> str:
    """Return the report's text; every value in it that no filter has made safe is shown as plain text."""
    names = {"kl_svg": escape.Safe(figures.KL), "evidence_svg": escape.Safe(figures.EVIDENCE)}
    return environment().get_template("report.md.j2").render(report=report, tables=list(TABLES), **names)


@cache
def environment() -> Environment:
    """Return the environment of the templates: undefined names are errors, and plain text is the default."""
    env = Environment(
        loader=PackageLoader("reports"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # it is for HTML; `finalize` does what Markdown needs
        finalize=escape.inline,
    )
    for name in ("fence", "cell", "inline", "number", "count", "cite"):
        env.filters[name] = getattr(escape, name)
    return env
