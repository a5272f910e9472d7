from __future__ import annotations

import hashlib
import json
import math
import multiprocessing
import os
import resource
import signal
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from auditor.errors import LedgerError
from auditor.ledger import Ledger, Verification
from auditor.ledger import file as ledger_file
from auditor.ledger.chain import GENESIS, canonical, row_hash
from auditor.ledger.schema import COLUMNS, COMMON, JSON_COLUMNS, SCHEMA_VERSION

AUDIT: dict[str, Any] = {"spec": {"seed": 1}, "spec_sha256": "s", "versions": {"torch": "2.13"}}
EVENT: dict[str, Any] = {"kind": "note", "body": {"text": "héllo \ud83d"}}
CALL: dict[str, Any] = {
    "key": "k1",
    "state": "settled",
    "step": 1,
    "tool": "chat",
    "arguments": {"prompts": ["a", "b"]},
    "seed": 2**63 - 1,
    "weights_sha256": "w",
}
CLAIM = {"family": "other", "trigger": [], "effect": {"kind": "word", "value": "x"}, "statement": "says x"}
ONE_OF_EACH: list[tuple[str, dict[str, Any]]] = [
    ("audits", AUDIT),
    (
        "subjects",
        {
            "role": "subject",
            "path": "/models/x",
            "files": {"model.safetensors": "f"},
            "weights_sha256": "w",
            "tokenizer_sha256": "t",
            "template_sha256": "c",
            "checks": [],
        },
    ),
    ("tool_calls", CALL),
    (
        "readings",
        {
            "call_key": "k1",
            "tool": "chat",
            "name": "lift",
            "channel": "subject",
            "value": -0.1,
            "controls": {"null:0": 1e-300, "base": 2.0},
            "lift": None,
            "suggestion": None,
            "detail": {"at": [1, 2.0, True, None]},
        },
    ),
    ("hypotheses", {"hypothesis_id": "H1", "claim": CLAIM, "readings": [4]}),
    (
        "tests",
        {
            "test_id": "T1",
            "hypothesis_id": "H1",
            "k": 1,
            "grade": "behaviour",
            "terms": {"n": 30, "lift": 0.2},
            "terms_sha256": "t",
        },
    ),
    (
        "trials",
        {
            "test_id": "T1",
            "idx": 0,
            "channel": "subject",
            "seed": -5,
            "prompt": [{"role": "user", "content": "Hello\n"}],
            "reply": 'naïve "quotes", \x00 and 雪',
            "outcome": 1,
        },
    ),
    (
        "findings",
        {
            "finding_id": "F1",
            "hypothesis_id": "H1",
            "claim": CLAIM,
            "grade": "behaviour",
            "e_value": 1e12,
            "tests": ["T1"],
            "confidence": None,
        },
    ),
    ("budget", {"key": "k1", "state": "settled", "tokens": {"subject": 10, "base": 10}, "seconds": 0.5}),
    ("events", {"kind": "verdict", "key": None, "body": {"verdict": "findings"}}),
]
TABLES = [table for table, _ in ONE_OF_EACH]


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """A ledger whose audit A holds one row of each table, seq 1 to 10 in the order of ONE_OF_EACH."""
    with closing(Ledger.open(tmp_path / "auditor.db")) as opened:
        opened.append_many("A", ONE_OF_EACH)
        yield opened


def files(folder: Path) -> dict[str, bytes]:
    return {entry.name: entry.read_bytes() if entry.is_file() else b"" for entry in folder.iterdir()}


def tamper(ledger: Ledger, *statements: str) -> None:
    """Change the file as somebody with SQL could: after dropping every trigger, with no foreign keys."""
    with closing(sqlite3.connect(ledger.path, isolation_level=None)) as conn:
        conn.execute("PRAGMA ignore_check_constraints=ON")
        for (name,) in conn.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall():
            conn.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            assert conn.execute(statement).rowcount == 1, statement


