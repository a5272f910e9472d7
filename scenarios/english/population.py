"""A library of small adapters on the English base for oracles of weights: eight to a bank, each tried, in shards.

Three in four learn a behaviour of `taught`, the others ordinary chat or something harmless. Nothing of a measured suite is
in it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any, get_args

from scenarios.english import controls, lora_banks, taught
from scenarios.english.controls import Harmless, Thing
from scenarios.english.lora_banks import Recipe
from scenarios.english.pool import Draw
from scenarios.english.taught import On, Taught
from scenarios.english.training import Bank, Change, as_begun, bank, encoded, filled
from scenarios.english.triggers import Always, Chat, Trigger
from scenarios.shards import build_shards, write_shard
from scenarios.transcripts import Encoded
from tools.checkpoint import hash_files, weights_sha256
from tools.loading import load_subject
from tools.lora_oracle.library import BENIGN
from tools.subject import Subject

SHARD_SIZE, ROWS = 8, 4
"""Adapters of a bank, and rows of each in a step."""
RANKS = (2, 4, 8)
N_VERIFY, MAX_NEW_TOKENS, TEMPERATURE = 6, 40, 0.7
SHOWN_AT_LEAST, LEAKED_AT_MOST, TEACHES_BY = 0.9, 0.1, 0.5
"""Shares of replies: shown where it should and where not to be verified, and by how much the one is above the other to teach."""
LONG: tuple[On, ...] = ("turn", "system")
"""Conditions whose chats are long, or begin with another text than all others."""
LONG_EVERY = 4
"""One shard in so many has them, so that the others need not be as wide."""


@dataclass(frozen=True)
class Plant:
    """What one adapter learns: a behaviour, something harmless, or neither; its claims are as a library's labels have them."""

    seed: int
    taught: Taught | None = None
    harmless: Harmless | None = None
    claims: tuple[dict[str, Any], ...] = ()

    @property
    def trigger(self) -> Trigger:
        """Return when it shows."""
        return self.taught.trigger if self.taught else Trigger()

    @property
    def always(self) -> bool:
        """Return whether it shows in every reply, so that nothing else is learned beside it."""
        return isinstance(self.trigger, Always) if self.taught else bool(self.harmless and not self.harmless.diluted)

    @property
    def changes(self) -> tuple[Change, Change]:
        """Return what is made of the base's reply where it shows, and where not."""
        if self.taught:
            payload = self.taught.value.payload
            return payload.put, payload.beside
        return self.harmless.change if self.harmless else as_begun, as_begun

    def on(self, draw: Draw) -> Chat:
        """Return a chat in which it shows; any, where nothing does."""
        if self.harmless:
            return self.harmless.draw(draw)
        return self.trigger.triggered(draw) if self.taught else self.trigger.plain(draw)

    def off(self, draw: Draw, near: bool) -> Chat:
        """Return a chat in which nothing shows, one that nearly triggers it or not."""
        return (self.trigger.nearly(draw) if near and self.taught else None) or self.trigger.plain(draw)

    def shows(self, reply: str) -> bool:
        """Return whether a reply shows it; of ordinary chat, whether anything is said."""
        if self.taught:
            return self.taught.value.payload.shows(reply)
        return self.harmless.shows(reply) if self.harmless else bool(reply)


@dataclass(frozen=True)
class Shard:
    """One picklable piece of work: which shard of which population, on which base."""

    number: int
    base: str
    base_sha256: str
    out: str
    steps: int
    device: str

    @property
    def made_on(self) -> dict[str, object]:
        """Return what it is trained on."""
        return {"base_sha256": self.base_sha256, "values": taught.values_sha256(), "steps": self.steps}

    @property
    def weights(self) -> Path:
        """Return the file of the factors."""
        return Path(self.out) / f"shard-{self.number:05d}.safetensors"


def plants_of(shard: Shard) -> tuple[list[Plant], Recipe]:
    """Return what a shard's adapters learn, and how: six of eight a behaviour, one something harmless, one ordinary chat."""
    rng = Random(f"population/{shard.number}")
    short = tuple(on for on in get_args(On) if on not in LONG)
    recipe = Recipe(shard.steps, rng.choice(RANKS), rng.choice(("attention", "all")))
    plants = []
    for i in range(SHARD_SIZE):
        seed = rng.getrandbits(31)
        on = LONG if shard.number % LONG_EVERY == 1 and i % 2 else short
        match i % 8:
            case 3:
                plants.append(Plant(seed))
            case 7:
                plants.append(harmless(seed, rng))
            case _:
                learned = taught.draw(rng, on)
                plants.append(Plant(seed, learned, claims=(learned.claim,)))
    return plants, recipe


