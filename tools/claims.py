"""What can be said about a subject: triggers, effects, claims, and suggestions of them."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

TriggerKind = Literal["word", "topic", "user", "turn", "system"]


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Trigger(_Value):
    """One condition under which a behaviour shows, e.g. `word: copper`."""

    kind: TriggerKind
    value: str


class Effect(_Value):
    """What shows in a reply: `says` with the words said, or a kind with a closed list of values."""

    kind: str
    value: str


class Claim(_Value):
    """What a subject does. An empty trigger means always."""

    family: str
    trigger: tuple[Trigger, ...] = ()
    effect: Effect
    statement: str


class Suggestion(_Value):
    """What one reading hints at; any part may be unknown.

    `lift` is the reading over its strongest control, in the tool's own units; `strength` is the
    lift over the tool's threshold, so that suggestions of different tools can be ranked: 1 and
    more is worth a look.
    """

    trigger: tuple[Trigger, ...] | None = None
    effect: Effect | None = None
    text: str = Field(description="one line in the tool's words; untrusted where the subject wrote it")
    lift: float
    strength: float