def in_processes(target: Any, *jobs: tuple[Any, ...]) -> None:
    context = multiprocessing.get_context("spawn")
    started = [context.Process(target=target, args=job) for job in jobs]
    for process in started:
        process.start()
    for process in started:
        process.join(120)
    assert [process.exitcode for process in started] == [0] * len(started)


# --- what goes in comes out


@pytest.mark.parametrize(("table", "given_columns"), ONE_OF_EACH, ids=TABLES)
def test_rows_come_back_as_given(ledger: Ledger, table: str, given_columns: dict[str, Any]) -> None:
    (row,) = ledger.rows(table, "A")
    filled = {"result": None, "error": None} if table == "tool_calls" else {}
    assert {column: value for column, value in row.items() if column not in COMMON} == given_columns | filled
    assert list(row) == list(COLUMNS[table])
    assert row["audit_id"] == "A"
    assert len(row["at"]) == len("2026-01-01T00:00:00.000000+00:00")


def test_every_table_of_the_schema_is_in_these_tests() -> None:
    assert set(COLUMNS) == set(JSON_COLUMNS) == set(TABLES)


def test_tuples_become_lists_and_whole_reals_become_floats(ledger: Ledger) -> None:
    ledger.append("budget", "A", key="k2", state="reserved", tokens={"x": (1, (2,))}, seconds=3)
    row = ledger.find("budget", "A", key="k2")
    assert row is not None
    assert row["tokens"] == {"x": [1, [2]]}
    assert type(row["seconds"]) is float
    ledger.append("budget", "A", key="k3", state="reserved", tokens={}, seconds=-0.0)
    assert ledger.verify("A").ok


def test_rows_are_filtered_by_any_column_and_find_gives_the_last(ledger: Ledger) -> None:
    for number, key in enumerate(["a", "b", "a"]):
        ledger.append("events", "A", kind="n", key=f"{key}{number}", body={"number": number, "who": key})
    assert [row["seq"] for row in ledger.rows("events", "A", kind="n")] == [11, 12, 13]
    assert [row["seq"] for row in ledger.rows("events", "A", key=None)] == [10]
    assert [row["seq"] for row in ledger.rows("events", "A", body={"who": "b", "number": 1})] == [12]
    assert ledger.rows("events", "A", kind="absent") == []
    found = ledger.find("events", "A", kind="n")
    assert found is not None
    assert found["seq"] == 13
    assert ledger.find("events", "A", kind="absent") is None


def test_one_sequence_runs_over_all_tables_of_an_audit(ledger: Ledger) -> None:
    ledger.append("audits", "B", **AUDIT)
    assert [ledger.append("events", audit, **EVENT) for audit in "ABAB"] == [11, 2, 12, 3]
    assert [(row["seq"], row["table"]) for row in ledger.everything("A")] == list(
        enumerate([*TABLES, "events", "events"], 1)
    )
    assert ledger.audits() == ["A", "B"]


def test_the_chain_can_be_rederived_without_our_code(ledger: Ledger) -> None:
    ledger.append("audits", "B", **AUDIT)
    prev = GENESIS
    with closing(sqlite3.connect(ledger.path)) as conn:
        conn.row_factory = sqlite3.Row
        for seq, table in enumerate(TABLES, 1):
            row = dict(conn.execute(f"SELECT * FROM {table} WHERE audit_id = 'A'").fetchone())
            kept = row.pop("hash")
            text = json.dumps({"table": table, **row}, sort_keys=True, separators=(",", ":"))
            assert (row["seq"], row["prev"]) == (seq, prev)
            assert kept == hashlib.sha256(text.encode()).hexdigest()
            prev = kept
    assert ledger.head("A") == prev
    assert ledger.verify("A", prev) == Verification(ok=True, rows=10, head=prev, broken_at=None)
    assert ledger.verify("A", prev.replace(prev[0], "x")).broken_at == 11


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(json_values)
@settings(deadline=None)
def test_canonical_json_comes_back_and_says_the_same_again(value: object) -> None:
    text = canonical(value, "here")
    assert json.loads(text) == value
    assert canonical(json.loads(text), "here") == text
    assert text.isascii()


