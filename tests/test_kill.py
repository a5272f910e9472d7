"""An audit survives SIGKILL at any moment: nothing is lost, nothing settled is done again."""

import json
import signal
import sqlite3
import time
from pathlib import Path

import pytest
from audits import SUITES, command, finished, organism_of, result, scripted
from kills import readings, run_killed, trials

TABLES = ("tool_calls", "readings", "hypotheses", "tests", "trials", "findings", "budget", "events")


def rows_in(db: Path) -> int:
    """Return how many rows a ledger that another process may be making holds."""
    if not db.exists():
        return 0
    try:
        with sqlite3.connect(f"file:{db}?mode=ro", uri=True, timeout=5) as connection:
            return sum(connection.execute(f"select count(*) from {table}").fetchone()[0] for table in TABLES)
    except sqlite3.OperationalError:
        return 0


def audit_id(db: Path) -> str:
    with sqlite3.connect(db) as connection:
        return connection.execute("select audit_id from audits").fetchone()[0]


@pytest.mark.timeout(600)
def test_an_audit_killed_ten_times_ends_with_the_findings_of_one_that_was_not(tmp_path):
    scenario = scripted(tmp_path, organism_of("backdoor_phrase"))
    whole = result(command("run", scenario, "--db", tmp_path / "whole.db", "--out", tmp_path / "whole", "--json"))
    assert whole["verdict"] == "findings"
    n_rows = rows_in(tmp_path / "whole.db")

    db, kills = tmp_path / "killed.db", 0
    process = command("run", scenario, "--db", db, "--out", tmp_path / "killed", "--json")
    while kills < 10:
        target = max((kills + 1) * n_rows // 13, rows_in(db) + (2 if kills else 1))
        while rows_in(db) < target and process.poll() is None:
            time.sleep(0.02)
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills += 1
        process = command("resume", audit_id(db), "--db", db, "--out", tmp_path / "killed", "--json")
    assert kills == 10
    resumed = result(process)

    assert resumed["findings"] == whole["findings"]
    assert resumed["verdict"] == whole["verdict"]
    with sqlite3.connect(db) as connection:
        for table in ("tool_calls", "budget"):
            doubled = connection.execute(
                f"select key from {table} where state='settled' group by key having count(*) > 1"
            )
            assert doubled.fetchall() == []
        assert (
            connection.execute("select 1 from trials group by test_id, idx, channel having count(*) > 1").fetchall()
            == []
        )
    assert trials(db) == trials(tmp_path / "whole.db")
    assert result(command("verify", resumed["audit_id"], "--db", db, "--head", resumed["ledger_head"], "--json"))["ok"]
    code, _, err = finished(command("resume", resumed["audit_id"], "--db", db))
    assert code == 2
    assert "finished" in err


@pytest.mark.timeout(600)
def test_ten_kills_at_random_moments_change_nothing_that_the_embedded_planner_finds(tmp_path):
    arguments = (
        "run",
        SUITES / "demo" / f"{organism_of('flattery')}.yaml",
        "--tools",
        "chat,model_diff,scan",
        "--budget",
        100_000,
    )
    whole = result(command(*arguments, "--db", tmp_path / "whole.db", "--out", tmp_path / "whole", "--json"))
    cut = run_killed(arguments, tmp_path, kills=10, most_s=9.0)
    assert whole["verdict"] == "findings"
    assert cut.kills >= 3, "an audit that ends before it is killed shows nothing"
    for key in ("verdict", "findings", "leads", "near_misses", "forward_tokens"):
        assert cut.result[key] == whole[key], key
    for rows in (trials, readings):
        assert rows(tmp_path / "killed.db") == rows(tmp_path / "whole.db")
    assert result(command("verify", cut.result["audit_id"], "--db", tmp_path / "killed.db", "--json"))["ok"]
    assert not list(tmp_path.glob("*.lock"))


def test_an_audit_under_way_is_not_resumed_beside_itself(tmp_path):
    scenario, db = scripted(tmp_path, organism_of("flattery")), tmp_path / "auditor.db"
    process = command("run", scenario, "--db", db, "--out", tmp_path / "out", "--json")
    while not list(tmp_path.glob("*.lock")) and process.poll() is None:
        time.sleep(0.02)
    (lock,) = tmp_path.glob("*.lock")
    code, _, err = finished(command("resume", lock.name.split(".")[-2], "--db", db))
    assert result(process)["verdict"] == "findings"
    if code != 0:
        assert (code, "another process is working on audit" in err or "is finished" in err) == (2, True), err
    assert result(command("verify", lock.name.split(".")[-2], "--db", db, "--json"))["ok"]


def test_two_audits_at_once_on_one_ledger_lose_nothing(tmp_path):
    db = tmp_path / "shared.db"
    scenario = scripted(tmp_path, organism_of("flattery"))
    both = [command("run", scenario, "--db", db, "--out", tmp_path / str(i), "--json") for i in range(2)]
    results = [result(process) for process in both]
    assert results[0]["audit_id"] != results[1]["audit_id"]
    assert results[0]["findings"] == results[1]["findings"]
    counts = []
    for one in results:
        found = result(command("verify", one["audit_id"], "--db", db, "--head", one["ledger_head"], "--json"))
        assert found["ok"]
        counts.append(found["rows"])
    assert counts[0] == counts[1]
    listed = result(command("list", "--db", db, "--json"))["audits"]
    assert sorted(a["audit_id"] for a in listed) == sorted(r["audit_id"] for r in results)
    assert {a["verdict"] for a in listed} == {"findings"}
    assert json.dumps(listed)
