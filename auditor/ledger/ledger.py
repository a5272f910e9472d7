"""The ledger: one SQLite file to which audits are appended, and from which everything else is derived."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from auditor.errors import LedgerError
from auditor.ledger import file
from auditor.ledger.chain import GENESIS, Verification, follow, row_hash
from auditor.ledger.rows import decode, encode, last_link, links, select, stored


class Ledger:
    """An append-only log of audits in one SQLite file.

    Made by `Ledger.open`. May be shared by threads, each of which gets a connection of its own, and the file by
    processes, each of which opens its own `Ledger`.

    Attributes:
        path: The file, absolute.
    """

    def __init__(self, path: Path, *, read_only: bool) -> None:
        self.path = path
        self._read_only = read_only
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._connections: dict[threading.Thread, sqlite3.Connection] | None = {}

    @classmethod
    def open(cls, path: Path, *, create: bool = True) -> Ledger:
        """The ledger at `path`, made first if there is none.

        An up-to-date ledger is not written to. A refusal leaves no file behind.

        Args:
            path: The SQLite file.
            create: Whether to make the file where it is absent, and to insist that it can be written to. Without,
                a read-only ledger can be opened for reading.

        Raises:
            LedgerError: There is no such file or folder, it can't be written to, it is not a ledger, or it was made
                by a newer version.
        """
        path = Path(path)
        with file.plain_errors(path):
            path = Path(os.path.realpath(path))
            if not path.exists():
                if not create:
                    raise LedgerError(f"there is no ledger at {path}: pass the path of one, or start an audit there")
                file.make(path)
            file.refuse_foreign(path)
            read_only = not (file.may_write(path) and file.may_write(path.parent))
            if read_only and create:
                raise LedgerError(
                    f"{path} can only be read: make the file and its folder writable, or pass another path"
                )
            ledger = cls(path, read_only=read_only)
            try:
                file.bring_up_to_date(ledger._connection(), path)
            except BaseException:
                ledger.close()
                raise
        return ledger

    def append(self, table: str, audit_id: str, **columns: object) -> int:
        """The `seq` of a new row, which outlives this process once this returns.

        Args:
            table: Where it belongs.
            audit_id: The audit it belongs to; an audit begins with its row in `audits`.
            columns: All but the common columns; those that may be empty can be left out. JSON columns take Python
                values.

        Raises:
            LedgerError: The row doesn't fit the table, exists already, or could not be written. Nothing was.
        """
        return self.append_many(audit_id, [(table, columns)])[0]

    def append_many(self, audit_id: str, rows: Sequence[tuple[str, dict[str, object]]]) -> list[int]:
        """The `seq` of each of several new rows of one audit, written together or not at all.

        Args:
            audit_id: The audit they belong to.
            rows: Table and columns of each, as in `append`.

        Raises:
            LedgerError: One of them doesn't fit its table, exists already, or could not be written. Nothing was.
        """
        if not isinstance(audit_id, str) or not audit_id:
            raise LedgerError(f"{audit_id!r} can't name an audit: pass a non-empty str")
        encoded = [(table, encode(table, columns)) for table, columns in rows]
        if self._read_only:
            raise LedgerError(f"{self.path} can only be read: make the file and its folder writable to append to it")
        with self._transaction("BEGIN IMMEDIATE") as conn:
            last, prev = last_link(conn, audit_id) or (0, GENESIS)
            if not last and encoded and encoded[0][0] != "audits":
                raise LedgerError(f"{self._no_such(audit_id)}; a new one begins with its row in audits")
            for seq, (table, columns) in enumerate(encoded, last + 1):
                now = datetime.now(UTC).isoformat(timespec="microseconds")
                row = {"audit_id": audit_id, "seq": seq, "at": now, "prev": prev, **columns}
                row["hash"] = prev = row_hash(table, row)
                names, marks = ", ".join(f'"{name}"' for name in row), ", ".join("?" * len(row))
                conn.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", list(row.values()))
        return list(range(last + 1, last + 1 + len(encoded)))

    def rows(self, table: str, audit_id: str, **where: object) -> list[dict[str, Any]]:
        """The rows of one table, by `seq`, with JSON columns as Python values.

        Args:
            table: Where to look.
            audit_id: Whose rows.
            where: What columns must equal; None means empty.

        Raises:
            LedgerError: There is no such audit, table or column, or the file can't be read.
        """
        return self._some(table, audit_id, where, "ORDER BY seq")

    def find(self, table: str, audit_id: str, **where: object) -> dict[str, Any] | None:
        """The last of the rows that `rows` would give, or None.

        Args:
            table: Where to look.
            audit_id: Whose row.
            where: What columns must equal; None means empty.

        Raises:
            LedgerError: There is no such audit, table or column, or the file can't be read.
        """
        return next(iter(self._some(table, audit_id, where, "ORDER BY seq DESC LIMIT 1")), None)

    def everything(self, audit_id: str) -> list[dict[str, Any]]:
        """All rows of an audit by `seq`, each with its table's name under `table`.

        Args:
            audit_id: The audit.

        Raises:
            LedgerError: There is no such audit, or the file can't be read.
        """
        with self._transaction("BEGIN") as conn:
            found = [{"table": table, **decode(table, row)} for table, row in links(conn, audit_id)]
        if not found:
            raise LedgerError(self._no_such(audit_id))
        return found

    def audits(self) -> list[str]:
        """The ids of all audits, oldest first."""
        with self._transaction("BEGIN") as conn:
            return [audit_id for (audit_id,) in conn.execute("SELECT audit_id FROM audits ORDER BY rowid")]

    def named(self, beginning: str) -> str:
        """The id of the audit that is called so, or of the only one whose id begins so.

        Args:
            beginning: An id, or as much of one as tells it from the others.

        Raises:
            LedgerError: No id begins so, or several do; the message has those there are.
        """
        known = self.audits()
        begin = [audit_id for audit_id in known if beginning and audit_id.startswith(beginning)]
        if beginning in known:
            return beginning
        if len(begin) > 1:
            raise LedgerError(f"{beginning!r} begins the ids of {len(begin)} audits: write more of {_latest(begin)}")
        if not begin:
            raise LedgerError(f"{self._no_such(beginning)}: {_latest(known)}")
        return begin[0]

    def head(self, audit_id: str) -> str:
        """The hash of an audit's last row: what a report notes down, so that a cut tail shows.

        Args:
            audit_id: The audit.

        Raises:
            LedgerError: There is no such audit, or the file can't be read.
        """
        with self._transaction("BEGIN") as conn:
            last = last_link(conn, audit_id)
        if last is None:
            raise LedgerError(self._no_such(audit_id))
        return last[1]

    def verify(self, audit_id: str, head: str | None = None) -> Verification:
        """Whether an audit's rows are those that were written, as far as the chain can tell.

        Args:
            audit_id: The audit.
            head: The hash that its last row had when somebody noted it down; without it a cut tail can't be seen.

        Raises:
            LedgerError: There is no such audit, or the file can't be read.
        """
        with self._transaction("BEGIN") as conn:
            result = follow(links(conn, audit_id), head)
        if not result.rows:
            raise LedgerError(self._no_such(audit_id))
        return result

    def close(self) -> None:
        """Close the connections of all threads; the ledger can't be used after."""
        with self._lock:
            connections, self._connections = self._connections or {}, None
        if os.getpid() == self._pid:
            for conn in connections.values():
                conn.close()

    def _some(self, table: str, audit_id: str, where: Mapping[str, object], order: str) -> list[dict[str, Any]]:
        """Rows of one table that match, decoded.

        Raises:
            LedgerError: There is no such audit, table or column.
        """
        values = {"audit_id": audit_id} | {column: stored(table, column, value) for column, value in where.items()}
        matches = " AND ".join(f'"{column}" IS ?' for column in values)
        with self._transaction("BEGIN") as conn:
            found = list(select(conn, table, f"{matches} {order}", list(values.values())))
            known = found or last_link(conn, audit_id)
        if not known:
            raise LedgerError(self._no_such(audit_id))
        return [decode(table, row) for row in found]

    def _no_such(self, audit_id: str) -> str:
        """What to tell somebody who asked for an audit that isn't there."""
        return f"there is no audit {audit_id!r} in {self.path}: `auditor list` shows those there are"

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[sqlite3.Connection]:
        """This thread's connection inside a transaction: one state of the file to read, all or nothing to write."""
        with file.plain_errors(self.path):
            conn = self._connection()
            conn.execute(begin)
            try:
                yield conn
                conn.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):  # the first error is the one to tell; some have rolled back already
                    conn.execute("ROLLBACK")
                raise

    def _connection(self) -> sqlite3.Connection:
        """This thread's own connection, made at its first use; those of threads that ended are closed then.

        Raises:
            LedgerError: The ledger was closed, or this is a fork of the process that opened it.
        """
        if os.getpid() != self._pid:
            raise LedgerError(f"{self.path} was opened by another process: call Ledger.open in this one")
        thread = threading.current_thread()
        with self._lock:
            if self._connections is None:
                raise LedgerError(f"{self.path} was closed: call Ledger.open again")
            if thread not in self._connections:
                for ended in [other for other in self._connections if not other.is_alive()]:
                    self._connections.pop(ended).close()
                self._connections[thread] = file.connect(self.path, read_only=self._read_only)
            return self._connections[thread]


def _latest(ids: list[str], n: int = 5) -> str:
    """The last of some ids in words, newest first."""
    if not ids:
        return "it has none"
    last = ", ".join(reversed(ids[-n:]))
    return last if len(ids) <= n else f"{last} and {len(ids) - n} older ones"