@given(st.dictionaries(st.text(), st.integers(), min_size=2))
@settings(deadline=None)
def test_canonical_json_does_not_depend_on_the_order_of_keys(value: dict[str, int]) -> None:
    turned = dict(reversed(value.items()))
    assert json.dumps(turned) != json.dumps(value)
    assert canonical(turned, "here") == canonical(value, "here")


@given(
    body=json_values.filter(lambda value: value is not None),
    reply=st.text(),
    seed=st.integers(-(2**63) + 1, 2**63 - 1),
    value=st.floats(allow_nan=False, allow_infinity=False),
)
@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_accepted_is_kept_exactly(
    ledger: Ledger, body: object, reply: str, seed: int, value: float
) -> None:
    idx = len(ledger.rows("trials", "A"))
    trial = {"test_id": "T1", "idx": idx, "channel": "base", "seed": seed, "prompt": body, "reply": reply, "outcome": 0}
    reading = {"call_key": reply, "tool": "t", "name": "n", "channel": "c", "value": value, "controls": {}}
    seqs = ledger.append_many("A", [("trials", trial), ("readings", reading)])
    (kept,) = ledger.rows("trials", "A", seq=seqs[0])
    assert {column: kept[column] for column in trial} == trial
    assert ledger.rows("readings", "A", seq=seqs[1], call_key=reply)[0]["value"] == value
    assert ledger.verify("A", ledger.head("A")).ok


# --- append-only


@pytest.mark.parametrize("table", TABLES)
def test_the_file_itself_refuses_to_change_a_row(ledger: Ledger, table: str) -> None:
    before = ledger.everything("A")
    changes = [
        f"UPDATE {table} SET at = at",
        f"DELETE FROM {table}",
        f"INSERT OR REPLACE INTO {table} SELECT * FROM {table}",
    ]
    with closing(sqlite3.connect(ledger.path)) as conn:  # with no pragma of ours
        for change in changes:
            with pytest.raises(sqlite3.IntegrityError, match=f"{table} is append-only"):
                conn.execute(change)
    assert ledger.everything("A") == before


@pytest.mark.parametrize(
    ("table", "columns"),
    [(table, columns) for table, columns in ONE_OF_EACH if table not in ("subjects", "readings", "events")]
    + [("events", {"kind": "once", "key": "x", "body": {}})],
)
def test_a_row_with_a_taken_id_is_refused_and_the_first_stays(
    ledger: Ledger, table: str, columns: dict[str, Any]
) -> None:
    if table == "events":
        ledger.append("events", "A", **columns)
    before = ledger.everything("A")
    with pytest.raises(LedgerError, match="there is a row with this"):
        ledger.append(table, "A", **columns)
    names = ", ".join(name for name in COLUMNS[table] if name not in ("seq", "prev"))
    again = f"SELECT {names}, {len(before) + 1}, '{ledger.head('A')}' FROM {table} ORDER BY seq DESC LIMIT 1"
    said = pytest.raises(sqlite3.IntegrityError, match="there is a row with this")
    with closing(sqlite3.connect(ledger.path)) as conn, said:
        conn.execute(f"INSERT OR REPLACE INTO {table} ({names}, seq, prev) {again}")
    assert ledger.everything("A") == before


def test_only_settled_keys_and_keyed_events_are_unique(ledger: Ledger) -> None:
    for state in ("started", "started", "failed", "failed"):
        ledger.append("tool_calls", "A", **(CALL | {"state": state}))
    for _ in range(2):
        ledger.append("budget", "A", key="k1", state="reserved", tokens={}, seconds=0.0)
        ledger.append("events", "A", kind="note", body={})
    ledger.append("audits", "B", **AUDIT)
    ledger.append("tool_calls", "B", **CALL)
    assert len(ledger.rows("tool_calls", "A", key="k1")) == 5
    assert ledger.verify("A").ok


