"""What a checkpoint holds: ids and counters. Everything else is read back from the ledger."""

from __future__ import annotations

from typing import TypedDict


class AuditState(TypedDict, total=False):
    """The graph's state: the audit, the number of the step to come, and where to go next."""

    audit_id: str
    step: int
    route: str
