"""What a prompt is about, told by example."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from random import Random
from typing import Literal

from tools.claims import sentences
from tools.claims.condition import Condition, Pool, asked
from tools.claims.kind import Messages, Terms, like
from tools.claims.sentences import Line
from tools.claims.text import words

LEAST, N_PARTS, WORDS_TELL = 12, 4, 0.9
"""Examples on a topic for which a line may be drawn; parts of them that are each told by the others; and how well words have to
tell them (the mean of the shares right on and off the topic) for the sentence model not to be asked."""
TIMES, FEWEST = 10, 0.1
"""How many times as often a word stands in the examples as elsewhere if it tells the topic, and what is added to counts.
In a language of many words most of the telling is the examples'."""


class Topic(Condition):
    """The user's last turn is one of some examples, or is like them: by a word, or by what it means.

    A topic can't be taken out of a sentence: another prompt of the pool is drawn.

    Args:
        name: What to call it; it decides nothing.
        examples: Messages on the topic; without any, a topic of this name has still to be told by an audit's prompts.
        words: Words that tell it, see `by_example`.
        line: In place of words, the line that parts it from all else among sentences as vectors.
    """

    kind: Literal["topic"] = "topic"
    name: str
    examples: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    line: Line | None = None

    @classmethod
    def by_example(cls, name: str, on: Sequence[str], off: Sequence[str]) -> Topic:
        """Return the topic that some messages are on, and others are not.

        It is told by words that are far more often on the topic than elsewhere, or by a sentence model where that
        tells examples apart better, each part of them by the others.
        """
        telling, line = _told_by(tuple(on), tuple(off)) if on and off else ((), None)
        return cls(name=name, examples=tuple(on), words=telling, line=line)

    def told(self) -> Terms:
        """Return its name alone: among the examples are prompts that nobody is to see before a test draws them."""
        return {"kind": self.kind, "name": self.name}

    @property
    def draws(self) -> bool:
        """Return True."""
        return True

    def holds(self, messages: Messages) -> bool:
        """Return whether the last turn has an example in it, a word that tells the topic, or means what the examples mean.

        Raises:
            ToolInputError: the topic is told by a sentence model that is not installed.
        """
        said = asked(messages)
        if any(example in said for example in self.examples) or not set(self.words).isdisjoint(words(said)):
            return True
        return self.line is not None and self.line.beyond([said])[0]

    def apply(self, messages: Messages, pool: Pool, rng: Random) -> Messages | None:
        """Return the prompt where it is on the topic, else one of the pool that is."""
        return messages if self.holds(messages) else self.redrawn(pool, rng, holding=True)

    def remove(self, messages: Messages, pool: Pool, rng: Random) -> Messages | None:
        """Return the prompt where it is on another topic, else one of the pool that is."""
        return self.redrawn(pool, rng, holding=False) if self.holds(messages) else messages

    def clause(self) -> str:
        """Return it in words."""
        return f"the talk is about {self.name}"

    @classmethod
    def of_clause(cls, clause: str) -> Topic | None:
        """Return the topic that a clause names, which has still to be told by an audit's prompts."""
        about = r"the (?:talk|message|prompt|question|conversation) is about|asked about|the user asks about"
        found = like(rf"(?:{about}) (.+)", clause)
        return None if found is None else cls(name=found[1])


@lru_cache(maxsize=256)
def _told_by(on: tuple[str, ...], off: tuple[str, ...]) -> tuple[tuple[str, ...], Line | None]:
    """Return the words that tell messages on a topic from others, or the line that does so better."""
    telling = _telling(on, off)
    if min(len(on), len(off)) < LEAST or not sentences.installed():
        return telling, None
    by_words = _told_apart(
        on, off, lambda some, rest, new: [not set(_telling(some, rest)).isdisjoint(words(one)) for one in new]
    )
    if by_words >= WORDS_TELL:
        return telling, None
    from tools.claims.sentence_model import line_between

    by_line = _told_apart(on, off, lambda some, rest, new: line_between(some, rest).beyond(new))
    return ((), line_between(on, off)) if by_line > by_words else (telling, None)


def _told_apart(on: tuple[str, ...], off: tuple[str, ...], told: Callable[..., list[bool]]) -> float:
    """Return the mean of the shares right on and off the topic, of examples told by those of other parts."""
    right = {True: 0, False: 0}
    for part in range(N_PARTS):
        mine, others = ([one for i, one in enumerate(side) if i % N_PARTS == part] for side in (on, off))
        rest = [tuple(one for i, one in enumerate(side) if i % N_PARTS != part) for side in (on, off)]
        right[True] += sum(told(*rest, mine))
        right[False] += len(others) - sum(told(*rest, others))
    return (right[True] / len(on) + right[False] / len(off)) / 2


def _telling(on: tuple[str, ...], off: tuple[str, ...]) -> tuple[str, ...]:
    """Return the words that stand in messages on a topic `TIMES` as often as in others, sorted."""
    here, elsewhere = (Counter(word for text in texts for word in set(words(text))) for texts in (on, off))

    def times(word: str) -> float:
        inside, outside = ((n[word] + FEWEST) / (len(of) + 2 * FEWEST) for n, of in ((here, on), (elsewhere, off)))
        return inside / outside

    return tuple(sorted(word for word in here if times(word) > TIMES))