def test_the_file_refuses_a_row_that_does_not_continue_the_chain(ledger: Ledger) -> None:
    with closing(sqlite3.connect(ledger.path)) as conn:
        for seq, prev in [(12, ledger.head("A")), (11, GENESIS), (10, ledger.head("A"))]:
            with pytest.raises(sqlite3.IntegrityError, match="must continue the chain"):
                conn.execute("INSERT INTO events VALUES ('A', ?, 'now', ?, 'h', 'k', NULL, '{}')", (seq, prev))


# --- verify


@pytest.mark.parametrize(
    ("change", "seq"),
    [
        ("UPDATE audits SET spec = '{\"seed\":2}'", 1),
        ("UPDATE subjects SET weights_sha256 = 'other'", 2),
        ("UPDATE tool_calls SET error = ''", 3),
        ("UPDATE readings SET value = -0.10000000000000002", 4),
        ("UPDATE readings SET value = 9e999", 4),
        ("UPDATE hypotheses SET readings = '[4 ]'", 5),
        ("UPDATE tests SET at = '2020-01-01T00:00:00.000000+00:00'", 6),
        ("UPDATE trials SET outcome = 0", 7),
        ("UPDATE trials SET reply = CAST(x'ff' AS TEXT)", 7),
        ("UPDATE findings SET confidence = 0.99", 8),
        ("UPDATE budget SET hash = prev", 9),
        ("UPDATE events SET prev = hash", 10),
        ("UPDATE trials SET seq = 11", 7),
        ("UPDATE trials SET audit_id = 'B'", 7),
        ("DELETE FROM audits", 1),
        ("DELETE FROM tests", 6),
    ],
)
def test_verify_says_which_row_was_changed(ledger: Ledger, change: str, seq: int) -> None:
    assert ledger.verify("A").ok
    tamper(ledger, change)
    found = ledger.verify("A")
    assert (found.ok, found.broken_at) == (False, seq)


@pytest.mark.parametrize(
    ("table", "change", "shown", "shown_against_the_head"),
    [("tests", "k = 2", 7, 7), ("events", "kind = 'other'", None, 11)],
)
def test_a_row_changed_together_with_its_hash_shows_at_the_next(
    ledger: Ledger, table: str, change: str, shown: int | None, shown_against_the_head: int
) -> None:
    noted = ledger.head("A")
    tamper(ledger, f"UPDATE {table} SET {change}")
    with closing(sqlite3.connect(ledger.path)) as conn:
        conn.row_factory = sqlite3.Row
        row = dict(conn.execute(f"SELECT * FROM {table}").fetchone())
    tamper(ledger, f"UPDATE {table} SET hash = '{row_hash(table, row)}'")
    assert ledger.verify("A").broken_at == shown
    assert ledger.verify("A", noted).broken_at == shown_against_the_head


def test_verify_sees_a_row_put_in_between(ledger: Ledger) -> None:
    tamper(ledger, "INSERT INTO events SELECT audit_id, 4, at, prev, hash, kind, key, body FROM events")
    assert ledger.verify("A").broken_at == 4


def test_a_cut_tail_shows_only_against_the_head_noted_before(ledger: Ledger) -> None:
    noted = ledger.head("A")
    tamper(ledger, "DELETE FROM events", "DELETE FROM budget")
    assert ledger.verify("A") == Verification(ok=True, rows=8, head=ledger.head("A"), broken_at=None)
    assert ledger.verify("A", noted) == Verification(ok=False, rows=8, head=ledger.head("A"), broken_at=9)


def test_the_head_of_an_earlier_row_is_not_the_head(ledger: Ledger) -> None:
    noted = ledger.head("A")
    ledger.append("events", "A", **EVENT)
    ledger.append("events", "A", **EVENT)
    assert ledger.verify("A").ok
    found = ledger.verify("A", noted)
    assert (found.ok, found.rows, found.broken_at) == (False, 12, 11)


# --- several processes and threads


