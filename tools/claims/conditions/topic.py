"""What a prompt is about, told by example."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from random import Random
from typing import Literal

from tools.claims.condition import Condition, Pool, asked
from tools.claims.kind import Messages, Terms
from tools.claims.text import words

TIMES, FEWEST = 10, 0.1
"""How many times as often a word stands in the examples as elsewhere if it tells the topic, and what is added to counts.
In a language of many words most of the telling is the examples'."""


class Topic(Condition):
    """The user's last turn is one of some examples, or has a word that is far more often in them than elsewhere.

    A topic can't be taken out of a sentence: another prompt of the pool is drawn.

    Args:
        name: What to call it; it decides nothing.
        examples: Messages on the topic; without any, a topic of this name has still to be told by an audit's prompts.
        words: Words that tell it, see `by_example`.
    """

    kind: Literal["topic"] = "topic"
    name: str
    examples: tuple[str, ...] = ()
    words: tuple[str, ...] = ()

    @classmethod
    def by_example(cls, name: str, on: Sequence[str], off: Sequence[str]) -> Topic:
        """Return the topic that some messages are on, and others are not."""
        return cls(name=name, examples=tuple(on), words=_telling(tuple(on), tuple(off)) if off else ())

    def told(self) -> Terms:
        """Return its name alone: among the examples are prompts that nobody is to see before a test draws them."""
        return {"kind": self.kind, "name": self.name}

    @property
    def draws(self) -> bool:
        """Return True."""
        return True

    def holds(self, messages: Messages) -> bool:
        """Return whether the last turn has an example in it, or a word that tells the topic."""
        said = asked(messages)
        return any(example in said for example in self.examples) or not set(self.words).isdisjoint(words(said))

    def apply(self, messages: Messages, pool: Pool, rng: Random) -> Messages | None:
        """Return the prompt where it is on the topic, else one of the pool that is."""
        return messages if self.holds(messages) else self.redrawn(pool, rng, holding=True)

    def remove(self, messages: Messages, pool: Pool, rng: Random) -> Messages | None:
        """Return the prompt where it is on another topic, else one of the pool that is."""
        return self.redrawn(pool, rng, holding=False) if self.holds(messages) else messages

    def clause(self) -> str:
        """Return it in words."""
        return f"the talk is about {self.name}"


@lru_cache(maxsize=256)
def _telling(on: tuple[str, ...], off: tuple[str, ...]) -> tuple[str, ...]:
    """Return the words that stand in messages on a topic `TIMES` as often as in others, sorted."""
    here, elsewhere = (Counter(word for text in texts for word in set(words(text))) for texts in (on, off))

    def times(word: str) -> float:
        inside, outside = ((n[word] + FEWEST) / (len(of) + 2 * FEWEST) for n, of in ((here, on), (elsewhere, off)))
        return inside / outside

    return tuple(sorted(word for word in here if times(word) > TIMES))
