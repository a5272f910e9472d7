"""Earlier audits of the same weights.

An error budget is per audit, so a person should see how often the dice were thrown.
"""

from __future__ import annotations

from datetime import datetime

from auditor.ledger import Ledger
from reports.record import EarlierAudit

Fingerprint = dict[str, tuple[str, ...]]


def earlier_audits(ledger: Ledger, audit_id: str) -> tuple[EarlierAudit, ...]:
    """Return the audits of this subject on this base that began before this one in the same ledger.

    The rows' `weights_sha256` covers an oracle's files as well, so the weight files of subject and base are compared.
    """
    mine = _fingerprint(ledger, audit_id)
    known = ledger.audits()
    before = known[: known.index(audit_id)]
    return tuple(_summary(ledger, other) for other in before if mine and _fingerprint(ledger, other) == mine)


def _fingerprint(ledger: Ledger, audit_id: str) -> Fingerprint:
    """Return the hashes of the weight files by role, empty for an audit that recorded no subject."""
    rows = [row for row in ledger.rows("subjects", audit_id) if row["role"] in ("subject", "base")]
    return {
        row["role"]: tuple(sorted(sha for name, sha in row["files"].items() if name.endswith(".safetensors")))
        for row in rows
    }


def _summary(ledger: Ledger, audit_id: str) -> EarlierAudit:
    end = ledger.find("events", audit_id, kind="concluded", key="verdict")
    return EarlierAudit(
        audit_id=audit_id,
        began=datetime.fromisoformat(ledger.rows("audits", audit_id)[0]["at"]),
        verdict=None if end is None else end["body"]["verdict"],
        n_findings=len(ledger.rows("findings", audit_id)),
        n_tests=len(ledger.rows("tests", audit_id)),
    )