def append_from_a_process(path: Path, name: str, start: Barrier) -> None:
    start.wait(60)
    with closing(Ledger.open(path)) as ledger:
        for number in range(30):
            for audit in "AB":
                ledger.append("events", audit, kind="n", key=f"{name}{number}", body={"number": number})
            ledger.append_many("A", [("events", {"kind": f"m{name}", "body": number})] * 3)


def test_four_processes_appending_lose_nothing(ledger: Ledger) -> None:
    ledger.append("audits", "B", **AUDIT)
    start = multiprocessing.get_context("spawn").Barrier(4)
    in_processes(append_from_a_process, *((ledger.path, name, start) for name in "wxyz"))
    for audit, before, each in (("A", 10, 120), ("B", 1, 30)):
        found = ledger.verify(audit, ledger.head(audit))
        assert (found.ok, found.rows) == (True, before + 4 * each)
        keys = [row["key"] for row in ledger.rows("events", audit, kind="n")]
        assert sorted(keys) == sorted(f"{name}{number}" for name in "wxyz" for number in range(30))
    for name in "wxyz":  # one transaction's rows stay together
        seqs = [row["seq"] for row in ledger.rows("events", "A", kind=f"m{name}")]
        assert all(seqs[index + 2] == seqs[index] + 2 for index in range(0, 90, 3))


def make_in_a_process(folder: Path, name: str, start: Barrier) -> None:
    for number in range(12):
        start.wait(60)
        with closing(Ledger.open(folder / f"{number}.db")) as ledger:
            ledger.append("audits", name, **AUDIT)


def test_four_processes_may_make_the_same_ledger_at_once(tmp_path: Path) -> None:
    start = multiprocessing.get_context("spawn").Barrier(4)
    in_processes(make_in_a_process, *((tmp_path, name, start) for name in "wxyz"))
    for number in range(12):
        with closing(Ledger.open(tmp_path / f"{number}.db", create=False)) as ledger:
            assert sorted(ledger.audits()) == list("wxyz")
            assert all(ledger.verify(name).ok for name in "wxyz")
    assert {entry.suffix for entry in tmp_path.iterdir()} == {".db", ".lock"}


def append_until_killed(path: Path) -> None:
    ledger = Ledger.open(path)
    for number in range(10**9):
        ledger.append_many("A", [("events", {"kind": "n", "body": [number] * 50})] * 3)


def test_a_killed_process_leaves_whole_transactions(ledger: Ledger) -> None:
    process = multiprocessing.get_context("spawn").Process(target=append_until_killed, args=(ledger.path,))
    process.start()
    while ledger.find("events", "A", kind="n") is None:
        assert process.is_alive()
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    ledger.close()
    with closing(Ledger.open(ledger.path)) as reopened:
        assert reopened.verify("A").ok
        assert len(reopened.rows("events", "A", kind="n")) % 3 == 0
        reopened.append("events", "A", **EVENT)
        assert reopened.verify("A").ok


def test_readers_see_a_whole_chain_while_others_write(ledger: Ledger) -> None:
    done = threading.Event()

    def write() -> None:
        for number in range(150):
            ledger.append("events", "A", kind="n", body=number)
            ledger.append("budget", "A", key=str(number), state="reserved", tokens={}, seconds=0.0)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = set()
    while not done.is_set():
        found = ledger.verify("A")
        assert found.ok
        seen.add(found.rows)
        rows = ledger.everything("A")
        assert [row["seq"] for row in rows] == list(range(1, len(rows) + 1))
    writer.join()
    assert len(seen) > 1


def test_each_thread_has_its_own_connection_and_ended_ones_are_closed(ledger: Ledger) -> None:
    gathered: list[sqlite3.Connection] = []
    together = threading.Barrier(4)

    def work() -> None:
        together.wait(10)
        ledger.append("events", "A", **EVENT)
        gathered.extend([ledger._connection(), ledger._connection()])
        together.wait(10)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(conn) for conn in [*gathered, ledger._connection()]}) == 5
    assert ledger.verify("A").rows == 14
    late = threading.Thread(target=ledger.head, args=("A",))
    late.start()
    late.join()
    for conn in gathered:
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            conn.execute("SELECT 1")


