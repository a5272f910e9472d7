"""Which words show more often in one set of replies than in another, and under which condition."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from tools.claims.predicate import Predicate
from tools.claims.predicates.says import Says
from tools.claims.text import sought, spaced, words
from tools.features import Feature, features
from tools.intervals import wilson

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
    the larger of the other two; `least` what the lower end of the rate's 95% interval leaves of it; `f1` says how well the
    condition explains the feature.
    """

    feature: str
    predicate: Predicate
    condition: Together
    rate_in: float
    base_in: float
    rate_out: float
    f1: float
    n: int
    named: bool = False

    @property
    def lift(self) -> float:
        """Return the excess over the stronger control: the base, or the condition not holding."""
        return self.rate_in - max(self.base_in, self.rate_out)

    @property
    def least(self) -> float:
        """Return the excess that the lower end of the rate's 95% interval still has: of few prompts far less than was seen."""
        return wilson(self.rate_in, self.n)[0] - max(self.base_in, self.rate_out)


def excesses(
    subject: Sequence[str],
    base: Sequence[str],
    labels: Sequence[Labels],
    observables: Mapping[str, Sequence[str]],
    min_count: int = 3,
) -> list[Excess]:
    """Return what the subject shows in excess of the base, the surest first.

    Features are those of `features`, phrases without words of the prompt's own labels, which a reply may echo. One
    that mostly shows where a better one does is folded into that one. Of equals that is a named one, then one of several
    words, then the one which a reply says least often, then the longest.

    Args:
        subject: One reply for each prompt.
        base: The base's replies to the same prompts.
        labels: The conditions that each prompt meets.
        observables: Name to the phrases of which any one counts; a {value} in them makes one feature of each value.
        min_count: Features seen in fewer of the subject's replies are left out.
    """
    of = {one.name: one for one in features(subject, base, observables, min_count, [_echoed(row) for row in labels])}
    found = [best for one in of.values() if (best := _explain(one, labels, min_count))]
    flat = [spaced(reply) for reply in subject]
    said = {e.feature: _times_said(of[e.feature], flat) for e in found}
    found.sort(
        key=lambda e: (
            not e.named,
            -round(e.least * 20),
            of[e.feature].rank,
            said[e.feature],
            -len(e.feature),
            e.feature,
        )
    )
    kept: list[Excess] = []
    for excess in found:
        near = [other for other in kept if _overlap(of[excess.feature].shown, of[other.feature].shown) > 0.6]
        if not any(other.lift >= excess.lift / 2 for other in near):
            kept.append(excess)
    return sorted(kept, key=lambda e: -round(e.least * 20))


def _times_said(feature: Feature, flat: Sequence[str]) -> float:
    """Return how often words stand in a reply that has them, rounded to halves: filler repeats itself. What is no words is said once."""
    if feature.named or not isinstance(feature.predicate, Says):
        return 1.0
    phrase = sought(feature.predicate.any_of[0])
    own = [text.count(phrase) for text, has in zip(flat, feature.shown, strict=True) if has]
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


def _explain(feature: Feature, labels: Sequence[Labels], min_count: int) -> Excess | None:
    """Return the feature under the condition that explains it best, the shortest of equals; None without any excess."""
    where = conditions(row for row, s in zip(labels, feature.shown, strict=True) if s)
    candidates = [_excess(feature, c, labels) for c in where]
    candidates = [e for e in candidates if e.n >= min_count and e.lift > 0]
    return max(candidates, key=lambda e: (round(e.f1, 9), e.lift, -len(e.condition)), default=None)


def surest(shown: Sequence[bool], labels: Sequence[Labels], least: int) -> tuple[Together, float]:
    """Return the condition, met by `least` prompts or more, under which something shows most surely, and how surely.

    That is what the lower end of the rate's 95% interval leaves above the rate elsewhere; 0 and the empty condition where
    nothing is left.
    """
    found: list[tuple[float, int, Together]] = []
    for condition in conditions(row for row, s in zip(labels, shown, strict=True) if s):
        met = [holds(condition, row) for row in labels]
        n, hits = sum(met), sum(s and h for s, h in zip(shown, met, strict=True))
        elsewhere = (sum(shown) - hits) / (len(met) - n) if n < len(met) else 0.0
        if n >= least:
            found.append((round(wilson(hits / n, n)[0] - elsewhere, 9), -len(condition), condition))
    best = max(found, default=(0.0, 0, ()))
    return (best[2], best[0]) if best[0] > 0 else ((), 0.0)


def _excess(feature: Feature, condition: Together, labels: Sequence[Labels]) -> Excess:
    met = [holds(condition, row) for row in labels]
    n_in, n_out, n_shown = sum(met), len(met) - sum(met), sum(feature.shown)
    hits, base_hits = (
        sum(s and h for s, h in zip(side, met, strict=True)) for side in (feature.shown, feature.in_base)
    )
    return Excess(
        feature=feature.name,
        predicate=feature.predicate,
        condition=condition,
        rate_in=hits / max(1, n_in),
        base_in=base_hits / max(1, n_in),
        rate_out=(n_shown - hits) / n_out if n_out else 0.0,
        f1=2 * hits / max(1, n_in + n_shown),
        n=n_in,
        named=feature.named,
    )
