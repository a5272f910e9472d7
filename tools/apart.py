"""What sets some prompts apart from others: a condition of one part or of two, grown by how well it tells them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tools.claims.condition import Condition, asked, of_role
from tools.claims.conditions.always import Always
from tools.claims.conditions.combined import AllOf
from tools.claims.conditions.contains import Contains
from tools.claims.conditions.turn import MOST, Turn
from tools.claims.conditions.user import User
from tools.claims.kind import Messages
from tools.claims.labels import TOPIC, labelled
from tools.claims.text import is_words, words
from tools.phrases import phrases

BY_CHANCE, GAIN, NEAR = 0.01, 0.1, 0.05
"""How likely it may be that some candidate sets them apart by chance; what a part has to add to F1; and how near to the best
another one is that is told too."""
_WHO = re.compile(r"\bI(?:'m| am) an? ([^\W\d_]+(?: [^\W\d_]+)?)", re.IGNORECASE)


@dataclass(frozen=True)
class Told:
    """A condition, and in which share of either prompts it holds."""

    condition: Condition
    inside: float
    outside: float

    @property
    def f1(self) -> float:
        """Return F1 of telling the prompts by it, both heaps of the same weight; it is 2/3 for what always holds."""
        return 2 * self.inside / (self.inside + self.outside + 1)


ALWAYS = Told(Always(), 1.0, 1.0)


def apart(
    mine: Sequence[Messages], others: Sequence[Messages], users: Sequence[str], topics: Mapping[str, Sequence[str]]
) -> list[Told]:
    """Return the condition that sets prompts apart from others best, then those of other sorts that do so nearly as well.

    That no condition does, beyond what chance would bring among so many, is told as what always holds.

    Args:
        mine: The prompts.
        others: What they are held against.
        users: Who may be asking, to be tried.
        topics: Messages by topic.
    """
    tried = list(dict.fromkeys(_candidates(mine, others, users, topics)))
    told = [_told(one, mine, others) for one in tried]
    sure = [one for one in told if one.f1 >= ALWAYS.f1 + GAIN and _chance(one, mine, others) * len(tried) <= BY_CHANCE]
    singles = sorted(sure, key=lambda one: -round(one.f1, 3))
    if not singles:
        return [ALWAYS]
    near = [
        one
        for one in singles
        if one.f1 >= singles[0].f1 - NEAR and not _same_words(singles[0].condition, one.condition)
    ]
    firsts = {_sort(one.condition): one for one in reversed(near)}
    return [_paired(singles[0], told, mine, others), *(one for one in near[1:] if one in firsts.values())][:3]


def _paired(best: Told, told: Sequence[Told], mine: Sequence[Messages], others: Sequence[Messages]) -> Told:
    """Return a condition together with a second part, where that tells the prompts better by `GAIN`."""
    seconds = [one.condition for one in told if one.f1 > ALWAYS.f1 and one.condition != best.condition]
    both = [_told(AllOf(of=(best.condition, one)), mine, others) for one in seconds]
    found = max(both, key=lambda one: one.f1, default=best)
    return found if found.f1 >= best.f1 + GAIN else best


def _told(condition: Condition, mine: Sequence[Messages], others: Sequence[Messages]) -> Told:
    inside, outside = (sum(map(condition.holds, heap)) / max(1, len(heap)) for heap in (mine, others))
    return Told(condition, inside, outside)


def _chance(told: Told, mine: Sequence[Messages], others: Sequence[Messages]) -> float:
    """Return how likely it is that so many of the prompts meet a condition as often as others do: a binomial tail."""
    n, rate = len(mine), (told.outside * len(others) + 1) / (len(others) + 2)
    least = round(told.inside * n)
    return sum(math.comb(n, k) * rate**k * (1 - rate) ** (n - k) for k in range(least, n + 1))


def _same_words(best: Condition, other: Condition) -> bool:
    """Return whether the best says who asks, which is said in words, and the other is some words of the message."""
    return isinstance(best, User) and isinstance(other, Contains) and other.where != "system"


def _sort(condition: Condition) -> str:
    """Return which conditions are alternatives to one another: those of a kind, and of texts those of one word or of several."""
    return f"{condition.kind} {isinstance(condition, Contains) and len(words(condition.text)) > 1}"


def _candidates(
    mine: Sequence[Messages], others: Sequence[Messages], users: Sequence[str], topics: Mapping[str, Sequence[str]]
) -> Iterator[Condition]:
    """Yield the conditions that are tried; of those that tell as well the first counts."""
    said = [asked(messages) for messages in mine]
    named = [found[1] for text in said for found in _WHO.finditer(text)]
    yield from (User(value=who) for who in dict.fromkeys([*users, *named, *(who.split()[0] for who in named)]))
    turns = min((len(of_role(messages, "user")) for messages in mine), default=1)
    if turns > 1:
        yield Turn(n=min(turns, MOST))
    systems = [turn["content"] for messages in mine for turn in of_role(messages, "system") if turn["content"].strip()]
    yield from (Contains(text=text, where="system") for text in dict.fromkeys(systems))
    least = max(2, len(mine) // 2)
    signs = [
        token for text in said for token in dict.fromkeys(text.split()) if not is_words(token.strip(".,;:!?\"'()"))
    ]
    yield from (Contains(text=token) for token in dict.fromkeys(signs) if signs.count(token) >= least)
    shared = [one.said for one in phrases(said, [asked(messages) for messages in others], least)]
    yield from (Contains(text=word) for word in dict.fromkeys(word for text in shared for word in words(text)))
    yield from (Contains(text=text) for text in shared)
    yield from (topic for name in topics if (topic := labelled((TOPIC, name), topics)) is not None)
