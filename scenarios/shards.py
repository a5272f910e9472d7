"""A population of adapters in shards, each one bank written whole: stacked factors, then a line for each adapter that says what it is."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tqdm import tqdm

from auditor.errors import SpecError
from scenarios.testbed.lora_bank import LoraBank
from tools.workers import each


class Shard(Protocol):
    """One picklable piece of work: which shard of which population, on which base."""

    @property
    def made_on(self) -> dict[str, object]:
        """Return what it is trained on: a shard of anything else is not this one."""
        ...

    @property
    def weights(self) -> Path:
        """Return the file of the factors."""
        ...


S = TypeVar("S", bound=Shard)


def labels_of(shard: Shard) -> Path:
    """Return the file of what each adapter is; it is written last."""
    return shard.weights.with_suffix(".jsonl")


def write_shard(shard: Shard, bank: LoraBank, rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Write a bank's factors, then what each adapter is; return how many there are, see `counted`.

    Args:
        shard: Where, and what it was made on.
        bank: Trained.
        rows: Of each adapter its `claims`, whether it `teaches` and is `verified`, and what else is known of it.
    """
    tensors = {
        f"{part}.{name}": getattr(module, part).detach().cpu().half().contiguous()
        for name, module in bank.modules.items()
        for part in ("lora_A", "lora_B")
    }
    partial = shard.weights.with_suffix(".partial")
    save_file(tensors, partial, metadata={"alpha/rank": str(bank.alpha / bank.rank)})
    partial.replace(shard.weights)
    digest, made_on = hashlib.sha256(shard.weights.read_bytes()).hexdigest(), shard.made_on
    with partial.open("w") as file:
        for i, row in enumerate(rows):
            file.write(json.dumps({"row": i, **row, "sha256": digest, **made_on}) + "\n")
    partial.replace(labels_of(shard))
    return counted(rows)


def counted(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Return how many adapters there are, how many teach and how many are verified."""
    return {
        "adapters": len(rows),
        "teach": sum(row["teaches"] for row in rows),
        "verified": sum(row["verified"] for row in rows),
    }


def read_labels(labels: Path, made_on: dict[str, object] | None = None) -> list[dict[str, Any]]:
    """Return what each adapter of a shard is, its factors checked against their hash.

    Raises:
        SpecError: the shard is cut short or damaged, or was made on something else.
    """
    weights = labels.with_suffix(".safetensors")
    try:
        rows = [json.loads(line) for line in labels.read_text().splitlines()]
        with safe_open(weights, framework="pt") as opened:
            keys = list(opened.keys())
        whole = (
            rows
            and keys
            and "teaches" in rows[0]
            and hashlib.sha256(weights.read_bytes()).hexdigest() == rows[0]["sha256"]
        )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise SpecError(f"{weights.name} can't be read ({error}); build the population again to renew it") from error
    if not whole:
        raise SpecError(f"{weights.name} is not what was written; build the population again to renew it")
    if any(rows[0].get(key) != value for key, value in (made_on or {}).items()):
        raise SpecError(
            f"{weights.name} was made on another base, or with other values or steps; build the population again to renew it"
        )
    return rows


def build_shards(
    shards: Sequence[S], build: Callable[[S], dict[str, int]], jobs: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """Build the shards; those that are there and sound are kept.

    Returns:
        `adapters`, `teach`, `verified`, `shards`, `seconds` and `per_hour` (of what this run built; None when it built nothing).
    """
    kept, todo = [], []
    for shard in shards:
        try:
            kept += read_labels(labels_of(shard), shard.made_on)
        except SpecError as error:
            if shard.weights.exists():
                say(str(error))
            todo.append(shard)
    began = time.monotonic()
    counts, built = counted(kept), 0
    for _, done in tqdm(each(build, todo, jobs), total=len(todo), disable=None, desc="shards"):
        counts = {key: counts[key] + done[key] for key in counts}
        built += done["adapters"]
    seconds = time.monotonic() - began
    return {**counts, "shards": len(shards), "seconds": seconds, "per_hour": built / seconds * 3600 if built else None}
