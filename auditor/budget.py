"""One currency of compute, forward tokens by role: reserved before a call, settled after, never exceeded.

A reservation that an interruption left open is released: it is no longer spent, and what was lost
with it is counted apart, with limits of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from auditor.errors import BudgetError
from auditor.ledger import Ledger

Tokens = dict[str, int]
MAX_CUTS = 8
"""A call that is cut off so often without getting any further is not tried again."""


@dataclass(frozen=True)
class Reservation:
    """Forward tokens set aside for one call."""

    key: str
    tokens: Tokens


def total(tokens: Tokens) -> int:
    """Return forward tokens over all roles."""
    return sum(tokens.values())


class Budget:
    """The budget of one audit, recomputed from its ledger rows at every look."""

    def __init__(self, ledger: Ledger, audit_id: str, limit: int) -> None:
        self.ledger, self.audit_id, self.limit = ledger, audit_id, limit

    def spent_by_role(self) -> Tokens:
        """Return forward tokens by role: settled amounts, and reservations of calls that are under way."""
        amounts = {row["key"]: row["tokens"] for row in self.ledger.rows("budget", self.audit_id)}
        for event in self._released():
            amounts.pop(event["key"], None)
        return _added(amounts.values())

    def spent(self) -> int:
        """Return forward tokens over all roles."""
        return total(self.spent_by_role())

    def left(self) -> int:
        """Return the forward tokens that may still be spent."""
        return self.limit - self.spent()

    def lost(self) -> int:
        """Return forward tokens that interruptions lost, over all roles; no part of what is spent."""
        return sum(total(event["body"]["lost"]) for event in self._released())

    def reserve(self, what: str, tokens: Tokens) -> Reservation:
        """Set tokens aside; a second attempt at the same call gets a reservation of its own.

        Raises:
            BudgetError: less is left than the call may cost, the call was cut off at the same place too
                often, or interruptions have lost as much as the whole budget.
        """
        left, need = self.left(), total(tokens)
        if need > left:
            raise BudgetError(f"{what} may cost {need} forward tokens, {left} of {self.limit} are left")
        if self.lost() > self.limit:
            raise BudgetError(
                f"interruptions have lost {self.lost()} forward tokens, more than the budget of {self.limit}"
            )
        cut_at = [event["body"]["finished"] for event in self._released() if _what(event["key"]) == what]
        if len(cut_at) >= MAX_CUTS and len(set(cut_at[-MAX_CUTS:])) == 1:
            raise BudgetError(f"{what} was cut off {MAX_CUTS} times at the same place and is not tried again")
        rows = self.ledger.rows("budget", self.audit_id, state="reserved")
        attempt = sum(_what(row["key"]) == what for row in rows)
        reservation = Reservation(f"{what}#{attempt}", tokens)
        self.ledger.append("budget", self.audit_id, key=reservation.key, state="reserved", tokens=tokens, seconds=0.0)
        return reservation

    def release(self, lost_of: Callable[[str, Tokens], tuple[Tokens, int]]) -> None:
        """Release every reservation that was never settled: for the beginning of a session, when nothing is under way.

        Args:
            lost_of: Takes what was reserved for and how much; returns the forward tokens lost, and how many
                batches of the call had been finished.
        """
        closed = {row["key"] for row in self.ledger.rows("budget", self.audit_id, state="settled")}
        closed |= {event["key"] for event in self._released()}
        for row in self.ledger.rows("budget", self.audit_id, state="reserved"):
            if row["key"] not in closed:
                lost, finished = lost_of(_what(row["key"]), row["tokens"])
                body = {"reserved": row["tokens"], "lost": lost, "finished": finished}
                self.ledger.append("events", self.audit_id, kind="released", key=row["key"], body=body)

    def settled_row(self, reservation: Reservation, tokens: Tokens, seconds: float) -> tuple[str, dict[str, object]]:
        """Return the row that settles a reservation, to be appended with the call's own rows."""
        return "budget", {"key": reservation.key, "state": "settled", "tokens": tokens, "seconds": seconds}

    def _released(self) -> list[dict[str, Any]]:
        return self.ledger.rows("events", self.audit_id, kind="released")


def _what(key: str) -> str:
    return key.rsplit("#", 1)[0]


def _added(amounts: Iterable[Tokens]) -> Tokens:
    totals: Tokens = {}
    for tokens in amounts:
        for role, n in tokens.items():
            totals[role] = totals.get(role, 0) + n
    return totals
