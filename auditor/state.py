"""What a checkpoint holds: ids and counters. Everything else is read back from the ledger."""

from __future__ import annotations

from typing import TypedDict


class AuditState(TypedDict, total=False):
    """The graph's state: the audit, the number of the step to come, where to go next, the ledger's last row so far."""

    audit_id: str
    step: int
    route: str
    head: str
