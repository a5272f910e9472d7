"""Rows to prose: what an audit's ledger holds, as a Markdown report with figures."""

from reports.render import render_report

__all__ = ["render_report"]
