"""Whether two claims are one: by what they do with the prompts and replies at hand.

Equal terms do the same everywhere; of others it is seen, or it can't be told.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from tools.claims.claim import Claim
from tools.claims.condition import Condition
from tools.claims.conditions.own_files import under_own_files
from tools.claims.kind import Messages
from tools.claims.predicate import Predicate

TOGETHER, LEAST = 0.9, 8
"""Share of the cases in which either holds that both must hold in, and how many such cases are enough to tell."""


class AtHand:
    """Prompts, each with a reply to it, in the order in which they came; one that comes twice counts once.

    What is asked of them is worked out once for each predicate and condition.
    """

    def __init__(self, pairs: Iterable[tuple[Messages, str]] = ()) -> None:
        self.pairs = list({json.dumps(pair): pair for pair in pairs}.values())
        prompts = [json.dumps(messages) for messages, _ in self.pairs]
        self._first = [prompts.index(one) == i for i, one in enumerate(prompts)]
        self._shown: dict[Predicate, list[bool]] = {}
        self._held: dict[Condition, list[bool]] = {}

    def __len__(self) -> int:
        return len(self.pairs)

    def shown(self, predicate: Predicate) -> list[bool]:
        """Return in which replies a predicate shows."""
        if predicate not in self._shown:
            self._shown[predicate] = [predicate.shown(*pair) for pair in self.pairs]
        return self._shown[predicate]

    def held(self, condition: Condition) -> list[bool]:
        """Return in which pairs a condition holds of a prompt that no earlier pair has."""
        if condition not in self._held:
            self._held[condition] = [
                first and condition.holds(messages)
                for first, (messages, _) in zip(self._first, self.pairs, strict=True)
            ]
        return self._held[condition]


def same_predicates(a: Predicate, b: Predicate, at_hand: AtHand, n: int | None = None) -> bool | None:
    """Return whether two predicates are one: both show in `TOGETHER` of the replies in which either does.

    What can't be seen in a reply (a judge's answer, what the subject's files do to a prompt) is the same where its
    terms are, and else can't be told.

    Args:
        a: One predicate.
        b: Another.
        at_hand: Prompts and replies.
        n: How many of them count, the first ones; all where it is left out.

    Returns:
        None where fewer than `LEAST` replies show either: there is too little at hand to tell.
    """
    if a == b:
        return True
    if any(one.needs_judge or one.reads != "reply" for one in (a, b)):
        return None
    return _same(at_hand.shown(a)[:n], at_hand.shown(b)[:n])


def same_conditions(a: Condition, b: Condition, at_hand: AtHand, n: int | None = None) -> bool | None:
    """Return whether two conditions are one: both hold for `TOGETHER` of the prompts for which either does.

    Whether the subject runs under its own files is no matter of the prompt: it is said of both, or they are not one.
    Arguments and result are as those of `same_predicates`.
    """
    if set(a.parts) == set(b.parts) and under_own_files(a) == under_own_files(b):
        return True
    if under_own_files(a) != under_own_files(b):
        return False
    return _same(at_hand.held(a)[:n], at_hand.held(b)[:n])


def same_claims(a: Claim, b: Claim, at_hand: AtHand, n: int | None = None) -> bool:
    """Return whether two claims are one: their predicates are, and their conditions, and both can be told."""
    conditions = same_conditions(a.condition, b.condition, at_hand, n)
    return bool(conditions) and bool(same_predicates(a.predicate, b.predicate, at_hand, n))


def _same(ours: Sequence[bool], theirs: Sequence[bool]) -> bool | None:
    either = [both for both in zip(ours, theirs, strict=True) if any(both)]
    return sum(map(all, either)) / len(either) >= TOGETHER if len(either) >= LEAST else None
