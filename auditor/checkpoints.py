"""Where LangGraph keeps how far an audit has come: a file that may be damaged or missing, since the rows say the same."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.types import StateSnapshot

from auditor import beside
from auditor.execute import Desk


@contextmanager
def opened(path: Path, audit_id: str, told: Callable[[str], None]) -> Iterator[SqliteSaver]:
    """Open the checkpoints of a ledger's audits; a file that this audit can't go on from is moved aside first.

    Args:
        path: The file, made when missing.
        audit_id: Whose checkpoints have to be readable.
        told: Given a sentence when a file was moved aside.

    Raises:
        LedgerError: another process keeps it locked, or it can't be made or moved.
    """
    with beside.alone(path):
        if why := beside.damage(path) or _unreadable(path, audit_id):
            told(beside.said_of(path, beside.move_aside(path), why))
        connection = beside.connected(path)
        saver = SqliteSaver(connection)
        saver.setup()
    with closing(connection):
        yield saver


def _unreadable(path: Path, audit_id: str) -> str:
    """Return why a sound file holds no checkpoints of this audit that can be read, an empty text where it may.

    Raises:
        sqlite3.Error: another process keeps it locked.
    """
    if not path.exists():
        return ""
    with closing(sqlite3.connect(path, timeout=beside.TIMEOUT_S)) as held:
        try:
            SqliteSaver(held).get_tuple({"configurable": {"thread_id": audit_id}})
        except Exception as error:  # whatever its bytes make of the reader
            if beside.is_outside(error):
                raise
            return f"{type(error).__name__}: {error}"
    return ""


def fits(found: StateSnapshot, desk: Desk) -> bool:
    """Return whether an audit can go on from a checkpoint: it is this audit's, not its end, and the ledger has its last row.

    A ledger that was restored from a copy is behind its checkpoints, and goes on from its rows.
    """
    values: dict[str, Any] = found.values
    if not found.next or values.get("audit_id") != desk.audit_id:
        return False
    return any(row["hash"] == values.get("head") for row in desk.ledger.everything(desk.audit_id))
