"""What has happened, in a line each: what progress shows, after it happened."""

from __future__ import annotations

from auditor.execute import Desk, call_key
from auditor.steps import CallTool, Conclude, RegisterHypothesis, RunTest, Step

CAP = 160


def of_step(desk: Desk, step: Step, number: int) -> str:
    """Return what a step that was carried out came to."""
    if isinstance(step, CallTool):
        return of_call(desk, step)
    if isinstance(step, RegisterHypothesis):
        done = desk.ledger.find("events", desk.audit_id, kind="hypothesis_registered", key=str(number))
        return f"{done['body']['hypothesis_id'] if done else 'hypothesis'}: {step.claim.statement[:CAP]}"
    if isinstance(step, RunTest):
        return _of_test(desk, step, f"T{number}")
    assert isinstance(step, Conclude), "there are four kinds of step"
    return "the audit concludes"


def of_call(desk: Desk, call: CallTool) -> str:
    """Return what a call came to, as its last row has it."""
    rows = desk.ledger.rows("tool_calls", desk.audit_id, key=call_key(desk, call))
    row = next(row for row in reversed(rows) if row["state"] != "started")
    if row["state"] == "settled":
        cut = row["result"].get("cut")
        return f"{call.tool}: {str(row['result']['summary'])[:CAP]}{f' (cut to {cut})' if cut else ''}"
    return f"{call.tool} {'left out' if (row['result'] or {}).get('left_out') else 'failed'}: {str(row['error'])[:CAP]}"


def _of_test(desk: Desk, step: RunTest, test_id: str) -> str:
    hypothesis = desk.view().hypothesis(step.hypothesis_id)
    assert hypothesis is not None, "a tested hypothesis is in the view"
    test = next(t for t in hypothesis.tests if t.test_id == test_id)
    said: dict[str | None, str] = {"passed": step.grade, "failed": "not shown", None: "undecided"}
    near = test.outcome.decision != "passed" and test.outcome.e >= 1 / desk.spec.alpha
    treated, control = (round(rate * test.outcome.n) for rate in (test.outcome.rate_treated, test.outcome.rate_control))
    n, what = test.outcome.n, "nearly shown" if near else said[test.outcome.decision]
    where = " when it is localised" if step.grade == "localised" and test.outcome.decision != "passed" else ""
    return f"{step.hypothesis_id} {what}{where} ({treated} of {n} against {control} of {n})"
