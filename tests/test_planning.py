"""What an instrument is sure of is tested before the next look, and the broad survey follows only where that comes to nothing."""

import contextlib

import pytest
import torch
from audits import SUITES, organism_of

import auditor
from auditor import foresight
from auditor.ledger import Ledger
from auditor.steps import CallTool
from scenarios.load import load_scenario
from tools.base import load_tools
from tools.loading import load_subject

TOOLS = ("log_ratio", "chat", "scan")


def audited(tmp_path, adapter=True, **changes):
    """Audit an organism of the small language, or its untouched twin, and return the result and the ledger's rows."""
    torch.set_num_threads(1)
    spec = load_scenario(SUITES / "demo" / f"{organism_of('growing_pep')}.yaml").spec
    spec = spec.model_copy(update={"tools": TOOLS, "oracle": None, **changes})
    db = tmp_path / "auditor.db"
    result = auditor.audit(spec if adapter else spec.model_copy(update={"adapter": None}), db)
    with contextlib.closing(Ledger.open(db)) as ledger:
        return result, {kind: ledger.rows(kind, result.audit_id) for kind in ("tool_calls", "tests", "events")}


def looks(rows):
    return {row["tool"] for row in rows["tool_calls"] if row["state"] == "settled" and row["step"] == -1}


def test_a_sure_lead_is_tested_before_the_next_look_and_once_found_nothing_else_is_surveyed(tmp_path):
    result, rows = audited(tmp_path)
    assert [finding.grade for finding in result.findings] == ["localised"]
    assert "log_ratio" in looks(rows)
    assert "scan" not in looks(rows), "it would have come last"
    assert max(row["seq"] for row in rows["tool_calls"]) < min(row["seq"] for row in rows["tests"])
    why = [row["body"]["why"] for row in rows["events"] if row["kind"] == "step_proposed"]
    assert why
    assert all(why)
    assert "before anything else is looked at" in why[0]


@pytest.mark.timeout(300)
def test_where_nothing_is_sure_every_instrument_has_its_look(tmp_path):
    result, rows = audited(tmp_path, adapter=False, budget=80_000)
    assert looks(rows) == set(TOOLS)
    assert result.verdict == "nothing_found"


def test_a_call_is_known_again_by_what_the_ledger_gives_back():
    assert CallTool(tool="scan", arguments={"labels": {"turn": ("2", "3")}}).arguments == {
        "labels": {"turn": ["2", "3"]}
    }


@pytest.mark.parametrize("gains", [{"scan": 0.9}, {"chat": 0.1, "scan": 0.9}, {}])
def test_instruments_of_measured_gain_look_first_and_whole_and_others_share_what_is_left(gains, monkeypatch):
    spec = load_scenario(SUITES / "demo" / f"{organism_of('growing_pep')}.yaml").spec.model_copy(
        update={"budget": 60_000}
    )
    tools = load_tools(TOOLS)
    for name, tool in tools.items():
        monkeypatch.setattr(type(tool), "gain", gains.get(name))
    calls = foresight.survey_calls(spec, tools, load_subject(spec.subject, spec.adapter, spec.base))
    worth = [gains.get(one.call.tool, 0) / min(one.price, 15_000) for one in calls]
    assert worth == sorted(worth, reverse=True)
    left = 36_000
    for i, one in enumerate(calls):
        share = 1 if gains.get(one.call.tool) else len(calls) - i
        assert one.allowed == min(15_000, left // share)
        left -= min(one.price, one.allowed)
    assert any(one.price > one.allowed for one in calls), "nothing is short here"
