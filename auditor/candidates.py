"""From what instruments suggest to claims that can be tested: read, name, merge, rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from auditor.config import AuditSpec
from tools.claims import older
from tools.claims.claim import Claim
from tools.claims.condition import Condition
from tools.claims.predicate import Predicate
from tools.claims.sameness import AtHand, same_claims
from tools.claims.suggestion import Suggestion

MOST_FROM_ONE = 3.0
HEARD = "chat"
"""The instrument whose words a lead is told in, where it has any: it heard them in whole replies."""


@dataclass(frozen=True)
class Lead:
    """A claim that instruments suggest, with the readings behind it.

    `strength` is the sum over tools of their best suggestion's strength, at most `MOST_FROM_ONE` from each: agreement
    of independent instruments counts for more than one loud instrument.
    """

    claim: Claim
    strength: float
    lift: float
    readings: tuple[int, ...]
    tools: tuple[str, ...]


def complete(suggestion: Suggestion, spec: AuditSpec) -> tuple[Condition, Predicate] | None:
    """Return a suggestion's condition and predicate as the audit puts them; None for one that is no whole claim.

    What has no parts of its own is read as a sentence of the catalogue's.
    """
    if suggestion.predicate is None or suggestion.condition is None:
        return spec.catalogue.read(suggestion.text, spec.topics())
    dressed = spec.catalogue.dressed(suggestion.condition, spec.topics())
    return dressed, spec.catalogue.recognised(suggestion.predicate)


def leads(readings: Sequence[dict[str, Any]], spec: AuditSpec, at_hand: AtHand) -> list[Lead]:
    """Return the distinct claims that the readings' suggestions amount to, strongest first.

    Args:
        readings: Rows of the ledger, each with `seq`, `tool` and `suggestion`.
        spec: The audit.
        at_hand: Prompts and replies, on which it is decided whether two claims are one.
    """
    groups: list[list[tuple[Claim, Suggestion, int, str]]] = []
    for row in readings:
        if row["suggestion"] is None:
            continue
        suggestion = older.suggestion(row["suggestion"], spec.catalogue, spec.topics())
        parts = complete(suggestion, spec)
        if parts is None:
            continue
        entry = (spec.catalogue.claim(*parts), suggestion, int(row["seq"]), str(row["tool"]))
        home = next((g for g in groups if same_claims(g[0][0], entry[0], at_hand)), None)
        if home is None:
            groups.append([entry])
        else:
            home.append(entry)
    return sorted((_merge(g) for g in groups), key=lambda lead: (-lead.strength, lead.readings))


def _merge(group: list[tuple[Claim, Suggestion, int, str]]) -> Lead:
    """Return one lead for a group, in the words of `HEARD`, else of the strongest suggestion."""
    best: dict[str, float] = {}
    for _, suggestion, _, tool in group:
        best[tool] = max(best.get(tool, 0.0), min(suggestion.strength, MOST_FROM_ONE))
    spoken = min(group, key=lambda entry: (entry[3] != HEARD, -entry[1].strength))
    return Lead(
        claim=spoken[0],
        strength=sum(best.values()),
        lift=spoken[1].lift,
        readings=tuple(seq for _, _, seq, _ in group),
        tools=tuple(sorted(best)),
    )
