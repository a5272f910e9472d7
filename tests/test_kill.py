"""An audit survives SIGKILL at any moment: nothing is lost, nothing settled is done again."""

import json
import sqlite3
import time

import pytest
from audits import SUITES, command, finished, organism_of, result, scripted
from kills import readings, run_killed, trials


@pytest.mark.timeout(600)
def test_six_kills_at_random_moments_change_nothing_that_the_embedded_planner_finds(tmp_path):
    arguments = (
        "run",
        SUITES / "demo" / f"{organism_of('flattery')}.yaml",
        "--tools",
        "chat,model_diff,scan",
        "--budget",
        100_000,
    )
    whole = result(command(*arguments, "--db", tmp_path / "whole.db", "--out", tmp_path / "whole", "--json"))
    cut = run_killed(arguments, tmp_path, kills=6, most_s=whole["seconds"] / 4)
    assert whole["verdict"] == "findings"
    assert cut.kills >= 3, "an audit that ends before it is killed shows nothing"
    for key in ("verdict", "findings", "leads", "near_misses", "forward_tokens"):
        assert cut.result[key] == whole[key], key
    for rows in (trials, readings):
        assert rows(tmp_path / "killed.db") == rows(tmp_path / "whole.db")
    with sqlite3.connect(tmp_path / "killed.db") as connection:
        for table in ("tool_calls", "budget"):
            settled = connection.execute(f"select key from {table} where state='settled'").fetchall()
            assert len(settled) == len(set(settled)), f"{table}: something settled was done again"
    head = cut.result["ledger_head"]
    assert result(command("verify", cut.result["audit_id"], "--db", tmp_path / "killed.db", "--head", head, "--json"))[
        "ok"
    ]
    assert not list(tmp_path.glob("*.db.*.lock"))
    again = ("resume", cut.result["audit_id"], "--db", tmp_path / "killed.db", "--out", tmp_path / "killed", "--json")
    code, out, err = finished(command(*again))
    assert (code, "finished" in err, json.loads(out)["ledger_head"]) == (0, True, head)


def test_an_audit_under_way_is_not_resumed_beside_itself(tmp_path):
    scenario, db = scripted(tmp_path, organism_of("flattery")), tmp_path / "auditor.db"
    process = command("run", scenario, "--db", db, "--out", tmp_path / "out", "--json")
    while not list(tmp_path.glob("*.db.*.lock")) and process.poll() is None:
        time.sleep(0.02)
    (lock,) = tmp_path.glob("*.db.*.lock")
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
