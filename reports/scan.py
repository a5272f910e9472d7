"""One page about one adapter that was looked at without running it, with a map of its layers."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from reports import escape, figures
from reports.render import environment

FEATURE_NAMES = {
    "log_norm": "logarithm of the change's norm",
    "stable_rank": "stable rank, mean over modules",
    "entropy": "entropy of the energy over directions (nats)",
    "top_share": "share of energy in each module's first direction",
    "late_share": "share of energy in the later half of the layers",
    "write_share": "share of energy in modules that write to the residual stream",
}


def render_scan(row: dict[str, Any], out: Path) -> Path:
    """Return the path of the page about one triage's row, written into `out` with its figure; equal rows, equal bytes."""
    out.mkdir(parents=True, exist_ok=True)
    name = page_name(row["path"])
    modules = row["drift"]["modules"] if row["drift"] else []
    if modules:
        (out / f"{name}.svg").write_bytes(figures.layer_figure(modules))
    page = out / f"{name}.md"
    text = (
        environment()
        .get_template("scan.md.j2")
        .render(row=row, features=FEATURE_NAMES, figure=escape.Safe(f"{name}.svg") if modules else None)
    )
    page.write_text(text, encoding="utf-8", newline="\n")
    return page


def page_name(path: str) -> str:
    """Return a file name for a folder: its own where that is plain, and a few digits, as two folders may share one."""
    own = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in Path(path).name)[:40] or "adapter"
    return f"{own}-{hashlib.sha256(os.fsencode(path)).hexdigest()[:6]}"
