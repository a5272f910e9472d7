"""One currency of compute, forward tokens by role: reserved before a call, settled after, never exceeded."""

from __future__ import annotations

from dataclasses import dataclass

from auditor.errors import BudgetError
from auditor.ledger import Ledger


@dataclass(frozen=True)
class Reservation:
    """Forward tokens set aside for one call."""

    key: str
    tokens: dict[str, int]


class Budget:
    """The budget of one audit, recomputed from its ledger rows at every look."""

    def __init__(self, ledger: Ledger, audit_id: str, limit: int) -> None:
        self.ledger, self.audit_id, self.limit = ledger, audit_id, limit

    def spent_by_role(self) -> dict[str, int]:
        """Return forward tokens by role: settled amounts, and reservations whose call never settled."""
        amounts = {}
        for row in self.ledger.rows("budget", self.audit_id):
            amounts[row["key"]] = row["tokens"]
        totals: dict[str, int] = {}
        for tokens in amounts.values():
            for role, n in tokens.items():
                totals[role] = totals.get(role, 0) + n
        return totals

    def spent(self) -> int:
        """Return forward tokens over all roles."""
        return sum(self.spent_by_role().values())

    def reserve(self, what: str, tokens: dict[str, int]) -> Reservation:
        """Set tokens aside; a second attempt at the same call gets a reservation of its own.

        Raises:
            BudgetError: less is left than the call may cost.
        """
        left = self.limit - self.spent()
        need = sum(tokens.values())
        if need > left:
            raise BudgetError(f"{what} may cost {need} forward tokens, {left} of {self.limit} are left")
        rows = self.ledger.rows("budget", self.audit_id, state="reserved")
        attempt = sum(row["key"].rsplit("#", 1)[0] == what for row in rows)
        reservation = Reservation(f"{what}#{attempt}", tokens)
        self.ledger.append("budget", self.audit_id, key=reservation.key, state="reserved", tokens=tokens, seconds=0.0)
        return reservation

    def settled_row(
        self, reservation: Reservation, tokens: dict[str, int], seconds: float
    ) -> tuple[str, dict[str, object]]:
        """Return the row that settles a reservation, to be appended with the call's own rows."""
        return "budget", {"key": reservation.key, "state": "settled", "tokens": tokens, "seconds": seconds}
