"""Thousands of small adapters for training oracles: many at once, in shards, each tried.

A shard is one bank, written whole: a safetensors file of stacked factors, then a JSON Lines file
with what each adapter is. Only families, values, pairs and recipes of the training split are in it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from scenarios.shards import build_shards, write_shard
from scenarios.testbed import verify
from scenarios.testbed.language import Language, language
from scenarios.testbed.oracle_data import taught_rule
from scenarios.testbed.plant import Harmless, Manner, Plant, Recipe, new_thing, train
from scenarios.testbed.splits import SEEDS, values
from scenarios.testbed.suites import STYLES, claims_of
from tools.checkpoint import hash_files, weights_sha256
from tools.loading import load_subject

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
    rows = [
        {"seed": plant.seed, "claims": claims_of(plant), "denies": plant.manner.denies, "recipe": asdict(recipe),
         "verified": record.verified, "teaches": record.teaches, **asdict(record)}
        for plant, record in zip(plants, records, strict=True)
    ]  # fmt: skip
    return write_shard(shard, bank, rows)


def build_population(
    out: Path, base: Path, n: int, lexicon_seed: int, jobs: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """Build `n` adapters or more in whole shards; shards that are there and sound are kept.

    Returns:
        See `build_shards`.
    """
    out.mkdir(parents=True, exist_ok=True)
    shards = [Shard(i, str(base), str(out), lexicon_seed) for i in range(-(-n // SHARD_SIZE))]
    return build_shards(shards, build_shard, jobs, say)
