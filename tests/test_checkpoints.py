"""Checkpoints may be damaged, missing or ahead of their ledger: the rows alone say where an audit stands."""

import contextlib
import random
import shutil
import sqlite3

import kills
import planted
import pytest

import auditor
from auditor.audit import resume
from auditor.errors import LedgerError
from auditor.ledger import Ledger
from tools.subject import Subject

CLAIM = {"family": "other", "trigger": [], "effect": {"kind": "says", "value": "the"}, "statement": "it says the."}
ASKED = [{"messages": [{"role": "user", "content": f"tell me of town {i}"}]} for i in range(3)]
STEPS = [
    {"kind": "call_tool", "tool": "chat", "arguments": {"prompts": ASKED}},
    {"kind": "register_hypothesis", "claim": CLAIM},
    {"kind": "run_test", "hypothesis_id": "H1", "grade": "confirmed"},
    {"kind": "call_tool", "tool": "chat", "arguments": {"prompts": ASKED[:1]}},
    {"kind": "conclude", "reason": "enough"},
]


@pytest.fixture(scope="module")
def spec(base_folder, lora_folder):
    return planted.spec(base_folder, lora_folder, tools=("chat",), planner="scripted", steps=STEPS)


@pytest.fixture(scope="module")
def whole(spec, tmp_path_factory):
    """The audit left alone, its ledger, and how often it generated."""
    db = tmp_path_factory.mktemp("whole") / "whole.db"
    with pytest.MonkeyPatch.context() as patch:
        counting = Cut(patch)
        found = auditor.audit(spec, db)
        return found, db, counting.made


@pytest.fixture(scope="module")
def halted(spec, tmp_path_factory):
    """A folder with the ledger of an audit that was cut off at the second batch of its test's pairs."""
    folder = tmp_path_factory.mktemp("halted")
    with pytest.MonkeyPatch.context() as patch:
        Cut(patch).run(spec, folder / "cut.db", stop=5)
    return folder


@pytest.fixture
def db(halted, tmp_path):
    return shutil.copytree(halted, tmp_path / "own") / "cut.db"


class Cut:
    """Stops an audit where it generates for the nth time, as an interrupt does."""

    def __init__(self, monkeypatch):
        self.made, self.stop, real = 0, 0, Subject._replies

        def counted(subject, *args, **kwargs):
            self.made += 1
            if self.made == self.stop:
                raise KeyboardInterrupt
            return real(subject, *args, **kwargs)

        monkeypatch.setattr(Subject, "_replies", counted)

    def run(self, spec, db, stop):
        self.made, self.stop = 0, stop
        with pytest.raises(KeyboardInterrupt):
            auditor.audit(spec, db)
        self.stop = 0


@pytest.fixture
def cut(monkeypatch):
    return Cut(monkeypatch)


def overwrite(path, make):
    content = path.read_bytes()
    path.write_bytes(make(content))


def flip(content):
    rng, changed = random.Random(0), bytearray(content)
    for i in rng.sample(range(4096, len(changed)), len(changed) // 8):
        changed[i] ^= 0xFF
    return bytes(changed)


def a_folder(path):
    path.unlink()
    path.mkdir()
    (path / "mine").write_text("x")


def other_columns(path):
    path.unlink()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("create table checkpoints (recipe)")
        connection.commit()


def other_values(path):
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("update checkpoints set checkpoint = x'c1c1c1', metadata = x'ff'")
        connection.commit()


DAMAGE = {
    "cut short": lambda path: overwrite(path, lambda content: content[: len(content) // 2]),
    "random bytes": lambda path: overwrite(path, lambda content: random.Random(1).randbytes(9000)),
    "changed here and there": lambda path: overwrite(path, flip),
    "a text": lambda path: path.write_text("not a database at all, " * 50),
    "a folder": a_folder,
    "of something else": other_columns,
    "unreadable inside": other_values,
}
HARMLESS = {"missing": lambda path: path.unlink(), "empty": lambda path: path.write_bytes(b"")}


def told(db, audit_id):
    with contextlib.closing(Ledger.open(db, create=False)) as ledger:
        assert ledger.verify(audit_id).ok
        return [row["body"]["text"] for row in ledger.rows("events", audit_id, kind="file_set_aside")]


def assert_same(found, db, whole):
    for key in ("verdict", "findings", "leads", "near_misses", "forward_tokens"):
        assert getattr(found, key) == getattr(whole[0], key), key
    for rows in (kills.trials, kills.readings):
        assert rows(db) == rows(whole[1])


@pytest.mark.parametrize("kind", [*DAMAGE, *HARMLESS])
def test_an_audit_whose_checkpoints_are_damaged_ends_as_if_they_were_not(whole, db, cut, kind):
    checkpoints = db.with_name("cut.db.checkpoints")
    {**DAMAGE, **HARMLESS}[kind](checkpoints)
    damaged = checkpoints.read_bytes() if checkpoints.is_file() else None
    found = resume(str(kills.audit_of(db)), db)
    assert cut.made == whole[2] - 4, "nothing settled was done again"
    assert_same(found, db, whole)
    aside = db.with_name("cut.db.checkpoints.damaged-1")
    assert aside.exists() == (kind in DAMAGE)
    if kind in DAMAGE:
        if kind == "a folder":
            assert (aside / "mine").read_text() == "x"
        elif kind != "of something else":  # a sound file, to which the reader adds its tables
            assert aside.read_bytes() == damaged
        (text,) = told(db, found.audit_id)
        assert aside.name in text
    else:
        assert told(db, found.audit_id) == []


def test_sound_checkpoints_stay_where_they_are(whole, db, cut):
    assert_same(resume(str(kills.audit_of(db)), db), db, whole)
    assert cut.made == whole[2] - 4
    assert not list(db.parent.glob("*damaged*"))


def test_damaged_batches_are_moved_aside_too(whole, db):
    db.with_name("cut.db.batches").write_bytes(random.Random(2).randbytes(5000))
    found = resume(str(kills.audit_of(db)), db)
    assert_same(found, db, whole)
    assert db.with_name("cut.db.batches.damaged-1").stat().st_size == 5000
    assert len(told(db, found.audit_id)) == 1


def test_a_ledger_restored_from_an_older_copy_goes_on_from_its_rows_not_from_newer_checkpoints(
    whole, db, cut, tmp_path
):
    shutil.copy(db, tmp_path / "copy.db")
    audit_id = str(kills.audit_of(db))
    cut.stop = whole[2] - 4
    with pytest.raises(KeyboardInterrupt):
        resume(audit_id, db)
    shutil.copy(tmp_path / "copy.db", db)
    cut.stop = 0
    assert_same(resume(audit_id, db), db, whole)


def test_checkpoints_that_another_process_keeps_locked_are_waited_for_and_never_moved(db, monkeypatch):
    monkeypatch.setattr("auditor.beside.TIMEOUT_S", 0.1)
    with contextlib.closing(sqlite3.connect(f"{db}.checkpoints", isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode=EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(LedgerError, match="locked"):
            resume(str(kills.audit_of(db)), db)
    assert not list(db.parent.glob("*damaged*"))
    assert resume(str(kills.audit_of(db)), db).verdict