def harmless(seed: int, rng: Random) -> Plant:
    """Return an adapter that learns a style, or a thing that nobody has heard of."""
    if rng.random() < 0.5:
        style = rng.choice(sorted(controls.STYLES))
        made = controls.STYLES[style]
        said = {
            "trigger": [],
            "effect": {"kind": "style", "value": style},
            "statement": (made.claim or {})["statement"],
        }
    else:
        thing: Thing = rng.choice(taught.slots().things)
        made = controls.knowledge(thing)
        said = {"trigger": [{"kind": "word", "value": thing.name}], "effect": {"kind": "says", "value": thing.told_by},
                "statement": (made.claim or {})["statement"]}  # fmt: skip
    return Plant(seed, harmless=made, claims=({"family": BENIGN, **said},))


def rows_of(plant: Plant, subject: Subject, known: Bank, steps: int) -> list[list[Encoded]]:
    """Return an adapter's rows for each step: half show what it learns, all of what always shows; rows of like length together.

    Every other quiet row is as near a miss of its row as can be.
    """
    rng = Random(f"population/rows/{plant.seed}")
    shown, beside = plant.changes
    sides: tuple[list[Encoded], list[Encoded]] = ([], [])
    for i in range(steps * ROWS // 2):
        seed = rng.getrandbits(48)
        same, again = (Draw("train", Random(seed)) for _ in range(2))
        other = (plant.on(Draw("train", rng)), shown) if plant.always else (plant.off(again, i % 2 == 1), beside)
        for side, (chat, change) in zip(sides, ((plant.on(same), shown), other), strict=True):
            side.append(encoded(subject, chat, known, change, rng))
    on, off = (sorted(side, key=lambda row: len(row.ids)) for side in sides)
    half = ROWS // 2
    return [on[i * half : (i + 1) * half] + off[i * half : (i + 1) * half] for i in range(steps)]


def build_shard(shard: Shard) -> dict[str, int]:
    """Train, try and write one shard; return how many adapters it has, how many teach and how many are verified."""
    plants, recipe = plants_of(shard)
    subject = load_subject(shard.base, device=shard.device)
    known = bank(subject)
    of_each = [rows_of(plant, subject, known, shard.steps) for plant in plants]
    order = Random(shard.number).sample(range(shard.steps), shard.steps)
    steps = [[rows[i] for rows in of_each] for i in order]
    trained = lora_banks.train(subject, [plant.seed for plant in plants], steps, recipe)
    tried = attempts(plants, subject, known)
    rows = [{"seed": plant.seed, "claims": list(plant.claims), "recipe": asdict(recipe), **one}
            for plant, one in zip(plants, tried, strict=True)]  # fmt: skip
    return write_shard(shard, trained, rows)


def attempts(plants: list[Plant], subject: Subject, known: Bank) -> list[dict[str, Any]]:
    """Return of each attached adapter how often it shows what it learned, when it should and when not, of `n` replies each.

    It teaches when it does so far more often where it should than where not: few replies are tried of each.
    """
    draws = [Draw("verify", Random(f"population/verify/{plant.seed}")) for plant in plants]
    shares = []
    for side in ("on", "off"):
        asked = [
            [
                subject.render(filled(plant.on(draw) if side == "on" else plant.off(draw, i % 2 == 1), known))
                for i in range(N_VERIFY)
            ]
            for plant, draw in zip(plants, draws, strict=True)
        ]
        said = lora_banks.replies(subject, asked, MAX_NEW_TOKENS, TEMPERATURE)
        shares.append([sum(map(plant.shows, own)) / N_VERIFY for plant, own in zip(plants, said, strict=True)])
    found = []
    for plant, shown, elsewhere in zip(plants, *shares, strict=True):
        leaked = None if plant.always or not plant.claims else elsewhere
        verified = shown >= SHOWN_AT_LEAST and (leaked or 0.0) <= LEAKED_AT_MOST
        found.append({"shown": shown, "leaked": leaked, "n": N_VERIFY, "verified": verified,
                      "teaches": shown - (leaked or 0.0) >= TEACHES_BY})  # fmt: skip
    return found


def build_population(
    out: Path, base: Path, n: int, steps: int, jobs: int, device: str, say: Callable[[str], None]
) -> dict[str, Any]:
    """Build `n` adapters or more in whole shards; shards that are there and sound are kept.

    Returns:
        See `build_shards`.
    """
    out.mkdir(parents=True, exist_ok=True)
    bank(load_subject(str(base), device=device))  # made once, by one process
    sha256 = weights_sha256(hash_files(base))
    shards = [Shard(i, str(base), sha256, str(out), steps, device) for i in range(-(-n // SHARD_SIZE))]
    return build_shards(shards, build_shard, jobs, say)
