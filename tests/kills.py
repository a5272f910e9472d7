"""An audit that is killed at random moments and resumed each time, beside the same audit left alone."""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from audits import command, finished

POLL_S = 0.02


@dataclass(frozen=True)
class Killed:
    """What a killed audit came to, how often it was killed, and what its ledger says that interruptions lost."""

    result: dict[str, Any]
    kills: int
    lost: int
    seconds: float


def audit_of(db: Path) -> str | None:
    """Return the id of a ledger's only audit; None while there is none."""
    if not db.exists():
        return None
    try:
        with sqlite3.connect(f"file:{db}?mode=ro", uri=True, timeout=5) as connection:
            row = connection.execute("select audit_id from audits").fetchone()
    except sqlite3.OperationalError:
        return None
    return None if row is None else str(row[0])


def run_killed(arguments: Sequence[object], folder: Path, kills: int, most_s: float, seed: int = 0) -> Killed:
    """Run an audit, kill it with SIGKILL so often at random moments, and resume it each time until it ends.

    Args:
        arguments: Of `auditor`, without ledger and report.
        folder: Where ledger and report go.
        kills: How often, or less often where the audit ends before.
        most_s: Each session lives at most so many seconds from when it first writes into its ledger.
        seed: Of the moments.
    """
    rng, db, done, began = random.Random(seed), folder / "killed.db", 0, time.monotonic()
    where = ("--db", db, "--out", folder / "killed", "--quiet", "--json")
    written = writing_of(db)
    process = command(*arguments, *where)
    while done < kills:
        wait_for_writing(process, db, written)
        try:
            process.wait(timeout=rng.uniform(0, most_s))
            break
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            done += 1
        audit_id, written = audit_of(db), writing_of(db)
        process = command("resume", audit_id, *where) if audit_id else command(*arguments, *where)
    code, _, err = finished(process)
    assert code == 0 or "is finished" in err, err  # killed after the verdict, while it wrote the report
    found = ended_in(db)
    return Killed(found, done, lost_in(db, found["audit_id"]), time.monotonic() - began)


def writing_of(db: Path) -> tuple[int, ...]:
    """Return when a ledger's files were last written; empty while there are none."""
    written = []
    for file in db.parent.glob(f"{db.name}*"):
        with suppress(FileNotFoundError):  # SQLite takes its side files away when the last connection closes
            written += [] if file.suffix == ".lock" else [file.stat().st_mtime_ns]
    return tuple(sorted(written))


def wait_for_writing(process: subprocess.Popen[str], db: Path, before: tuple[int, ...]) -> None:
    """Return when a ledger's files are not as they were before, or its process has ended."""
    while writing_of(db) == before and process.poll() is None:
        time.sleep(POLL_S)


def ended_in(db: Path) -> dict[str, Any]:
    """Return what a ledger's only audit came to, as its rows have it."""
    from auditor.conclude import result_of
    from auditor.ledger import Ledger

    with closing(Ledger.open(db, create=False)) as ledger:
        (audit_id,) = ledger.audits()
        ended = result_of(ledger, audit_id)
        assert ended is not None, "it has no verdict"
        return ended.model_dump(mode="json")


def lost_in(db: Path, audit_id: str) -> int:
    """Return the forward tokens that interruptions lost, as the ledger has them."""
    from auditor.budget import Budget
    from auditor.ledger import Ledger

    with closing(Ledger.open(db, create=False)) as ledger:
        return Budget(ledger, audit_id, 0).lost()


def trials(db: Path) -> list[tuple[object, ...]]:
    """Return every trial of a ledger, without its place in the chain."""
    with sqlite3.connect(db) as connection:
        return connection.execute(
            "select test_id, idx, channel, seed, prompt, reply, outcome from trials order by test_id, idx, channel"
        ).fetchall()


def readings(db: Path) -> list[tuple[object, ...]]:
    """Return every reading of a ledger, without its place in the chain."""
    with sqlite3.connect(db) as connection:
        return connection.execute("select call_key, tool, name, channel, value, controls, lift, suggestion, detail "
                                  "from readings order by seq").fetchall()  # fmt: skip