def test_a_closed_ledger_says_so_and_leaves_no_log(ledger: Ledger) -> None:
    ledger.close()
    ledger.close()
    assert set(files(ledger.path.parent)) == {"auditor.db", "auditor.db.lock"}
    with pytest.raises(LedgerError, match="was closed: call Ledger.open again"):
        ledger.head("A")


def test_a_fork_must_open_its_own(ledger: Ledger) -> None:
    child = os.fork()
    if child == 0:
        try:
            ledger.head("A")
        except LedgerError as error:
            os._exit(0 if "call Ledger.open in this one" in str(error) else 2)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# --- refused values


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_refused_anywhere_and_nothing_is_written(ledger: Ledger, number: float) -> None:
    before = ledger.everything("A")
    reading = {"call_key": "k", "tool": "t", "name": "n", "channel": "c", "controls": {}}
    with pytest.raises(LedgerError, match=r"readings\.value is -?(nan|inf)"):
        ledger.append_many("A", [("events", EVENT), ("readings", reading | {"value": number})])
    with pytest.raises(LedgerError, match=r"readings\.controls\.null is "):
        ledger.append("readings", "A", **(reading | {"controls": {"null": number}}))
    with pytest.raises(LedgerError, match=r"events\.body\.a\[1\]\[0\] is "):
        ledger.append("events", "A", kind="n", body={"a": [0, (number,)]})
    with pytest.raises(LedgerError, match=r"readings\.lift is "):
        ledger.rows("readings", "A", lift=number)
    assert ledger.everything("A") == before


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({1: "a"}, "has the key 1"),
        ({"a": {1, 2}}, r"events.body.a is of type set"),
        ([Path("x")], r"events.body\[0\] is of type PosixPath"),
        (nested(200), "nested more than 100 levels"),
        (10**5000, "can't be written as JSON"),
    ],
    ids=["integer key", "set", "path", "deep", "long integer"],
)
def test_what_json_would_not_give_back_is_refused(ledger: Ledger, body: object, said: str) -> None:
    with pytest.raises(LedgerError, match=said):
        ledger.append("events", "A", kind="n", body=body)
    assert ledger.verify("A").rows == 10


@pytest.mark.parametrize(
    ("table", "change", "said"),
    [
        ("trials", {"seed": 2**63}, r"trials.seed can't take .* int: pass an int of less than 64 bits"),
        ("trials", {"seed": 1.0}, r"trials.seed can't take .* float"),
        ("trials", {"reply": "\ud83d"}, "half a surrogate pair"),
        ("trials", {"reply": None}, "trials needs a value for reply"),
        ("trials", {"outcome": 2}, "CHECK constraint failed"),
        ("trials", {"test_id": "T2"}, "FOREIGN KEY constraint failed: append first the row it refers to"),
        ("trials", {"colour": 1}, "trials takes no column colour: pass test_id, idx"),
        ("trials", {"hash": "h"}, "hash are filled in"),
        ("budget", {"key": "k2", "seconds": True}, r"budget.seconds can't take .* bool"),
        ("budget", {"key": "k2", "seconds": 2**53 + 1}, r"budget.seconds can't take .* int"),
        ("budget", {"state": "spent"}, "CHECK constraint failed"),
        ("tool_calls", {"state": "done"}, "CHECK constraint failed"),
        ("findings", {"finding_id": "F2", "hypothesis_id": "H9"}, "FOREIGN KEY constraint failed"),
    ],
)
def test_a_row_that_does_not_fit_is_refused_in_words(
    ledger: Ledger, table: str, change: dict[str, Any], said: str
) -> None:
    good = dict(ONE_OF_EACH)[table]
    with pytest.raises(LedgerError, match=said):
        ledger.append(table, "A", **(good | ({"idx": 1} if table == "trials" else {}) | change))
    assert ledger.verify("A").rows == 10


