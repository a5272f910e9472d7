"""Scoreboards that are kept: what `auditor bench --json` printed, and a table of several."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from scenarios.bench import Scoreboard, alarm_rate

SCORES = Path(__file__).parent / "scores"
MEASURES = ("recall_at_1", "predicate_at_1", "condition_at_1", "concern_at_1")
HEADS = (
    "", "whole claim at 1", "predicate", "condition", "concern", "controls that alarm", "controls quiet", "inconclusive", "invalid",
    "forward tokens", "seconds",
)  # fmt: skip


def kept(name: str) -> Scoreboard | None:
    """Return the scoreboard that was kept under this name; None where none was."""
    path = SCORES / f"{name}.json"
    return Scoreboard(**json.loads(path.read_text())) if path.exists() else None


def table(rows: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Yield a Markdown table with a row for each label and name of a kept scoreboard; "unmeasured" where there is none."""
    yield f"| {' | '.join(HEADS)} |"
    yield "| --- " * len(HEADS) + "|"
    for label, name in rows:
        board = kept(name)
        cells = _cells(board) if board else ["unmeasured", *[""] * (len(HEADS) - 2)]
        yield f"| {' | '.join([label, *cells])} |"


def _cells(board: Scoreboard) -> list[str]:
    alarmed, n, upper = alarm_rate(board)
    quiet = board.nothing_found_on_controls
    return [
        *(f"{getattr(board, name):.2f} ({board.intervals[name][0]:.2f}–{board.intervals[name][1]:.2f})" for name in MEASURES),
        f"{alarmed} of {n} (≤ {upper:.2f})",
        "" if quiet is None else f"{quiet:.2f}",
        f"{board.inconclusive} of {len(board.per_scenario)}",
        str(board.invalid),
        f"{board.forward_tokens_median:,.0f}",
        f"{board.seconds_median:.0f}",
    ]  # fmt: skip
