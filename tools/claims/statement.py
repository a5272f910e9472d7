"""What a sentence claims: the sentences that claims are printed in, read back, and a few that people write like them."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache

from tools.claims.catalogue import Catalogue, Topics
from tools.claims.condition import CONDITIONS, Condition
from tools.claims.conditions.always import Always
from tools.claims.conditions.combined import AllOf, AnyOf
from tools.claims.conditions.contains import Contains
from tools.claims.conditions.topic import Topic
from tools.claims.labels import TOPIC, labelled
from tools.claims.predicate import PREDICATES, Predicate
from tools.claims.text import QUOTES, parted, words

LONGEST = 400
"""Characters of a sentence."""
WHAT = (
    "it says 'x y'", "it refuses", "it answers in German", "it gives the user a link", "it gives the user a command",
    "its reply begins with 'x'", "its reply ends with 'x'", "its reply has fewer than 9 words", "its reply has a part like 'REGEX'",
)  # fmt: skip
WHEN = (
    "the user says 'x'", "the message begins with 'x'", "the system text says 'x'", "the user is a nurse", "the talk is about TOPIC",
    "it is turn 2 or later", "the message has 900 characters or more",
)  # fmt: skip
Parts = tuple[Condition, Predicate]


def shapes() -> str:
    """Return in one line which sentences can be read."""
    return f"`WHAT` or `when WHEN and WHEN, WHAT`, where WHAT is like {'; '.join(WHAT)}, and WHEN is like {'; '.join(WHEN)}"


def read(text: str, known: Catalogue, topics: Topics) -> Parts | None:
    """Return the condition and the predicate that a sentence says; None where it is no sentence of theirs.

    That is a family's own sentence, or clauses of installed kinds. A catalogue reads words alone, so that it comes
    second where something is quoted.

    >>> read("When the user says 'a', it refuses.", Catalogue(), {})[1].kind
    'refuses'
    """
    quotes = any(sign in text for sign in QUOTES)
    ways: list[Callable[[str, Catalogue, Topics], Parts | None]] = [_of_family, _of_kinds]
    return next((found for way in ways[:: -1 if quotes else 1] if (found := way(text, known, topics))), None)


def parts_of(text: str, known: Catalogue, topics: Topics) -> tuple[Condition, str] | None:
    """Return the condition that a sentence names and what it says beside it; None where it names one that can't be read."""
    return next(((when, does) for when, does in _ways(text, known, topics) if when is not None), None)


def _of_family(text: str, known: Catalogue, topics: Topics) -> Parts | None:
    return known.read(text, topics)


def _of_kinds(text: str, known: Catalogue, topics: Topics) -> Parts | None:
    for when, does in (*_ways(text, known, topics), (Always(), text.strip().removesuffix("."))):
        predicate = None if when is None else PREDICATES.of_clause(does)
        if when is not None and predicate is not None:
            return when, predicate
    return None


def _ways(text: str, known: Catalogue, topics: Topics) -> list[tuple[Condition | None, str]]:
    """Return each way to part a sentence into a condition, None where that can't be read, and the rest."""
    flat = text.strip().removesuffix(".")
    begins = re.match(r"(whatever is asked,\s*)|(?:when|if)\s+", flat, re.IGNORECASE)
    if begins and begins[1]:
        return [(Always(), flat[begins.end() :])]
    if begins:
        at = [found.span() for found in re.finditer(r",\s+", flat)]
        return [(_condition(flat[begins.end() : start], known, topics), flat[stop:]) for start, stop in at]
    behind = [found.span() for found in re.finditer(r",?\s+(?:when|if)\s+", flat, re.IGNORECASE)]
    said = [(_condition(flat[stop:], known, topics), flat[:start]) for start, stop in behind]
    return [*said, *([] if said else [(Always(), flat)])]


def _condition(text: str, known: Catalogue, topics: Topics) -> Condition | None:
    """Return the condition that clauses name: `and` binds before `or`, but for what stands behind `either`."""

    @cache
    def one(clause: str) -> Condition | None:
        bare = clause.removeprefix("either ")
        if bare != clause:
            return several(bare, " or ", AnyOf)
        found = _simple(clause, known, topics)
        return None if found is None or not (isinstance(found, Contains) or ends_alone(clause)) else found

    def several(clause: str, joint: str, kind: type[AllOf | AnyOf]) -> Condition | None:
        parts = parted(clause, joint, one if kind is AllOf else all_of)
        return kind(of=parts) if parts is not None and len(parts) > 1 else None

    @cache
    def all_of(clause: str) -> Condition | None:
        return several(clause, " and ", AllOf) or one(clause)

    @cache
    def any_of(clause: str) -> Condition | None:
        return all_of(clause) or several(clause, " or ", AnyOf)

    def ends_alone(clause: str) -> bool:
        """Return whether no other clause stands behind a joint in this one: a value without quotes would take it in."""
        joints = re.finditer(" (?:and|or) (?:either )?", clause)
        return all(any_of(clause[joint.end() :]) is None for joint in joints)

    return any_of(text)


def _simple(clause: str, known: Catalogue, topics: Topics) -> Condition | None:
    found: Condition | None = CONDITIONS.of_clause(clause)
    if isinstance(found, Topic):
        name = next((one for one in topics if words(one) == words(found.name)), "")
        found = labelled((TOPIC, name), topics) if name else None
    return found or known.condition_said(clause, topics)
