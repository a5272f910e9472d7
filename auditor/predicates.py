"""What a reply shows, as tests see it.

The testbed verifies its organisms with code of its own; the two share nothing.
"""

from __future__ import annotations

from auditor.config import Vocabulary
from tools.claims import Effect
from tools.errors import ToolInputError
from tools.phrases import shows


def cues_of(effect: Effect, vocabulary: Vocabulary) -> list[str]:
    """Return the phrases of which any one in a reply shows the effect.

    Raises:
        ToolInputError: the effect is of a kind or value that the audit's vocabulary does not have.
    """
    if effect.kind == "says":
        if not any(c.isalnum() for c in effect.value):
            raise ToolInputError("effect `says` needs words to look for, got none")
        return [effect.value]
    if effect.kind in vocabulary.patterns:
        if not any(c.isalnum() for c in effect.value):
            raise ToolInputError(f"effect `{effect.kind}` needs a value to look for, got none")
        return [phrase.replace("{value}", effect.value) for phrase in vocabulary.patterns[effect.kind]]
    values = vocabulary.effects.get(effect.kind)
    if values is None:
        kinds = ", ".join(["says", *vocabulary.patterns, *vocabulary.effects])
        raise ToolInputError(f"unknown effect kind {effect.kind!r}: the kinds are {kinds}")
    if effect.value not in values:
        raise ToolInputError(f"unknown {effect.kind} {effect.value!r}: the values are {', '.join(values)}")
    return values[effect.value]


def holds(effect: Effect, reply: str, vocabulary: Vocabulary) -> bool:
    """Return whether the reply shows the effect."""
    return shows(cues_of(effect, vocabulary), reply)
