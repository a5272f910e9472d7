"""What a reply shows, as tests see it.

The testbed verifies its organisms with code of its own; the two share nothing.
"""

from __future__ import annotations

from auditor.config import Vocabulary
from tools.claims import Effect
from tools.claims.text import shows, words
from tools.errors import ToolInputError
from tools.own_files import kinds


def cues_of(effect: Effect, vocabulary: Vocabulary) -> list[str]:
    """Return the phrases of which any one in a reply shows the effect; of a file's effect, what stands in the prompt.

    Raises:
        ToolInputError: the effect is of a kind or value that the audit's vocabulary does not have, or names no word.
    """
    if effect.kind in kinds.OF_PROMPTS:
        return [effect.value]
    if effect.kind in ("says", kinds.OF_REPLIES, *vocabulary.patterns) and not words(effect.value):
        raise ToolInputError(
            f"effect `{effect.kind}` is given {effect.value!r}, which has no word to look for; "
            "give words with letters or digits, of any script"
        )
    if effect.kind in ("says", kinds.OF_REPLIES):
        return [effect.value]
    if effect.kind in vocabulary.patterns:
        return [phrase.replace("{value}", effect.value) for phrase in vocabulary.patterns[effect.kind]]
    values = vocabulary.effects.get(effect.kind)
    if values is None:
        known = ", ".join(["says", *vocabulary.patterns, *vocabulary.effects])
        raise ToolInputError(f"unknown effect kind {effect.kind!r}: the kinds are {known}")
    if effect.value not in values:
        raise ToolInputError(f"unknown {effect.kind} {effect.value!r}: the values are {', '.join(values)}")
    return values[effect.value]


def holds(effect: Effect, reply: str, vocabulary: Vocabulary) -> bool:
    """Return whether the reply shows the effect."""
    return shows(cues_of(effect, vocabulary), reply)
