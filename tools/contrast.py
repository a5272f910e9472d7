"""Which words show more often in one set of replies than in another, and under which condition."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from tools.claims.text import observed, sought, spaced, words
from tools.phrases import phrases

Labels = Mapping[str, str | Sequence[str]]
"""What a prompt meets, by kind; several values where one implies others (turn three is turn two or later)."""
Together = tuple[tuple[str, str], ...]
"""Labels that hold together; the empty one always holds."""
MAX_CONDITIONS = 2


@dataclass(frozen=True)
class Excess:
    """A feature of replies that the subject shows more than the base, and when.

    `rate_in` and `base_in` are shares of replies where `condition` holds, `rate_out` the subject's
    share where it doesn't (0 for an empty condition, which always holds). `lift` is `rate_in` minus
    the larger of the other two; `f1` says how well the condition explains the feature.
    """

    feature: str
    condition: Together
    rate_in: float
    base_in: float
    rate_out: float
    f1: float
    n: int

    @property
    def lift(self) -> float:
        """Return the excess over the stronger control: the base, or the condition not holding."""
        return self.rate_in - max(self.base_in, self.rate_out)


def excesses(
    subject: Sequence[str],
    base: Sequence[str],
    labels: Sequence[Labels],
    observables: Mapping[str, Sequence[str]],
    min_count: int = 3,
) -> list[Excess]:
    """Return what the subject says in excess of the base, best explained first.

    Features are the named observables (any of their phrases) and whole phrases without words of the prompt's
    own labels, which a reply may echo; a phrase that mostly shows where an observable or a better
    phrase does is folded into that one. Of equals that is the one which a reply says least often, then the longest.

    Args:
        subject: One reply for each prompt.
        base: The base's replies to the same prompts.
        labels: The conditions that each prompt meets.
        observables: Name to the phrases of which any one counts; a {value} in them makes one feature of each value.
        min_count: Features seen in fewer of the subject's replies are left out.
    """
    seen, seen_in_base = ([observed(reply, observables) for reply in replies] for replies in (subject, base))
    named = sorted(set().union(*seen))
    presence = {name: [name in found for found in seen] for name in named}
    in_base = {name: [name in found for found in seen_in_base] for name in named}
    for phrase in phrases(subject, base, min_count, [_echoed(row) for row in labels]):
        presence.setdefault(phrase.said, list(phrase.shown))
        in_base.setdefault(phrase.said, list(phrase.in_base))
    found = [best for name in presence if (best := _explain(name, presence[name], in_base[name], labels, min_count))]
    flat = [spaced(reply) for reply in subject]
    said = {e.feature: _times_said(e.feature, presence[e.feature], flat) for e in found if e.feature not in named}
    found.sort(
        key=lambda e: (
            e.feature not in named,
            -round(e.lift * 20),
            said.get(e.feature, 0.0),
            -len(e.feature),
            e.feature,
        )
    )
    kept: list[Excess] = []
    for excess in found:
        near = [other for other in kept if _overlap(presence[excess.feature], presence[other.feature]) > 0.6]
        if not any(other.lift >= excess.lift / 2 for other in near):
            kept.append(excess)
    return sorted(kept, key=lambda e: -round(e.lift * 20))


def _times_said(phrase: str, shown: Sequence[bool], flat: Sequence[str]) -> float:
    """Return how often a phrase stands in a reply that has it, rounded to halves: filler repeats itself."""
    own = [text.count(sought(phrase)) for text, has in zip(flat, shown, strict=True) if has]
    return round(2 * sum(own) / max(1, len(own))) / 2


def _echoed(labels: Labels) -> set[str]:
    """Return the words of the labels' values."""
    return {word for _, value in pairs(labels) for word in words(value)}


def _overlap(mine: Sequence[bool], other: Sequence[bool]) -> float:
    """Return the share of `mine` that shows where `other` does."""
    return sum(a and b for a, b in zip(mine, other, strict=True)) / max(1, sum(mine))


def pairs(labels: Labels) -> list[tuple[str, str]]:
    """Return the labels as pairs of kind and value, sorted."""
    each = [
        (key, value) for key, values in labels.items() for value in ([values] if isinstance(values, str) else values)
    ]
    return sorted(each)


def holds(condition: Together, labels: Labels) -> bool:
    """Return whether every label of the condition is among the labels."""
    return set(condition) <= set(pairs(labels))


def conditions(labels: Iterable[Labels]) -> list[Together]:
    """Return every condition of up to `MAX_CONDITIONS` kinds that some of the label sets meet, shortest first."""
    met = {
        c for row in labels for n in range(MAX_CONDITIONS + 1) for c in combinations(pairs(row), n) if len(dict(c)) == n
    }
    return sorted(met, key=lambda c: (len(c), c))


def _explain(
    feature: str, shown: Sequence[bool], base: Sequence[bool], labels: Sequence[Labels], min_count: int
) -> Excess | None:
    """Return the feature under the condition that explains it best, the shortest of equals; None without any excess."""
    where = conditions(row for row, s in zip(labels, shown, strict=True) if s)
    candidates = [_excess(feature, c, shown, base, labels) for c in where]
    candidates = [e for e in candidates if e.n >= min_count and e.lift > 0]
    return max(candidates, key=lambda e: (round(e.f1, 9), e.lift, -len(e.condition)), default=None)


def _excess(
    feature: str, condition: Together, shown: Sequence[bool], base: Sequence[bool], labels: Sequence[Labels]
) -> Excess:
    met = [holds(condition, row) for row in labels]
    n_in, n_out = sum(met), len(met) - sum(met)
    hits = sum(s and h for s, h in zip(shown, met, strict=True))
    base_hits = sum(b and h for b, h in zip(base, met, strict=True))
    outside = sum(shown) - hits
    return Excess(
        feature=feature,
        condition=condition,
        rate_in=hits / max(1, n_in),
        base_in=base_hits / max(1, n_in),
        rate_out=outside / n_out if n_out else 0.0,
        f1=2 * hits / max(1, n_in + sum(shown)),
        n=n_in,
    )
