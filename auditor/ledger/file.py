"""The file under a ledger: told from other files before SQLite touches it, made in one step, opened one way."""

from __future__ import annotations

import os
import sqlite3
import stat
import struct
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from filelock import FileLock
from sqlite_utils import Database

from auditor.errors import LedgerError
from auditor.ledger.place import unsafe_place
from auditor.ledger.schema import APPLICATION_ID, SCHEMA_VERSION, TABLES, migrations

TIMEOUT_S = 30.0
"""How long to wait for another process that is writing."""

_ADVICE = {
    sqlite3.SQLITE_BUSY: "another process kept it locked; let that one end, then try again",
    sqlite3.SQLITE_FULL: "the disk is full; free some space, then try again",
    sqlite3.SQLITE_IOERR: "the disk failed or is full; check it, then try again",
    sqlite3.SQLITE_READONLY: "it can only be read; make the file and its folder writable, or copy it elsewhere",
    sqlite3.SQLITE_CANTOPEN: "it can't be opened; check that it exists and that it and its folder are writable",
    sqlite3.SQLITE_CORRUPT: "the file is damaged; restore a copy",
    sqlite3.SQLITE_NOTADB: "the file is damaged; restore a copy",
    sqlite3.SQLITE_CONSTRAINT_CHECK: "pass a value for which this holds",
    sqlite3.SQLITE_CONSTRAINT: "append first the row it refers to, or use the one that is there already",
}


@contextmanager
def plain_errors(path: Path) -> Iterator[None]:
    """Turns what SQLite and the file system raise inside the block into errors that say what to do.

    Args:
        path: The ledger.

    Raises:
        LedgerError: Instead of any `sqlite3.Error`, `OSError` or `UnicodeEncodeError`.
    """
    try:
        yield
    except sqlite3.Error as exc:
        code = getattr(exc, "sqlite_errorcode", 0)  # the extended one, whose low byte is its family
        advice = _ADVICE.get(code) or _ADVICE.get(code & 0xFF) or "check that nothing else changed the file"
        where = unsafe_place(path) if code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_IOERR) else ""
        raise LedgerError("; ".join(filter(None, (f"{path}: {exc}: {advice}", where)))) from exc
    except UnicodeEncodeError as exc:
        raise LedgerError(f"{path}: {exc}: pass an audit id that UTF-8 can write") from exc
    except OSError as exc:
        raise LedgerError(f"{path}: {exc}: check the path, its folder's permissions and the space left") from exc


def may_write(path: Path) -> bool:
    """Whether a file or folder may be changed. One without any write permission counts as kept, even for root.

    Args:
        path: It must exist.
    """
    anyone = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH
    return bool(path.stat().st_mode & anyone) and os.access(path, os.W_OK)


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """A connection in autocommit mode that never makes a file, and that another thread may close.

    Args:
        path: An existing SQLite file.
        read_only: Open it without writing, not even beside it where nothing waits in a write-ahead log.
    """
    mode = "rw"
    if read_only:
        mode = "ro" if Path(f"{path}-wal").exists() else "ro&immutable=1"
    uri = f"{path.as_uri()}?mode={mode}"
    conn = sqlite3.connect(uri, uri=True, timeout=TIMEOUT_S, isolation_level=None, check_same_thread=False)
    conn.text_factory = _text
    try:
        if not read_only:
            conn.execute("PRAGMA journal_mode=WAL")  # changes nothing where it is so already
        conn.execute("PRAGMA foreign_keys=ON")
        conn.execute("PRAGMA synchronous=NORMAL")
    except BaseException:
        conn.close()
        raise
    return conn


def refuse_foreign(path: Path) -> None:
    """Raises unless the first bytes of the file are a ledger's.

    SQLite is not asked: it would put files of its own beside one that isn't ours.

    Args:
        path: An existing file.

    Raises:
        LedgerError: It is anything else.
    """
    instead = "pass the path of a ledger, or one where no file is yet"
    if not path.is_file():
        raise LedgerError(f"{path} is not a file: {instead}")
    with path.open("rb") as opened:
        header = opened.read(100)
    if len(header) < 100 or not header.startswith(b"SQLite format 3\0"):
        raise LedgerError(f"{path} is not an SQLite file, so not a ledger: {instead}")
    (application_id,) = struct.unpack_from(">i", header, 68)
    if application_id != APPLICATION_ID:
        raise LedgerError(f"{path} is an SQLite file of something else, not a ledger: {instead}")


def make(path: Path) -> None:
    """Puts an empty ledger at `path`, unless another process is quicker.

    It is made in a folder of its own and moved into place complete, so that nobody meets half of it.

    Args:
        path: Where no file is yet.

    Raises:
        LedgerError: The folder doesn't exist or can't be written to, or the log of a deleted ledger is still there.
    """
    if not path.parent.is_dir():
        raise LedgerError(f"{path} can't be made: there is no folder {path.parent}; make it, or pass another path")
    if not may_write(path.parent):
        raise LedgerError(f"{path} can't be made: the folder {path.parent} is not writable; pass another path")
    lock = FileLock(f"{path}.lock", timeout=TIMEOUT_S)
    with lock:
        if path.exists():
            return
        try:
            for leftover in (Path(f"{path}-wal"), Path(f"{path}-journal")):
                if leftover.exists():  # SQLite would replay it into the new file
                    raise LedgerError(
                        f"{leftover} is left of a ledger that was deleted: move it away, or pass another path"
                    )
            with TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as folder:
                new = Path(folder, "new.db")
                new.touch()
                with closing(connect(new)) as conn:
                    _migrate(conn)
                    conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                os.replace(new, path)
        except BaseException:
            os.unlink(lock.lock_file)
            raise


def bring_up_to_date(conn: sqlite3.Connection, path: Path) -> None:
    """Applies the migrations an older ledger lacks; one that lacks none is not written to.

    Args:
        conn: A connection to it.
        path: Where it is.

    Raises:
        LedgerError: It was made by a newer version, or lacks a table.
    """
    (version,) = conn.execute("PRAGMA user_version").fetchone()
    if version > SCHEMA_VERSION:
        raise LedgerError(
            f"{path} is a ledger of version {version}: this auditor reads up to version {SCHEMA_VERSION}; "
            "update the auditor, or pass another path"
        )
    if version < SCHEMA_VERSION:
        with FileLock(f"{path}.lock", timeout=TIMEOUT_S):
            _migrate(conn)
    present = {name for (name,) in conn.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    if missing := [name for name in TABLES if name not in present]:
        raise LedgerError(f"{path} lacks the table {', '.join(missing)}: it was changed from outside; restore a copy")


def _migrate(conn: sqlite3.Connection) -> None:
    """Apply what is missing, all or nothing."""
    db = Database(conn, recursive_triggers=False, execute_plugins=False)
    conn.execute("BEGIN IMMEDIATE")
    try:
        migrations.apply(db)
        conn.execute(f"PRAGMA application_id={APPLICATION_ID}")
        conn.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        conn.execute("COMMIT")
    except BaseException:
        if conn.in_transaction:
            conn.execute("ROLLBACK")
        raise


def _text(raw: bytes) -> str:
    """Text that isn't UTF-8 comes back altered, so that `verify` can say which row it is in."""
    return raw.decode("utf-8", "surrogateescape")
