"""What can be said about a subject: triggers, effects, claims, and suggestions of them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from tools.claims.text import wordless, words

TriggerKind = Literal["word", "topic", "user", "turn", "system", "begins", "whole", "at_turn", "length"]
"""What a condition is on; the last four are of a message's form: how it begins, what it is, how late and how long it is."""
STORED = {"stored": True}
"""Validation context for rows of a ledger: they are read as they were written, though some could not be claimed anew."""


def is_stored(info: Any) -> bool:
    """Return whether a value that is being validated was read from a ledger, with `STORED` for its context.

    Args:
        info: Pydantic's `ValidationInfo`, a protocol that can't be checked when the code runs.
    """
    return bool(info.context and info.context.get("stored"))


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

    @property
    def can_show(self) -> bool:
        """Return whether there is anything to look for; where `says` has no word there is not."""
        return self.kind != "says" or bool(words(self.value))

    @model_validator(mode="after")
    def _has_a_word(self, info: Any) -> Effect:
        if not self.can_show and not is_stored(info):
            raise ValueError(
                f"the effect `says` is given {self.value!r}, which has no word to look for; "
                "give words with letters or digits, of any script"
            )
        return self


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


def _can_be_looked_for(observables: dict[str, list[str]]) -> dict[str, list[str]]:
    for name, cues in observables.items():
        kind, _, value = name.partition(":")
        nothing = wordless([*cues, value] if kind == "says" else cues)
        if nothing:
            raise ValueError(
                f"the observable {name!r} is given {nothing[0]!r}, which has no word to look for; "
                "give phrases with letters or digits, of any script, beside a {value}"
            )
    return observables


Observables = Annotated[dict[str, list[str]], AfterValidator(_can_be_looked_for)]
"""What to look for in replies: `kind:value` to its cue phrases, or an open kind to phrases with {value}."""
