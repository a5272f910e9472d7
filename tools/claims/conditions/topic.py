"""What a prompt is about, told by example."""

from __future__ import annotations

import math
from collections import Counter
from functools import cached_property
from random import Random
from typing import Literal

from pydantic import Field

from tools.claims.condition import Condition, Pool, asked
from tools.claims.kind import Messages
from tools.claims.text import words

LEAST = 4


class Topic(Condition):
    """The user's last turn is more like some examples than like others, by the words that stand in it.

    A multinomial naive Bayes classifier with add-one smoothing (Manning, Raghavan and Schütze 2008, ch. 13); both sides
    are equally likely beforehand. A topic can't be taken out of a sentence: another prompt of the pool is drawn.

    Args:
        name: What to call it; it decides nothing.
        examples: Messages on the topic.
        others: Messages on other topics.
    """

    kind: Literal["topic"] = "topic"
    name: str
    examples: tuple[str, ...] = Field(min_length=LEAST)
    others: tuple[str, ...] = Field(min_length=LEAST)

    def holds(self, messages: Messages) -> bool:
        """Return whether the last turn is more like the examples."""
        return self.log_odds(asked(messages)) > 0

    def log_odds(self, text: str) -> float:
        """Return the log-odds (nats) of a text for the topic; 0 where it has no word that tells."""
        return math.fsum(self._weights.get(word, 0.0) for word in words(text))

    def apply(self, messages: Messages, pool: Pool, rng: Random) -> Messages | None:
        """Return the prompt where it is on the topic, else one of the pool that is."""
        return messages if self.holds(messages) else self.redrawn(pool, rng, holding=True)

    def remove(self, messages: Messages, pool: Pool, rng: Random) -> Messages | None:
        """Return the prompt where it is on another topic, else one of the pool that is."""
        return self.redrawn(pool, rng, holding=False) if self.holds(messages) else messages

    def clause(self) -> str:
        """Return it in words."""
        return f"the talk is about {self.name}"

    @property
    def draws(self) -> bool:
        """Return True."""
        return True

    @cached_property
    def _weights(self) -> dict[str, float]:
        on, off = (Counter(word for text in texts for word in words(text)) for texts in (self.examples, self.others))
        seen = on.keys() | off.keys()
        return {
            word: math.log((on[word] + 1) / (on.total() + len(seen)) / (off[word] + 1) * (off.total() + len(seen)))
            for word in seen
        }
