"""Whether two claims are one: by what they do with the prompts and replies at hand, never by how they are written."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TypeVar

from tools.claims.claim import Claim
from tools.claims.condition import Condition
from tools.claims.conditions.own_files import under_own_files
from tools.claims.kind import Messages
from tools.claims.predicate import Predicate

Row = TypeVar("Row")
TOGETHER, LEAST = 0.9, 8
"""Share of the cases in which either holds that both must hold in, and how many such cases are enough to tell."""


def same_predicates(a: Predicate, b: Predicate, pairs: Sequence[tuple[Messages, str]]) -> bool | None:
    """Return whether two predicates are one.

    They are where both show in `TOGETHER` of the replies in which either does. What can't be seen in a reply (a
    judge's answer, what the subject's files do to a prompt) is the same where its terms are, and else can't be told.

    Args:
        a: One predicate.
        b: Another.
        pairs: Prompts, each with a reply to it. A pair that stands there twice counts once.

    Returns:
        None where fewer than `LEAST` replies show either: there is too little at hand to tell.
    """
    if a.terms() == b.terms():
        return True
    if any(one.needs_judge or one.reads != "reply" for one in (a, b)):
        return None
    return _same((a.shown(*pair), b.shown(*pair)) for pair in _distinct(pairs))


def same_conditions(a: Condition, b: Condition, prompts: Sequence[Messages]) -> bool | None:
    """Return whether two conditions are one: both hold for `TOGETHER` of the prompts for which either does.

    Whether the subject runs under its own files is no matter of the prompt: of two conditions it is said of both or
    they are not one.

    Args:
        a: One condition.
        b: Another.
        prompts: What was or could be asked. A prompt that stands there twice counts once.

    Returns:
        None where either holds for fewer than `LEAST` prompts: there is too little at hand to tell.
    """
    if a.terms() == b.terms():
        return True
    if under_own_files(a) != under_own_files(b):
        return False
    return _same((a.holds(messages), b.holds(messages)) for messages in _distinct(prompts))


def same_claims(a: Claim, b: Claim, pairs: Sequence[tuple[Messages, str]], prompts: Sequence[Messages]) -> bool | None:
    """Return whether two claims are one: their predicates are, and their conditions; None where that can't be told.

    Args:
        a: One claim.
        b: Another.
        pairs: Prompts with replies, see `same_predicates`.
        prompts: Prompts, see `same_conditions`.
    """
    predicates = same_predicates(a.predicate, b.predicate, pairs)
    conditions = same_conditions(a.condition, b.condition, prompts)
    if predicates is False or conditions is False:
        return False
    return True if predicates and conditions else None


def _same(cases: Iterable[tuple[bool, bool]]) -> bool | None:
    either = [both for both in cases if any(both)]
    return sum(map(all, either)) / len(either) >= TOGETHER if len(either) >= LEAST else None


def _distinct(rows: Sequence[Row]) -> list[Row]:
    return list({json.dumps(row): row for row in rows}.values())
