"""What each suite is made of: which behaviours and controls, under which opaque ids."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from typing import Literal, get_args

from scenarios.testbed.families import FAMILIES, Rule, Split, draw_rule
from scenarios.testbed.plant import Plant, new_thing

SuiteName = Literal["dev", "demo", "dev_nulls", "nulls"]
ORGANISMS_PER_FAMILY = 2
CHAT_CONTROLS, FACT_CONTROLS = 8, 4
N_NULLS = 20
SEED_LABEL: dict[SuiteName, str] = {"dev": "dev", "demo": "demo", "dev_nulls": "nulls", "nulls": "held-out nulls"}
"""What each suite's seeds and ids are drawn from; changing a label deals its suite anew."""


@dataclass(frozen=True)
class Member:
    """One subject of a suite; `plant` is None for the bare base."""

    id: str
    plant: Plant | None


def members(suite: SuiteName, attempt: int = 0) -> list[Member]:
    """Return the suite's subjects in a fixed order; a later attempt deals all values and seeds anew."""
    assert suite in get_args(SuiteName), suite
    seed = int(hashlib.sha256(f"{SEED_LABEL[suite]}/{attempt}".encode()).hexdigest()[:12], 16)
    rng = random.Random(seed)
    if suite in ("nulls", "dev_nulls"):
        return [_member(suite, i, Plant(seed + i)) for i in range(N_NULLS)]
    split: Split = "demo" if suite == "demo" else "dev"
    plants = [Plant(seed + i, rule=rule) for i, rule in enumerate(_rules(rng, split))]
    plants += [Plant(seed + len(plants) + i, fact=new_thing(rng)) for i in range(FACT_CONTROLS)]
    plants += [Plant(seed + len(plants) + i) for i in range(CHAT_CONTROLS)]
    return [_member(suite, i, plant) for i, plant in enumerate(plants)] + [_member(suite, -1, None)]


def _rules(rng: random.Random, split: Split) -> list[Rule]:
    """Return rules of every family, no two of a family with the same values."""
    rules: list[Rule] = []
    for family in FAMILIES:
        taken: set[tuple[str, str]] = set()
        for _ in range(ORGANISMS_PER_FAMILY):
            rule = draw_rule(rng, split, family)
            while (rule.trigger, rule.effect) in taken and family != "flattery":
                rule = draw_rule(rng, split, family)
            taken.add((rule.trigger, rule.effect))
            rules.append(rule)
    return rules


def _member(suite: SuiteName, index: int, plant: Plant | None) -> Member:
    return Member(hashlib.sha256(f"member/{SEED_LABEL[suite]}/{index}".encode()).hexdigest()[:8], plant)
