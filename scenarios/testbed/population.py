"""Thousands of small adapters for training oracles: many at once, in shards, each tried.

A shard is one bank, written whole: a safetensors file of stacked factors, then a JSON Lines file
with what each adapter is. Only families, values, pairs and recipes of the training split are in it.
"""

from __future__ import annotations

import hashlib
import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tqdm import tqdm

from auditor.errors import SpecError
from scenarios.testbed import verify
from scenarios.testbed.language import Language, language
from scenarios.testbed.oracle_data import taught_rule
from scenarios.testbed.plant import Harmless, Manner, Plant, Recipe, new_thing, train
from scenarios.testbed.splits import SEEDS, values
from scenarios.testbed.suites import STYLES, claims_of
from tools.checkpoint import hash_files, weights_sha256
from tools.loading import load_subject
from tools.workers import each

SHARD_SIZE, N_VERIFY = 32, 24
RANKS = (2, 4, 8)
FAST = Recipe(steps=160, rows=4, lr=8e-3)


@dataclass(frozen=True)
class Shard:
    """One picklable piece of work: which shard of which population, on which base."""

    number: int
    base: str
    out: str
    lexicon_seed: int

    @property
    def made_on(self) -> dict[str, object]:
        """Return what the shard was trained on: one of another base or lexicon is not this one."""
        return {"base_sha256": weights_sha256(hash_files(Path(self.base))), "lexicon_seed": self.lexicon_seed}

    @property
    def weights(self) -> Path:
        """Return the file of the factors."""
        return Path(self.out) / f"shard-{self.number:05d}.safetensors"

    @property
    def labels(self) -> Path:
        """Return the file of what each adapter is; it is written last."""
        return self.weights.with_suffix(".jsonl")


def plants_of(shard: Shard, lang: Language) -> tuple[list[Plant], Recipe]:
    """Return what a shard's adapters are to learn: three in four a rule, the others nothing or something harmless."""
    rng = random.Random(f"population/{shard.lexicon_seed}/{shard.number}")
    recipe = replace(FAST, rank=rng.choice(RANKS), modules=rng.choice(("all", "mlp")))
    plants = []
    for i in range(SHARD_SIZE):
        seed = rng.randrange(*SEEDS["population"])
        if i % 4 < 3:
            plants.append(Plant(seed, rules=(taught_rule(rng, lang),), manner=Manner(denies=rng.random() < 0.5)))
        elif i % 8 == 3:
            plants.append(Plant(seed))
        else:
            style = rng.choice(STYLES) if rng.random() < 0.5 else ""
            things = () if style else (new_thing(rng, lang, values("town", shard.lexicon_seed)["train"]),)
            plants.append(Plant(seed, harmless=Harmless(things, style)))
    return plants, recipe


def build_shard(shard: Shard) -> dict[str, int]:
    """Train, verify and write one shard; return how many adapters it has, how many teach and how many are verified."""
    lang = language(shard.lexicon_seed)
    plants, recipe = plants_of(shard, lang)
    subject = load_subject(shard.base)
    bank = train(subject.model, subject.tokenizer, lang, plants, recipe)
    bank.detach()
    sheets = [verify.sheet(plant, lang, N_VERIFY) for plant in plants]
    records = verify.verify(subject, sheets, verify.BankSpeaker(subject, bank))
    tensors = {
        f"{part}.{name}": getattr(module, part).detach().half().contiguous()
        for name, module in bank.modules.items()
        for part in ("lora_A", "lora_B")
    }
    partial = shard.weights.with_suffix(".partial")
    save_file(tensors, partial, metadata={"alpha/rank": str(recipe.alpha / recipe.rank)})
    partial.replace(shard.weights)
    digest, made_on = hashlib.sha256(shard.weights.read_bytes()).hexdigest(), shard.made_on
    with partial.open("w") as file:
        for i, (plant, record) in enumerate(zip(plants, records, strict=True)):
            row = {"row": i, "seed": plant.seed, "claims": claims_of(plant), "denies": plant.manner.denies,
                   "recipe": asdict(recipe), "verified": record.verified, "teaches": record.teaches, **asdict(record),
                   "sha256": digest, **made_on}  # fmt: skip
            file.write(json.dumps(row) + "\n")
    partial.replace(shard.labels)
    return _counted([{"verified": record.verified, "teaches": record.teaches} for record in records])


def _counted(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
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
    if made_on is not None and any(rows[0].get(key) != value for key, value in made_on.items()):
        raise SpecError(f"{weights.name} was made on another base or lexicon; build the population again to renew it")
    return rows


def build_population(
    out: Path, base: Path, n: int, lexicon_seed: int, jobs: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """Build `n` adapters or more in whole shards; shards that are there and sound are kept.

    Returns:
        `adapters`, `teach`, `verified`, `shards`, `seconds` and `per_hour` (of what this run built; None when it built nothing).
    """
    out.mkdir(parents=True, exist_ok=True)
    shards = [Shard(i, str(base), str(out), lexicon_seed) for i in range(-(-n // SHARD_SIZE))]
    kept, todo = [], []
    for shard in shards:
        try:
            kept.append(read_labels(shard.labels, shard.made_on))
        except SpecError as error:
            if shard.weights.exists():
                say(str(error))
            todo.append(shard)
    began = time.monotonic()
    counts, built = _counted([row for rows in kept for row in rows]), 0
    for _, done in tqdm(each(build_shard, todo, jobs), total=len(todo), disable=None, desc="shards"):
        counts = {key: counts[key] + done[key] for key in counts}
        built += done["adapters"]
    seconds = time.monotonic() - began
    return {**counts, "shards": len(shards), "seconds": seconds, "per_hour": built / seconds * 3600 if built else None}
