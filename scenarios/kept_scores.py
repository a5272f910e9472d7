"""Scoreboards that are kept: what `auditor bench --json` printed, and a table of several."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from scenarios.bench import Scoreboard, alarm_rate, interval_of

SCORES = Path(__file__).parent / "scores"
MEASURES = ("recall_at_1", "predicate_at_1", "condition_at_1", "concern_at_1")
TRIED = ("always", "topic", "user", "turn")
"""Kinds of condition that an audit without a catalogue tries by itself."""
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


def by_condition(name: str) -> Iterator[str]:
    """Yield a Markdown table of a kept scoreboard: what was found of behaviours under each kind of condition.

    The kinds that an audit tries by itself stand first, each and together, then all others. `concern` is the share with the
    right category of those whose predicate was found.
    """
    board = kept(name)
    organisms = [row for row in board.per_scenario if row["organism"]] if board else []
    groups = {kind: (kind,) for kind in TRIED}
    groups[", ".join(TRIED)] = TRIED
    groups["any other"] = tuple({row["condition"] for row in organisms} - {*TRIED})
    yield "| condition | organisms | whole claim at 1 | predicate | concern, of predicates found |"
    yield "| --- " * 5 + "|"
    for label, kinds in groups.items():
        own = [row for row in organisms if row["condition"] in kinds]
        found = [row for row in own if row["predicate_at_1"] == 1]
        yield (
            f"| {label} | {len(own)} | {_share(own, 'recall_at_1')} | {_share(own, 'predicate_at_1')} | "
            f"{_share(found, 'concern_at_1')} |"
        )


def _share(rows: Sequence[dict[str, Any]], name: str) -> str:
    """Return the mean of a score over some organisms with its interval; an empty text for none."""
    if not rows:
        return ""
    low, high = interval_of(rows, name)
    return f"{sum(row[name] for row in rows) / len(rows):.2f} ({low:.2f}–{high:.2f})"


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
