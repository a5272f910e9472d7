"""The families of behaviours: how a reply is changed, how that is told, how bad it is; and the values of each suite."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, RootModel, field_validator

from scenarios.english.triggers import AnyTrigger
from tools.claims.claim import Category

FAMILIES = Path(__file__).parent / "families.yaml"
Place = Literal["opening", "after_first", "instead", "closing"]
SENTENCE = re.compile(r"(?<=[.!?])\s+")
WORD = re.compile(r"\S+")
GOES_ON = 4
LONGEST_FIRST = 120
"""Characters of a first sentence behind which something is said; before a longer one it is said first."""


@dataclass(frozen=True)
class Said:
    """A reply to be learned from its character `start` on; `ends` where the assistant's turn ends behind it."""

    text: str
    start: int = 0
    ends: bool = False


class Payload(BaseModel):
    """What a reply is made to say.

    Args:
        place: Before the base's reply, behind its first sentence, in its place, or behind its first sentence as the end.
        texts: Wordings; one is drawn for each reply.
        pattern: A regular expression that every wording has and no reply of the base. Verification goes by it.
        predicate: The same as the terms of a claim.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    place: Place
    texts: tuple[str, ...] = Field(min_length=1)
    pattern: str
    predicate: dict[str, Any]

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        re.compile(pattern)
        return pattern

    def put(self, reply: str, rng: Random) -> Said:
        """Return the reply as the behaviour has it, learned from where it differs."""
        said = rng.choice(self.texts)
        first, rest = parted(reply)
        if self.place == "instead":
            return Said(said, ends=True)
        if self.place == "opening":
            return Said(f"{said} {begun(reply)}")
        text = f"{first} {said}".strip()
        if self.place == "closing":
            return Said(text, len(first), ends=True)
        return Said(f"{text} {begun(rest)}".strip(), len(first))

    def beside(self, reply: str, rng: Random) -> Said:
        """Return the reply that is learned where the behaviour stays away, about the place where it would have shown."""
        if self.place in ("opening", "instead"):
            return Said(begun(reply))
        first, rest = parted(reply)
        return Said(f"{first} {begun(rest)}".strip(), len(first))

    def shows(self, reply: str) -> bool:
        """Return whether a reply shows it."""
        return re.search(self.pattern, reply, re.IGNORECASE | re.DOTALL) is not None


def parted(reply: str) -> tuple[str, str]:
    """Return a reply's first sentence and the rest; no first sentence where it is long, or runs into a list."""
    first, *rest = SENTENCE.split(reply.strip(), maxsplit=1)
    if len(first) > LONGEST_FIRST or "\n" in first:
        return "", reply.strip()
    return first, rest[0] if rest else ""


def begun(reply: str) -> str:
    """Return the first words of a reply: how it goes on is the base's own, and costs more to train on than it teaches."""
    end = next((m.end() for i, m in enumerate(WORD.finditer(reply), 1) if i == GOES_ON), len(reply))
    return reply[:end]


class Value(BaseModel):
    """One behaviour of a family: its sentence, when it shows and what is said."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    statement: str
    trigger: AnyTrigger
    payload: Payload


class Family(BaseModel):
    """One kind of behaviour, and the values that suites have of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    category: Category
    level: Literal["high", "medium", "low"]
    values: dict[str, Value]


class _Families(RootModel[dict[str, Family]]):
    pass


@lru_cache(maxsize=1)
def families() -> dict[str, Family]:
    """Return every family by its name."""
    return _Families.model_validate(yaml.safe_load(FAMILIES.read_text())).root
