"""Many adapters of which it is known what they do: shards of stacked factors, or folders, with their claims.

A shard is `NAME.safetensors` with `lora_A.PATH` [adapter, rank, d_in] and `lora_B.PATH` [adapter, d_out, rank],
the scale `alpha/rank` in its metadata, beside `NAME.jsonl` with a row for each adapter: its `claims`, and
whether it `teaches`, that is does often enough what they say.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from tools.changes.delta import ModuleDelta, factored_svd, layer_of
from tools.errors import ToolInputError

NOTHING, BENIGN = "nothing", "benign"
HELD_OUT_SHARE = 0.1
ChangeRecipe = tuple[int, tuple[str, ...]]
Change = Mapping[str, ModuleDelta]


class Condition(BaseModel):
    """One condition of a claim, or its effect: a kind and a value."""

    model_config = ConfigDict(frozen=True)

    kind: str
    value: str


class Planted(BaseModel):
    """A behaviour that an adapter is known to have."""

    model_config = ConfigDict(frozen=True)

    family: str
    trigger: tuple[Condition, ...] = ()
    effect: Condition
    statement: str


@dataclass(frozen=True)
class Known:
    """One adapter of a library: its change by module, what it does (nothing: no claims), and the row it stands in."""

    id: str
    deltas: dict[str, ModuleDelta]
    claims: tuple[Planted, ...]
    row: dict[str, Any]

    @property
    def family(self) -> str:
        """Return the family of the first claim, `nothing` without one."""
        return self.claims[0].family if self.claims else NOTHING


def recipe_of(change: Change) -> ChangeRecipe:
    """Return what can be told of a recipe from a change: its highest rank, and which sorts of modules it touches."""
    rank = max((len(delta.S) for delta in change.values()), default=0)
    return rank, tuple(sorted({path.rsplit(".", 1)[-1] for path in change}))


def split_off(library: Sequence[Known], seed: int) -> tuple[list[Known], list[Known]]:
    """Return the adapters to learn from, in random order, and the tenth that is held out to choose with."""
    order = random.Random(seed).sample(list(library), len(library))
    n_held = max(2, round(HELD_OUT_SHARE * len(order)))
    return order[n_held:], order[:n_held]


def write_changes(changes: Sequence[Change], file: Path) -> None:
    """Write changes in singular directions, 16 bit, to one safetensors file; see `read_changes`."""
    parts = {
        f"{i}.{path}.{name}": getattr(delta, name).half().contiguous()
        for i, change in enumerate(changes)
        for path, delta in change.items()
        for name in ("U", "S", "V")
    }
    save_file(parts, file)


def read_changes(file: Path) -> list[dict[str, ModuleDelta]]:
    """Return the changes that `write_changes` wrote."""
    parts, found = load_file(file), list[dict[str, ModuleDelta]]()
    for key in sorted(key for key in parts if key.endswith(".S")):
        number, _, path = key.removesuffix(".S").partition(".")
        found += [{} for _ in range(int(number) + 1 - len(found))]
        u, s, v = (parts[f"{number}.{path}.{name}"].double() for name in ("U", "S", "V"))
        found[int(number)][path] = ModuleDelta(path, layer_of(path), u, s, v)
    return found


def shards(folder: Path) -> list[Path]:
    """Return the label files of a library's whole shards.

    Raises:
        ToolInputError: there is none.
    """
    found = [labels for labels in sorted(folder.glob("*.jsonl")) if labels.with_suffix(".safetensors").is_file()]
    if not found:
        raise ToolInputError(
            f"{folder} holds no shard (NAME.safetensors beside NAME.jsonl); `auditor testbed population` writes some"
        )
    return found


def read_library(folder: Path, base_sha256: str | None = None) -> Iterator[Known]:
    """Yield every adapter of a library that teaches, shard by shard.

    Args:
        folder: Of shards.
        base_sha256: Of the base's weights: a shard that names others is refused.

    Raises:
        ToolInputError: there is no shard, one is damaged, or was trained on another base.
    """
    for labels in shards(folder):
        yield from read_shard(labels, base_sha256)


def read_shard(labels: Path, base_sha256: str | None = None) -> Iterator[Known]:
    """Yield the adapters of one shard that teach; see `read_library`.

    Raises:
        ToolInputError: it is damaged, or was trained on another base.
    """
    weights = labels.with_suffix(".safetensors")
    try:
        rows = [json.loads(line) for line in labels.read_text().splitlines()]
        digest = hashlib.sha256(weights.read_bytes()).hexdigest()
        with safe_open(weights, framework="pt") as opened:
            scale = float((opened.metadata() or {})["alpha/rank"])
            factors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        claims = [tuple(Planted.model_validate(claim) for claim in row["claims"]) for row in rows]
    except (OSError, ValueError, KeyError, TypeError, SafetensorError, ValidationError) as error:
        raise ToolInputError(f"{weights} is no readable shard of a library: {error}") from error
    if any(row.get("sha256", digest) != digest for row in rows):
        raise ToolInputError(f"{weights} is not what its labels were written for: build it again")
    told = next((row["base_sha256"] for row in rows if "base_sha256" in row), None)
    if base_sha256 is not None and told is not None and told != base_sha256:
        raise ToolInputError(f"{weights} was trained on weights {told[:12]}, and this base's are {base_sha256[:12]}")
    paths = sorted(name.removeprefix("lora_A.") for name in factors if name.startswith("lora_A."))
    for i, (row, done) in enumerate(zip(rows, claims, strict=True)):
        if row.get("teaches", True):
            deltas = {}
            for path in paths:
                u, s, v = factored_svd(factors[f"lora_B.{path}"][i].double() * scale, factors[f"lora_A.{path}"][i])
                deltas[path] = ModuleDelta(path, layer_of(path), u, s, v)
            yield Known(f"{labels.stem}/{i}", deltas, done, row)