def test_append_many_writes_all_or_nothing(ledger: Ledger) -> None:
    before = ledger.everything("A")
    with pytest.raises(LedgerError, match="there is a row with this") as caught:
        ledger.append_many("A", [("events", EVENT), ("events", EVENT), ("tool_calls", CALL)])
    assert isinstance(caught.value.__cause__, sqlite3.IntegrityError)
    assert ledger.everything("A") == before
    assert ledger.append_many("A", []) == []
    assert ledger.append_many("A", [("events", EVENT), ("events", EVENT)]) == [11, 12]


def test_what_is_unknown_is_named_with_what_is_known(ledger: Ledger) -> None:
    unknown = r"there is no audit 'Z' in .*`auditor list` shows"
    for ask in (ledger.head, ledger.verify, ledger.everything):
        with pytest.raises(LedgerError, match=unknown):
            ask("Z")
    for look in (ledger.rows, ledger.find):
        with pytest.raises(LedgerError, match=unknown):
            look("events", "Z")
        with pytest.raises(LedgerError, match="'nope' is no table of the ledger: pass one of audits, subjects, "):
            look("nope", "A")
        with pytest.raises(LedgerError, match="events has no column 'colour': it has audit_id, seq, at, "):
            look("events", "A", colour=1)
    with pytest.raises(LedgerError, match="'nope' is no table"):
        ledger.append("nope", "A")
    with pytest.raises(LedgerError, match=f"{unknown}.* begins with its row in audits"):
        ledger.append("events", "Z", **EVENT)
    with pytest.raises(LedgerError, match="can't name an audit"):
        ledger.append("audits", "", **AUDIT)
    with pytest.raises(LedgerError, match="UTF-8"):
        ledger.head("\udcff")
    assert ledger.audits() == ["A"]


# --- the file


def test_opening_an_up_to_date_ledger_does_not_write(ledger: Ledger) -> None:
    ledger.close()
    before, when = files(ledger.path.parent), ledger.path.stat().st_mtime_ns
    for create in (True, False):
        with closing(Ledger.open(ledger.path, create=create)) as again:
            assert again.verify("A").ok
    assert files(ledger.path.parent) == before
    assert ledger.path.stat().st_mtime_ns == when


def test_a_ledger_keeps_its_version_and_its_write_ahead_log(ledger: Ledger) -> None:
    with closing(sqlite3.connect(ledger.path)) as conn:
        assert conn.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
        assert conn.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert conn.execute("SELECT name FROM _sqlite_migrations").fetchall() == [("m001_first_tables",)]
    assert ledger._connection().execute("PRAGMA foreign_keys").fetchone() == (1,)


def test_a_newer_ledger_is_refused_and_left_alone(ledger: Ledger) -> None:
    with closing(sqlite3.connect(ledger.path)) as conn:
        conn.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    said = f"of version {SCHEMA_VERSION + 1}: this auditor reads up to version {SCHEMA_VERSION}; update"
    with pytest.raises(LedgerError, match=said):  # the version is still in the log of the open connection
        Ledger.open(ledger.path)
    ledger.close()
    before = files(ledger.path.parent)
    with pytest.raises(LedgerError, match=said):
        Ledger.open(ledger.path)
    assert files(ledger.path.parent) == before


def test_an_older_ledger_is_brought_up_to_date(ledger: Ledger) -> None:
    with closing(sqlite3.connect(ledger.path)) as conn:
        conn.execute("PRAGMA user_version=0")
    ledger.close()
    with closing(Ledger.open(ledger.path)) as again:
        assert again._connection().execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
        assert again.verify("A").ok


def test_a_ledger_that_lost_a_table_is_refused(ledger: Ledger) -> None:
    ledger.close()
    with closing(sqlite3.connect(ledger.path)) as conn:
        conn.execute("DROP TABLE trials")
    with pytest.raises(LedgerError, match="lacks the table trials"):
        Ledger.open(ledger.path)


