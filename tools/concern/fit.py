"""Fit the reader of concern to one half of the labelled sentences, and measure it on the other half."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from tools.claims.claim import Category, Level
from tools.concern.reader import SURE, WEIGHTS, Kind, Reader, given

SENTENCES, MEASURED = (Path(__file__).parent / name for name in ("sentences.jsonl", "measured.json"))
RIDGE, SCALE, STEPS, FEWEST = 1e-3, 10.0, 60, 10
"""Weight of the squared weights in the loss, scale of what is given, steps of the optimiser, and sentences that make a kind of its own."""
GROUPS = (2, 4)
"""Sentences that are read together, to measure what a finding's several sentences tell."""


class Labelled(BaseModel):
    """A sentence as a reply has it, with the concern that a person gave it; `author` wrote it, and each half has its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str
    category: Category
    level: Level
    half: Literal["fit", "held"]
    author: int


def labelled(half: Literal["fit", "held"]) -> list[Labelled]:
    """Return one half of the labelled sentences."""
    rows = [Labelled.model_validate_json(line) for line in SENTENCES.read_text().splitlines()]
    return [row for row in rows if row.half == half]


def fit(rows: Sequence[Labelled]) -> Reader:
    """Return the reader that logistic regression makes of some sentences."""
    counts = Counter((row.category, row.level) for row in rows)
    usual = {
        category: max((n, level) for (one, level), n in counts.items() if one == category)[1] for category, _ in counts
    }
    kinds = sorted({_kind(row, counts, usual) for row in rows})
    wanted = torch.tensor([kinds.index(_kind(row, counts, usual)) for row in rows])
    texts = SCALE * given([row.text for row in rows])
    weight, bias = (
        torch.zeros(texts.shape[1], len(kinds), requires_grad=True),
        torch.zeros(len(kinds), requires_grad=True),
    )
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=STEPS)

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(texts @ weight + bias, wanted) + RIDGE * weight.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return Reader(tuple(kinds), SCALE * weight.detach(), bias.detach())


def _kind(row: Labelled, counts: Counter[tuple[Category, Level]], usual: dict[Category, Level]) -> Kind:
    """Return a sentence's category with its level, or with the usual one where few have its own."""
    seen = counts[row.category, row.level] >= FEWEST
    return row.category, row.level if seen else usual[row.category]


def save(reader: Reader, path: Path = WEIGHTS) -> None:
    """Write a reader in 16 bit."""
    kinds = "\n".join(f"{category} | {level}" for category, level in reader.kinds)
    save_file(
        {"weight": reader.weight.half().contiguous(), "bias": reader.bias.half()}, path, metadata={"kinds": kinds}
    )


def measure(reader: Reader, rows: Sequence[Labelled]) -> dict[str, Any]:
    """Return how a reader does on single sentences, and on some of one kind together.

    Returns:
        `categories` (by name `n`, `precision` and `recall` of what is told, None where nothing is), `told` (share of sentences that
        a category is told of), `right` (of these), `level` (share right of those whose category is), `harm_recall` (share of
        sentences of medium level or worse that are told to be so), `alarms` (share of all others that are), and `groups`: by how
        many sentences of one kind are read together, `told`, `right` and `alarms` (share of ordinary groups that a category is
        told of).
    """
    told = [reader.concern([row.text]) for row in rows]
    categories = {}
    for name in sorted({row.category for row in rows} - {"not judged"}):
        own, said = ([one == name for one in side] for side in ([r.category for r in rows], [t.category for t in told]))
        both = sum(a and b for a, b in zip(own, said, strict=True))
        categories[name] = {
            "n": sum(own),
            "precision": both / sum(said) if any(said) else None,
            "recall": both / sum(own),
        }
    sure = [(row, one) for row, one in zip(rows, told, strict=True) if one.category != "not judged"]
    right = [(row, one) for row, one in sure if row.category == one.category]
    grave = [(row.level in ("high", "medium"), one.grave) for row, one in zip(rows, told, strict=True)]
    return {
        "n": len(rows), "sure": SURE, "categories": categories, "told": len(sure) / len(rows), "right": len(right) / max(1, len(sure)),
        "level": sum(row.level == one.level for row, one in right) / max(1, len(right)),
        "harm_recall": sum(b for a, b in grave if a) / sum(a for a, _ in grave),
        "alarms": sum(b for a, b in grave if not a) / sum(not a for a, _ in grave),
        "groups": {str(size): _grouped(reader, rows, size) for size in GROUPS},
    }  # fmt: skip


def _grouped(reader: Reader, rows: Sequence[Labelled], size: int) -> dict[str, float]:
    """Return what is told of `size` sentences of one kind and author at a time."""
    of: dict[tuple[Category, Level, int], list[str]] = {}
    for row in rows:
        of.setdefault((row.category, row.level, row.author), []).append(row.text)
    told = [
        (category, reader.concern(texts[i : i + size]).category)
        for (category, _, _), texts in of.items() for i in range(0, len(texts) - size + 1, size)
    ]  # fmt: skip
    sure = [(own, said) for own, said in told if said != "not judged"]
    ordinary = [said for own, said in told if own == "not judged"]
    return {
        "n": len(told),
        "told": len(sure) / len(told),
        "right": sum(own == said for own, said in sure) / max(1, len(sure)),
        "alarms": sum(said != "not judged" for said in ordinary) / len(ordinary),
    }


def across_authors(rows: Sequence[Labelled]) -> list[dict[str, Any]]:
    """Return what `measure` says of each author's sentences for a reader of the others'."""
    authors = sorted({row.author for row in rows})
    return [
        measure(fit([row for row in rows if row.author != one]), [row for row in rows if row.author == one])
        for one in authors
    ]


def table(measured: dict[str, Any]) -> list[str]:
    """Return what was measured as the lines of a table."""
    lines = ["| category | sentences | precision | recall |", "| --- | --- | --- | --- |"]
    for name, one in measured["categories"].items():
        precision = "none told" if one["precision"] is None else f"{one['precision']:.2f}"
        lines.append(f"| {name} | {one['n']} | {precision} | {one['recall']:.2f} |")
    told = measured["told"] * measured["n"]
    lines.append(f"| all | {measured['n']} | {measured['right']:.2f} of {told:.0f} told | |")
    return lines


def renew() -> dict[str, Any]:
    """Fit the reader anew, write it and what it does on the held-out half, and return that."""
    reader = fit(labelled("fit"))
    save(reader)
    found = measure(reader, labelled("held"))
    MEASURED.write_text(json.dumps(found, indent=1) + "\n")
    return found
