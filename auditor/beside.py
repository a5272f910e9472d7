"""The files beside a ledger that only save work: where one is damaged it is moved aside, as the rows hold everything."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from filelock import FileLock

from auditor.errors import LedgerError
from auditor.ledger.file import plain_errors

TIMEOUT_S = 30
OUTSIDE = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_NOMEM)
"""What SQLite says of the machine or of another process, not of the file."""


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold the lock of the ledger that a file lies beside, while the file is looked at, moved aside, made and set up.

    SQLite does not wait for another process while a file goes over to a write-ahead log or gets its first table.

    Args:
        path: The file, named as its ledger with one more suffix.

    Raises:
        LedgerError: whatever SQLite or the file system says inside the block.
    """
    with plain_errors(path), FileLock(path.with_suffix(".lock"), timeout=TIMEOUT_S):
        yield


def connected(path: Path) -> sqlite3.Connection:
    """Return a connection to a file, made when missing, with a write-ahead log. Call it inside `alone`."""
    connection = sqlite3.connect(path, timeout=TIMEOUT_S, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
    except BaseException:
        connection.close()
        raise
    return connection


def damage(path: Path) -> str:
    """Return why SQLite can't work with a file, an empty text where it can or where no file is.

    Raises:
        LedgerError: another process keeps it locked, or the disk is full.
    """
    if not os.path.lexists(path):
        return ""
    if not path.is_file():
        return "it is not a file"
    if not os.access(path, os.R_OK | os.W_OK):
        return "it can't be read and written"
    try:
        with closing(sqlite3.connect(path, timeout=TIMEOUT_S)) as connection:
            (said,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.DatabaseError as error:
        if is_outside(error):
            raise LedgerError(
                f"{path}: {error}: let other processes end, or free some space, then try again"
            ) from error
        return str(error)
    return "" if said == "ok" else " ".join(str(said).split())


def is_outside(error: BaseException) -> bool:
    """Return whether SQLite failed for a reason that lies outside the file."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in OUTSIDE


def move_aside(path: Path) -> Path:
    """Return the new place of a file, moved with the logs that SQLite keeps beside it.

    Raises:
        LedgerError: it can't be moved.
    """
    n = 1
    while os.path.lexists(aside := path.with_name(f"{path.name}.damaged-{n}")):
        n += 1
    with plain_errors(path):
        for log in ("", "-wal", "-shm", "-journal"):
            if os.path.lexists(f"{path}{log}"):
                os.rename(f"{path}{log}", f"{aside}{log}")
    return aside


def mend(path: Path) -> str:
    """Move a damaged file aside, and return a sentence that says so; an empty text where it is sound, or none is there.

    Raises:
        LedgerError: as `damage` and `move_aside`.
    """
    why = damage(path)
    return said_of(path, move_aside(path), why) if why else ""


def said_of(path: Path, aside: Path, why: str) -> str:
    """Return the sentence about a file that was moved aside."""
    return f"{path.name} could not be used ({why[:120]}) and was moved to {aside.name}; the audit goes on from the ledger's rows"
