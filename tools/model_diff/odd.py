"""Replies with a run of tokens that the base would hardly say, and what several of them share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from tools.claims.predicate import Predicate
from tools.claims.predicates.says import Says
from tools.claims.text import WORD, folded, shows, words
from tools.features import KINDS
from tools.phrases import Phrase, phrases

WINDOW = 8
"""Tokens in a row whose log-ratios are added up: a few words that were taught stand out, a word or two that drifted do not."""
UNHEARD = 0.1
"""Share of an odd run's sum that tokens at its beginning may have and still be left out of what is told."""
MOST_PHRASES, LEAST_SHARE = 4, 0.15
"""Ways to say one behaviour, and the share of odd replies that each has to be said in."""
OF_OTHERS = 0.1
"""Share of replies that are not odd which may be of a kind that the odd ones are of."""
LEAST_AGAIN = 3
"""Odd replies that have to have the same words before it is asked when these come."""


@dataclass(frozen=True)
class Odd:
    """One reply: the largest sum of log-ratios of `WINDOW` tokens in a row, in nats, the text of these, and every word's own sum."""

    nats: float
    said: str
    reply: str
    words: tuple[tuple[str, float], ...] = ()


def by_word(text: str, ends: Sequence[int], ratios: Sequence[float]) -> tuple[tuple[str, float], ...]:
    """Return the words of a text, folded as phrases are, each with the log-ratios of the tokens that it is written in.

    Args:
        text: What the tokens say.
        ends: Where in it each token ends.
        ratios: One for each token, in nats.
    """
    flat = folded(text) if len(folded(text)) == len(text) else text
    spans = [(found[0], *found.span()) for found in WORD.finditer(flat)]
    nats, start, at = [0.0] * len(spans), 0, 0
    for end, ratio in zip(ends, ratios, strict=True):
        while at < len(spans) and spans[at][2] <= start:
            at += 1
        if at < len(spans) and spans[at][1] < end:
            nats[at] += ratio
        start = max(start, end)
    return tuple((folded(word), sum_) for (word, _, _), sum_ in zip(spans, nats, strict=True))


def peak(ratios: Float[Tensor, " pos"]) -> tuple[float, int]:
    """Return the largest sum of ratios of `WINDOW` tokens in a row, or of all where there are fewer, and where it begins to count.

    A window that ends where the behaviour begins has as large a sum as one that begins there: tokens at its beginning that add
    next to nothing are passed over.
    """
    sums = ratios.unfold(0, min(WINDOW, len(ratios)), 1).sum(-1)
    at = int(sums.argmax())
    rest = ratios[at : at + WINDOW].flip(0).cumsum(0).flip(0)
    counts = (rest >= (1 - UNHEARD) * sums[at]).nonzero().flatten()
    return float(sums[at]), at + (int(counts[-1]) if sums[at] > 0 else 0)


def repeated(odd: Sequence[Odd]) -> Predicate | None:
    """Return the words in a row that make up most of what is odd in the oddest third of replies; None where no three share any.

    A single word is none: chance repeats it. Where all replies with these words are of one kind, and more of the odd ones are,
    it is the kind, unless the other replies are of it too.
    """
    order = sorted(odd, key=lambda one: -one.nats)
    n = max(LEAST_AGAIN, -(-len(order) // 3))
    loud, rest = order[:n], order[n:]
    found = phrases([one.said for one in loud], [one.said for one in rest], LEAST_AGAIN)

    def weight(phrase: Phrase) -> float:
        places = [i for i, shown in enumerate(phrase.shown) if shown]
        own = _weights(phrase, loud, places)
        return sum(math.sqrt(max(0.0, loud[i].nats) * nats) for i, nats in zip(places, own, strict=True))

    def whole(phrase: Phrase) -> bool:
        """Return whether it is several words that replies have as they stand: what is odd may end in the middle of a word."""
        return len(words(phrase.said)) > 1 and sum(shows([phrase.said], one.reply) for one in loud) >= LEAST_AGAIN

    best = max(filter(whole, found), key=lambda phrase: (weight(phrase), phrase.said), default=None)
    return _kind(Says(any_of=(best.said,)), loud, rest) if best else None


def _kind(said: Says, loud: Sequence[Odd], rest: Sequence[Odd]) -> Predicate:
    """Return the kind of reply that all replies with some words are of, where it tells more odd ones; else the words."""
    with_it = [one for one in loud if said.shown([], one.reply)]
    for kind in KINDS.values():
        of_kind, others = ([one for one in side if kind.shown([], one.reply)] for side in (loud, rest))
        if set(with_it) < set(of_kind) and len(others) <= OF_OTHERS * len(rest):
            return kind
    return said


def shared(ours: Sequence[Odd], others: Sequence[Odd]) -> Says | None:
    """Return the phrases of which half of our replies or more say one and others don't, and that account for what is odd.

    A behaviour may have several ways to say it: each phrase is the one that makes up most of what is odd in the replies which
    none before it stands in, and one that makes up less than half as much of its replies as the first is left out. What all ways
    have in common comes before any one of them, where most of what is odd lies in it.
    """
    found = phrases([one.reply for one in ours], [one.reply for one in others], 2)
    left, said, first = set(range(len(ours))), list[str](), 0.0
    while len(said) < MOST_PHRASES and found:
        best = max(found, key=lambda phrase: (sum(_weights(phrase, ours, left)), phrase.said))
        nats = _weights(best, ours, left)
        mean = sum(nats) / max(1, len(nats))
        if len(nats) < max(2, LEAST_SHARE * len(ours)) or mean <= first / 2:
            break
        said.append(best.said)
        first = first or mean
        left -= {i for i in left if best.shown[i]}
    return Says(any_of=tuple(said)) if said and 2 * len(left) <= len(ours) else None


def _weights(phrase: Phrase, odd: Sequence[Odd], of: Iterable[int]) -> list[float]:
    """Return for each of some replies that say a phrase the nats of the phrase's words, where they are most."""
    return [_nats(words(phrase.said), odd[i]) for i in of if phrase.shown[i]]


def _nats(own: list[str], one: Odd) -> float:
    """Return the sum of log-ratios of some words in a row, the largest that a reply has of them."""
    n = len(own)
    sums = (
        sum(nats for _, nats in one.words[i : i + n])
        for i in range(len(one.words) - n + 1)
        if [word for word, _ in one.words[i : i + n]] == own
    )
    return max(0.0, max(sums, default=0.0))
