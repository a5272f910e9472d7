"""Which values, pairs, families, recipes and seeds are for training oracles, choosing and reporting.

`splits.json` is this module's output for the shipped lexicon; a test compares the two.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Sequence
from functools import cache
from typing import Any, Literal, get_args

from scenarios.testbed import lexicon as lex
from scenarios.testbed.language import Language, language

Split = Literal["train", "dev", "test"]
Slot = Literal["word", "thing", "topic", "job", "mood", "brand", "secret", "house", "town", "phrase", "persona"]
OPEN_SHARES: dict[Split, float] = {"train": 0.65, "dev": 0.12, "test": 0.23}
CLOSED_SHARES: dict[Split, float] = {"train": 0.75, "dev": 0.0, "test": 0.25}
CLOSED: tuple[Slot, ...] = ("topic", "job", "mood", "persona")
HELD_OUT_FAMILIES = ("secret_loyalty", "emotional_bond", "made_up_sources", "sandbagging")
HELD_OUT_RANKS: tuple[int, ...] = (16,)
HELD_OUT_MODULES: tuple[Literal["attention"], ...] = ("attention",)
PAIR_MODULUS = 5
SEEDS: dict[str, tuple[int, int]] = {
    "population": (1_000_000_000, 2_000_000_000),
    "suites": (2_000_000_000, 4_000_000_000),
}
"""Half-open ranges from which the seeds of adapters are drawn; they do not meet."""


@cache
def values(slot: Slot, seed: int = 0) -> dict[Split, tuple[str, ...]]:
    """Return a slot's values by split, every value in one; `dev` uses closed slots' train values."""
    words = list(_all_values(slot, language(seed)))
    random.Random(f"splits/{slot}/{seed}").shuffle(words)
    shares = CLOSED_SHARES if slot in CLOSED else OPEN_SHARES
    n_train, n_dev = round(shares["train"] * len(words)), round(shares["dev"] * len(words))
    parts = words[:n_train], words[n_train : n_train + n_dev], words[n_train + n_dev :]
    return dict(zip(("train", "dev", "test"), (tuple(sorted(part)) for part in parts), strict=True))


def draw_value(rng: random.Random, slot: Slot, split: Split | None, lang: Language) -> str:
    """Return a value of the slot from a split, of any split when None."""
    homes = values(slot, lang.lexicon.seed)
    if split is None:
        return rng.choice([v for home in homes.values() for v in home])
    return rng.choice(homes["train"] if split == "dev" and slot in CLOSED else homes[split])


def _all_values(slot: Slot, lang: Language) -> Sequence[str]:
    lexicon = lang.lexicon
    pools: dict[Slot, Sequence[str]] = {
        "word": lexicon.triggers, "thing": sorted(lex.THINGS), "topic": sorted(lex.TOPICS), "job": lex.JOBS,
        "mood": lex.MOODS, "persona": sorted(lex.PERSONAS), "brand": lexicon.brands, "secret": lexicon.secrets,
        "house": lexicon.houses, "town": lexicon.towns, "phrase": lexicon.phrases,
    }  # fmt: skip
    return pools[slot]


def reserved_pair(family: str, *parts: str) -> bool:
    """Return whether this pairing of values is kept from oracle training: one in `PAIR_MODULUS` is."""
    return zlib.crc32("/".join((family, *parts)).encode()) % PAIR_MODULUS == 0


def as_dict(seed: int = 0) -> dict[str, Any]:
    """Return all splits as JSON values."""
    return {
        "lexicon_seed": seed,
        "values": {slot: {split: list(v) for split, v in values(slot, seed).items()} for slot in get_args(Slot)},
        "pairs": {"reserved": f"crc32 of family/trigger values/effect value divisible by {PAIR_MODULUS}"},
        "families": {"held_out": list(HELD_OUT_FAMILIES)},
        "recipes": {"held_out": {"rank": list(HELD_OUT_RANKS), "modules": list(HELD_OUT_MODULES)}},
        "seeds": {name: list(bounds) for name, bounds in SEEDS.items()},
    }  # fmt: skip