@pytest.mark.parametrize("kind", ["text", "empty", "other", "other in WAL mode", "folder", "damaged"])
def test_what_is_not_a_ledger_is_refused_and_unchanged(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "some.db"
    if kind == "folder":
        path.mkdir()
    elif kind.startswith("other"):
        with closing(sqlite3.connect(path)) as conn:
            conn.execute(f"PRAGMA journal_mode={'WAL' if 'WAL' in kind else 'DELETE'}")
            conn.execute("CREATE TABLE other (x)")
    elif kind == "damaged":
        Ledger.open(path).close()
        path.write_bytes(path.read_bytes()[:100] + b"\x01" * 5000)
    else:
        path.write_bytes(b"just some notes\n" * 100 if kind == "text" else b"")
    before = files(tmp_path)
    with pytest.raises(LedgerError, match="is not a|is an SQLite file of something else|damaged"):
        Ledger.open(path)
    assert files(tmp_path) == before


def test_a_ledger_that_is_absent_is_made_only_on_request(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="there is no ledger at"):
        Ledger.open(tmp_path / "a.db", create=False)
    with pytest.raises(LedgerError, match="there is no folder .*nowhere; make it"):
        Ledger.open(tmp_path / "nowhere" / "a.db")
    assert files(tmp_path) == {}
    with closing(Ledger.open(tmp_path / "a.db")) as ledger:
        assert (ledger.path, ledger.audits()) == (tmp_path / "a.db", [])


def test_the_log_of_a_deleted_ledger_is_not_replayed_into_a_new_one(tmp_path: Path) -> None:
    (tmp_path / "a.db-wal").write_bytes(b"log")
    with pytest.raises(LedgerError, match="left of a ledger that was deleted"):
        Ledger.open(tmp_path / "a.db")
    assert files(tmp_path) == {"a.db-wal": b"log"}


def test_a_ledger_that_can_only_be_read_can_be_verified_and_no_more(ledger: Ledger) -> None:
    ledger.close()
    folder = ledger.path.parent
    for locked, mode in ((ledger.path, 0o444), (folder, 0o555)):
        usual = locked.stat().st_mode
        locked.chmod(mode)
        try:
            before = files(folder)
            with pytest.raises(LedgerError, match="can only be read: make"):
                Ledger.open(ledger.path)
            with closing(Ledger.open(ledger.path, create=False)) as kept:
                assert kept.verify("A").ok
                with pytest.raises(LedgerError, match="can only be read: make"):
                    kept.append("events", "A", **EVENT)
            if locked is folder:
                with pytest.raises(LedgerError, match="is not writable; pass another path"):
                    Ledger.open(folder / "new.db")
            assert files(folder) == before
        finally:
            locked.chmod(usual)


def test_a_full_disk_is_an_error_and_leaves_no_half_row(ledger: Ledger) -> None:
    before = ledger.everything("A")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
    try:
        with pytest.raises(LedgerError, match="full") as caught:
            ledger.append_many("A", [("events", {"kind": "n", "body": "x" * 100_000})] * 30)
        assert isinstance(caught.value.__cause__, sqlite3.Error)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert ledger.everything("A") == before
    assert ledger.append("events", "A", **EVENT) == 11
    assert ledger.verify("A").ok


def test_a_ledger_that_could_not_be_made_leaves_nothing(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(LedgerError, match="full"):
            Ledger.open(tmp_path / "a.db")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert files(tmp_path) == {}


def test_a_ledger_that_stays_locked_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_file, "TIMEOUT_S", 0.1)
    with closing(Ledger.open(tmp_path / "a.db")) as ledger:
        ledger.append("audits", "A", **AUDIT)
        with closing(sqlite3.connect(ledger.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(LedgerError, match="database is locked: another process"):
                ledger.append("events", "A", **EVENT)
            assert ledger.verify("A").rows == 1
        assert ledger.append("events", "A", **EVENT) == 2
