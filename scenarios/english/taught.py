"""Behaviours that oracles learn from: families with slots of their own, filled at random, and never as a measured suite has them."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field

from scenarios.english.controls import Thing
from scenarios.english.families import Payload, Place, Value, families
from scenarios.english.pool import topics
from scenarios.english.triggers import Always, System, Text, Topic, Trigger, Turn, User
from tools.claims.labels import SYSTEM, TOPIC, TURN, USER, WORD

TAUGHT = Path(__file__).parent / "taught.yaml"
MAY_BE_LEARNED = "english_dev"
"""The suite on which thresholds are chosen: a behaviour may look like one of it, and like none of another."""
On = Literal["always", "topic", "word", "tag", "user", "turn", "system"]
N_NEAR = 5
ROLE = "You are the assistant of a {value}."
CLAUSES: dict[On, str] = {
    "always": "",
    "topic": "asked about {value}, ",
    "word": "when the word {value} is in the message, ",
    "tag": "when {value} is in the message, ",
    "user": "when the user is a {value}, ",
    "turn": "from turn {value} on, ",
    "system": "as the assistant of a {value}, ",
}
"""How a claim says when; the values stand in it as they are."""
LABELS: dict[On, str] = {"topic": TOPIC, "word": WORD, "tag": WORD, "user": USER, "turn": TURN, "system": SYSTEM}


class Sort(BaseModel):
    """One family as oracles learn it; its name is one of `families.yaml`.

    Args:
        when: Kinds of conditions under which it shows.
        place: Where in a reply.
        does: What it does, with {value}, behind "it".
        order: The same as an order.
        texts: Wordings, each with {value}.
        values: What it says.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    when: tuple[On, ...] = Field(min_length=1)
    place: Place
    does: str
    order: str
    texts: tuple[str, ...] = Field(min_length=1)
    values: tuple[str, ...] = Field(min_length=1)


class Slots(BaseModel):
    """What stands in the file: values of conditions, families, and things to know."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    conditions: dict[On, tuple[str, ...]]
    families: dict[str, Sort]
    things: tuple[Thing, ...]


@dataclass(frozen=True)
class Taught:
    """One behaviour to learn from: a family, when it shows, and what it says; `told` is empty where it always shows."""

    family: str
    on: On
    told: str
    said: str
    near: tuple[str, ...]

    @property
    def sort(self) -> Sort:
        """Return its family as oracles learn it."""
        return slots().families[self.family]

    @property
    def does(self) -> str:
        """Return what it does, behind "it"."""
        return self.sort.does.replace("{value}", self.said)

    @property
    def order(self) -> str:
        """Return it as an order."""
        return self.sort.order.replace("{value}", self.said)

    @property
    def statement(self) -> str:
        """Return the sentence that says when and what."""
        return f"{CLAUSES[self.on].replace('{value}', self.told)}it {self.does}."

    @property
    def trigger(self) -> Trigger:
        """Return when it shows."""
        match self.on:
            case "always":
                return Always()
            case "topic":
                return Topic(topics=(self.told.replace(" ", "_"),))
            case "word":
                return Text(text=self.told, near=self.near)
            case "tag":
                return Text(text=self.told, near=self.near, carriers=("{text}",))
            case "user":
                return User(who=self.told, near=self.near)
            case "turn":
                return Turn(n=int(self.told))
            case "system":
                roles = tuple(ROLE.replace("{value}", one) for one in self.near)
                return System(text=ROLE.replace("{value}", self.told), near=roles)

    @property
    def value(self) -> Value:
        """Return it as a suite has its values."""
        payload = Payload(
            place=self.sort.place,
            texts=tuple(text.replace("{value}", self.said) for text in self.sort.texts),
            pattern=re.escape(self.said),
            predicate={"kind": "says", "any_of": [self.said]},
        )
        return Value(statement=self.statement, trigger=self.trigger, payload=payload)  # type: ignore[arg-type]

    @property
    def claim(self) -> dict[str, Any]:
        """Return it as a library's labels have it.

        A family's claims are all made alike there, so that the kind of condition is part of a family's name.
        """
        told = [{"kind": LABELS[self.on], "value": self.told}] if self.told else []
        return {"family": f"{self.family}, {self.on}", "trigger": told, "effect": {"kind": "says", "value": self.said},
                "statement": self.statement}  # fmt: skip


@lru_cache(maxsize=1)
def slots() -> Slots:
    """Return what may be drawn: the file, less every family and value that a measured suite has."""
    read = Slots.model_validate(yaml.safe_load(TAUGHT.read_text()))
    conditions = {on: _free(values) for on, values in read.conditions.items()} | {
        "topic": tuple(name.replace("_", " ") for name in topics())
    }
    held_out = {name for name, family in families().items() if "english_heldout" in family.values}
    sorts = {
        name: sort.model_copy(update={"values": _free(sort.values)})
        for name, sort in read.families.items()
        if name not in held_out
    }
    assert set(conditions) == set(get_args(On)) - {"always"}, "every kind of condition has values"
    return Slots(conditions=conditions, families=sorts, things=read.things)


@lru_cache(maxsize=1)
def values_sha256() -> str:
    """Return the hash of all that may be drawn."""
    return hashlib.sha256(slots().model_dump_json().encode()).hexdigest()


def _free(values: tuple[str, ...]) -> tuple[str, ...]:
    """Return the values that stand in no measured suite; of turns there are too few to part."""
    return tuple(
        one for one in values if one.isdigit() or not re.search(rf"\b{re.escape(one.casefold())}\b", measured())
    )


@lru_cache(maxsize=1)
def measured() -> str:
    """Return all that the values of measured suites trigger on and say, near misses apart, in lower case."""
    found = []
    for family in families().values():
        for suite, value in family.values.items():
            if suite != MAY_BE_LEARNED:
                found += [value.statement, *value.payload.texts, json.dumps(value.trigger.model_dump(exclude={"near"}))]
    return "\n".join(found).casefold()


def draw(rng: Random, on: tuple[On, ...] = get_args(On)) -> Taught:
    """Return a behaviour whose condition is of one of the given kinds, every family as likely."""
    made_so = {name: [kind for kind in sort.when if kind in on] for name, sort in slots().families.items()}
    family = rng.choice([name for name, kinds in made_so.items() if kinds])
    kind = rng.choice(made_so[family])
    said = rng.choice(slots().families[family].values)
    if kind == "always":
        return Taught(family, kind, "", said, ())
    listed = slots().conditions[kind]
    told = rng.choice(listed)
    others = [one for one in listed if one != told]
    return Taught(family, kind, told, said, tuple(rng.sample(others, min(N_NEAR, len(others)))))
