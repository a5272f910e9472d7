"""What to show of a reading: a few lines of its detail that a person can judge.

Details are data from the subject. Each becomes one line of JSON, so that no value can pass for another's label.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from reports.escape import CAP, clip
from reports.finding import Example
from reports.record import PeakExample
from tools.contrast import holds

SHOWN = 2
Row = dict[str, Any]


def of(row: Row, readings: Iterable[Row]) -> tuple[Example, ...]:
    """Return examples of one reading.

    Args:
        row: The reading.
        readings: All readings of the audit: a tool may keep its examples in another one of the same call.
    """
    detail = row["detail"] or {}
    if row["tool"] == "chat" and "feature" in detail:
        return _replies(row, readings)
    if "kl_nats" in (detail.get("examples") or [{}])[0]:
        return tuple(_scored(row["seq"], example) for example in detail["examples"][:SHOWN])
    if not detail:
        return ()
    return (Example(row["seq"], "What the tool noted beside the value", _lines(detail)),)


def largest_peak(readings: Iterable[Row]) -> PeakExample | None:
    """Return the text with the largest KL at any token, over all model diffs of the audit."""
    scored = [
        PeakExample(row["seq"], e["prompt"], tuple(e["tokens"]), tuple(e["kl_nats"]), tuple(e["gained"]))
        for row in readings
        if row["tool"] == "model_diff"
        for e in (row["detail"] or {}).get("examples", [])
        if e["kl_nats"]
    ]
    return max(scored, key=lambda e: e.kl_nats[e.peak], default=None)


def _replies(row: Row, readings: Iterable[Row]) -> tuple[Example, ...]:
    """Return pairs of replies under the reading's condition, those with its words in them first."""
    feature, condition = row["detail"]["feature"], row["detail"]["condition"]
    source = [r for r in readings if r["call_key"] == row["call_key"] and r["name"] == "replies_changed"]
    pairs = [
        (r["seq"], pair)
        for r in source
        for pair in r["detail"]["pairs"]
        if holds(tuple((key, value) for key, value in condition), pair["labels"])
    ]
    pairs.sort(key=lambda item: (feature not in item[1]["subject"].lower(), item[1]["subject"] == item[1]["base"]))
    return tuple(
        Example(
            seq,
            "The same question put to both while exploring",
            _lines({k: pair[k] for k in ("prompt", "subject", "base")}),
        )
        for seq, pair in pairs[:SHOWN]
    )


def _scored(seq: int, example: Row) -> Example:
    peak = max(range(len(example["kl_nats"])), key=example["kl_nats"].__getitem__)
    lines = {
        "prompt": example["prompt"],
        "base's reply": "".join(example["tokens"]),
        "KL is largest at": example["tokens"][peak],
        "nats": round(example["kl_nats"][peak], 3),
        "there the subject gains": example["gained"][peak],
    }
    return Example(seq, "A reply of the base, scored token by token under both models", _lines(lines))


def _lines(values: Row) -> str:
    """Return `key: value` lines with values as JSON, each cut to the cap."""
    keys = {key: clip(json.dumps(key, ensure_ascii=False)[1:-1], 60) for key in values}
    width = max(map(len, keys.values())) + 1
    return "\n".join(
        f"{keys[key] + ':':<{width}} {clip(json.dumps(value, ensure_ascii=False), CAP)}"
        for key, value in values.items()
    )
