"""What calls in flight have finished so far: a file beside the ledger, emptied as calls are settled.

Nothing in it is evidence. A call that was cut off takes its finished batches from here, and what
was in flight says how many forward tokens the interruption lost.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from sqlite_utils import Database

from auditor import beside

Tokens = dict[str, int]


class Unfinished:
    """The batches of an audit's calls that are not settled yet."""

    def __init__(self, path: Path, audit_id: str) -> None:
        """Open the file, made when missing; a damaged one is moved aside first, and `aside` says so.

        Args:
            path: The file, shared by the audits of one ledger.
            audit_id: Whose batches.

        Raises:
            LedgerError: another process keeps it locked, or it can't be made or moved.
        """
        self.audit_id = audit_id
        columns = {"audit_id": str, "call": str, "batch": str, "tokens": str, "value": bytes}
        with beside.alone(path):
            self.aside = beside.mend(path)
            self.connection = beside.connected(path)
            self.connection.isolation_level = None
            Database(self.connection)["batches"].create(columns, pk=("audit_id", "call", "batch"), if_not_exists=True)  # type: ignore[union-attr]

    def of_call(self, call: str) -> CallBatches:
        """Return where one call keeps its batches."""
        return CallBatches(self, call)

    def finished(self, call: str) -> int:
        """Return how many batches of a call are kept."""
        return int(
            self._one("SELECT count(*) FROM batches WHERE audit_id = ? AND call = ? AND value IS NOT NULL", call)
        )

    def in_flight(self, call: str) -> Tokens | None:
        """Return the forward tokens of the batches that began and never ended; None for a call that has no batches."""
        sql = "SELECT tokens, value IS NULL FROM batches WHERE audit_id = ? AND call = ?"
        rows = self.connection.execute(sql, (self.audit_id, call)).fetchall()
        lost: Tokens = {}
        for tokens, open_ in rows:
            for role, n in json.loads(tokens).items() if open_ else ():
                lost[role] = lost.get(role, 0) + n
        return lost if rows else None

    def forget(self, call: str | None = None) -> None:
        """Drop what is kept of a call, or of all calls of the audit."""
        only = "" if call is None else " AND call = ?"
        given = (self.audit_id,) if call is None else (self.audit_id, call)
        self.connection.execute(f"DELETE FROM batches WHERE audit_id = ?{only}", given)

    def close(self) -> None:
        """Close the file."""
        self.connection.close()

    def _one(self, sql: str, call: str) -> int:
        found: tuple[int] = self.connection.execute(sql, (self.audit_id, call)).fetchone()
        return found[0]


@dataclass(frozen=True)
class CallBatches:
    """The batches of one call, as `tools.kept.Keeper` has them."""

    unfinished: Unfinished
    call: str

    def get(self, key: str) -> bytes | None:
        """Return what a batch came to; None where it was never finished."""
        sql = "SELECT value FROM batches WHERE audit_id = ? AND call = ? AND batch = ?"
        row = self.unfinished.connection.execute(sql, (*self._mine, key)).fetchone()
        return None if row is None else row[0]

    def begin(self, key: str, tokens: Tokens) -> None:
        """Note that a batch has begun, and what it may cost."""
        sql = "INSERT OR REPLACE INTO batches (audit_id, call, batch, tokens, value) VALUES (?, ?, ?, ?, NULL)"
        self.unfinished.connection.execute(sql, (*self._mine, key, json.dumps(tokens)))

    def put(self, key: str, value: bytes) -> None:
        """Keep what a batch came to."""
        sql = "UPDATE batches SET value = ? WHERE audit_id = ? AND call = ? AND batch = ?"
        self.unfinished.connection.execute(sql, (value, *self._mine, key))

    @property
    def _mine(self) -> tuple[str, str]:
        return self.unfinished.audit_id, self.call
