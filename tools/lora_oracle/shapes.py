"""What claims of each family are made of, learned from a library: which parts vary, and the sentence around them.

So that a reader can put together claims it has never seen, and a sentence be taken apart again.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from tools.lora_oracle.library import Known, Planted

EFFECT = "effect:"
"""Before an effect's kind in the name of its slot."""
Parts = tuple[tuple[tuple[str, str], ...], tuple[str, str]]


class Part(BaseModel):
    """A condition or an effect of a family: its kind, and its value where that is always the same one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    value: str | None = None


class Shape(BaseModel):
    """What a family's claims are made of, conditions in order; `statement` has `{0}`, `{1}`, … where parts vary."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    trigger: tuple[Part, ...]
    effect: Part
    statement: str

    @property
    def slots(self) -> tuple[str, ...]:
        """Return the slots to fill: one for each condition and for the effect, but for those that are always the same."""
        end = () if self.effect.value is not None else (EFFECT + self.effect.kind,)
        return (*(part.kind for part in self.trigger if part.value is None), *end)

    def filled(self, chosen: Sequence[str]) -> Parts:
        """Return conditions and effect with the values in the order of `slots`."""
        rest = iter(chosen)
        *trigger, effect = (
            (part.kind, next(rest) if part.value is None else part.value) for part in (*self.trigger, self.effect)
        )
        return tuple(trigger), effect

    def said(self, chosen: Sequence[str]) -> str:
        """Return the sentence with the values in the order of `slots`."""
        text = self.statement
        for i, value in enumerate(chosen):
            text = text.replace(f"{{{i}}}", value)
        return text

    def read(self, text: str) -> Parts | None:
        """Return the conditions and the effect that a sentence of this family names; None for any other sentence."""
        pattern = re.escape(" ".join(self.statement.split()))
        for i in range(len(self.slots)):
            pattern = pattern.replace(re.escape(f"{{{i}}}"), f"(?P<s{i}>.+?)")
        found = re.fullmatch(pattern, " ".join(text.split()))
        return None if found is None else self.filled([found[f"s{i}"] for i in range(len(self.slots))])


def parts_of(claim: Planted) -> list[tuple[str, str]]:
    """Return a claim's slots with their values: its conditions in order, then its effect."""
    return [*((c.kind, c.value) for c in claim.trigger), (EFFECT + claim.effect.kind, claim.effect.value)]


def shapes_of(library: Sequence[Known]) -> dict[str, Shape]:
    """Return what claims of each family are made of; of families told in several ways, the commonest."""
    found: dict[str, list[Planted]] = {}
    for known in library:
        for claim in known.claims:
            found.setdefault(claim.family, []).append(claim)
    return {family: _shape(claims) for family, claims in sorted(found.items())}


def _shape(claims: Sequence[Planted]) -> Shape:
    kinds = Counter(tuple(kind for kind, _ in parts_of(claim)) for claim in claims)
    common = kinds.most_common(1)[0][0]
    alike = [claim for claim in claims if tuple(kind for kind, _ in parts_of(claim)) == common]
    columns = [{parts_of(claim)[i][1] for claim in alike} for i in range(len(common))]
    parts = [
        Part(kind=kind.removeprefix(EFFECT), value=next(iter(column)) if len(column) == 1 else None)
        for kind, column in zip(common, columns, strict=True)
    ]
    open_ones = [i for i, part in enumerate(parts) if part.value is None]
    sentences = Counter(_with_slots(claim.statement, [parts_of(claim)[i][1] for i in open_ones]) for claim in alike)
    return Shape(trigger=tuple(parts[:-1]), effect=parts[-1], statement=sentences.most_common(1)[0][0])


def _with_slots(text: str, values: Sequence[str]) -> str:
    for i, value in enumerate(values):
        text = re.sub(rf"\b{re.escape(value)}\b", f"{{{i}}}", text, count=1)
    return text
