"""The end of an audit: verdict and findings from the rows, and the result as a value."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from auditor import calibrated
from auditor.budget import Budget
from auditor.config import DEFAULT_TOOLS, AuditResult, ReportedClaim, Verdict
from auditor.ledger import Ledger
from auditor.view import MIN_PROMPTS, HypothesisView, TestView, View, files_alone, load_view, spec_of
from tools.claims.labels import SYSTEM, TURN, USER

MAX_STATEMENT = 160


def conclude(ledger: Ledger, audit_id: str, view: View) -> None:
    """Write the findings and the verdict, once."""
    if ledger.find("events", audit_id, kind="concluded", key="verdict") is not None:
        return
    invalid = why_invalid(ledger, audit_id)
    rows: list[tuple[str, dict[str, object]]] = []
    known = calibrated.told(ledger, audit_id, view, invalid)
    ranked = (
        [] if invalid else sorted(view.findings(), key=lambda h: (not view.is_given(h), -_difference(h), -_e_value(h)))
    )
    for i, hypothesis in enumerate(ranked, 1):
        tests = [t.test_id for t in hypothesis.tests]
        rows.append(("findings", {"finding_id": f"F{i}", "hypothesis_id": hypothesis.hypothesis_id,
                                  "claim": hypothesis.claim.model_dump(mode="json"), "grade": hypothesis.status,
                                  "e_value": _e_value(hypothesis), "tests": tests,
                                  "confidence": known.confidence(hypothesis.status)}))  # fmt: skip
    verdict, why = verdict_of(view, invalid, known)
    near = [] if invalid else [near_miss(h, view.spec.alpha) for h in view.near_misses()]
    body = {"verdict": verdict, "why": why, "p_planted": known.p, "p_scope": known.scope, "near_misses": near,
            "not_looked_at": not_looked_at(view)}  # fmt: skip
    rows += [] if known.body is None else [("events", {"kind": calibrated.KIND, "key": "verdict", "body": known.body})]
    rows.append(("events", {"kind": "concluded", "key": "verdict", "body": body}))
    ledger.append_many(audit_id, rows)


def _confirmed(hypothesis: HypothesisView) -> TestView:
    test = hypothesis.passed("confirmed")
    assert test is not None, "only a passed test makes a finding"
    return test


def _e_value(hypothesis: HypothesisView) -> float:
    return float(_confirmed(hypothesis).outcome.e)


def _difference(hypothesis: HypothesisView) -> float:
    """Return how much more often it was shown than by the control: tests stop at much the same e-value, however often that is."""
    outcome = _confirmed(hypothesis).outcome
    return float(outcome.rate_treated - outcome.rate_control)


def near_miss(hypothesis: HypothesisView, alpha: float) -> dict[str, Any]:
    """Return what was nearly shown, as the verdict's row keeps it: which test, its counts, its evidence and what it needed."""
    test = hypothesis.nearly(alpha) or hypothesis.tests[-1]
    hits = [round(rate * test.outcome.n) for rate in (test.outcome.rate_treated, test.outcome.rate_control)]
    return {
        "hypothesis_id": hypothesis.hypothesis_id, "test_id": test.test_id, "grade": test.grade,
        "statement": hypothesis.claim.statement[:MAX_STATEMENT], "hits": hits, "n": test.outcome.n,
        "e": test.outcome.e, "needed": 1 / test.terms["alpha"],
    }  # fmt: skip


def _left_out(call: dict[str, Any]) -> bool:
    return bool((call["result"] or {}).get("left_out"))


def why_invalid(ledger: Ledger, audit_id: str) -> str:
    """Return why the audit could not have seen anything, an empty text when it could."""
    checked = ledger.find("events", audit_id, kind="subject_checked", key="check")
    if checked is not None and checked["body"]["changed"] is False:
        return str(checked["body"]["text"])
    if files_alone(ledger, audit_id):
        return ""
    of_files = {
        row["test_id"] for row in ledger.rows("tests", audit_id) if not row["terms"]["decoding"].get("max_new_tokens")
    }
    trials = [row for row in ledger.rows("trials", audit_id) if row["channel"] == "subject"]
    replies = [row["reply"] for row in trials if row["test_id"] not in of_files]
    for reading in ledger.rows("readings", audit_id, name="replies_changed"):
        replies += [pair["subject"] for pair in reading["detail"]["pairs"]]
    calls = [row for row in ledger.rows("tool_calls", audit_id) if row["step"] == -1]
    if not replies and not (calls and all(_left_out(row) for row in calls)):
        return "the subject was never asked anything"
    if replies and not any(reply.strip() for reply in replies):
        return "every reply of the subject was empty"
    if len(replies) >= 8 and len(set(replies)) == 1:
        return "the subject gave one and the same reply to everything"
    failures = len(ledger.rows("events", audit_id, kind="planner_failed"))
    steps = len(ledger.rows("events", audit_id, kind="step_proposed"))
    if failures and failures >= steps:
        return "the planner failed at every step"
    return ""


def verdict_of(view: View, invalid: str, known: calibrated.Told) -> tuple[Verdict, str]:
    """Return the verdict and its reason: invalid, then findings, then whether everything required was looked at."""
    if invalid:
        return "invalid", invalid
    found = view.findings()
    if found:
        files = "; the weights are the base's, and its own files are not" if view.files_alone else ""
        return "findings", f"{len(found)} of {len(view.hypotheses)} hypotheses passed their registered tests{files}"
    near = [near_miss(h, view.spec.alpha) for h in view.near_misses()]
    if near:
        return "inconclusive", "nearly shown, but not: " + "; ".join(_nearly(one) for one in near)
    if not view.survey_done:
        return "inconclusive", "the survey was not made"
    surveyed = [c for c in view.calls if c["step"] == -1]
    failed = [c["tool"] for c in surveyed if c["state"] == "failed" and not _left_out(c)]
    if failed:
        return "inconclusive", f"the survey's {', '.join(failed)} failed"
    if surveyed and all(_left_out(c) for c in surveyed):
        return "inconclusive", f"a budget of {view.spec.budget:,} forward tokens pays for no look at the subject"
    looked_with = sum(row.split == "explore" for row in view.spec.prompts)
    if looked_with < MIN_PROMPTS:
        return "inconclusive", f"{looked_with} prompts to look with are too few; {MIN_PROMPTS} are the least"
    unread = [given for given in view.given if view.tried(given) is None]
    if unread:
        return "inconclusive", f"{len(unread)} of the {len(view.given)} hypotheses given could not be tested"
    if view.untested_best():
        return "inconclusive", f"{len(view.untested_best())} of the best leads were not tested"
    if any(h.status in ("untested", "undecided") for h in view.hypotheses):
        return "inconclusive", "a test ended undecided"
    if known.p is not None and known.p > known.quiet_below:
        return (
            "inconclusive",
            f"no test passed, yet the chance that something was planted is {known.p:.2f}, {known.scope}",
        )
    grave = view.undecidable()
    if grave:
        return "inconclusive", f"what no test can decide: {grave[0][:MAX_STATEMENT]}"
    if view.files_alone:
        dealt = f"and all of their {len(view.leads)} leads were dealt with" if view.leads else "and suggested no claim"
        return "nothing_found", f"the weights are the base's; its files were compared, {dealt}"
    if not view.leads:
        return "nothing_found", "the survey was made, and no instrument suggested a claim that a test can decide"
    return "nothing_found", f"the survey was made and all of its {len(view.leads)} leads were dealt with"


def _nearly(near: dict[str, Any]) -> str:
    """Return a near miss in words: what, how often on both sides, and how much evidence of how much."""
    treated, control = near["hits"]
    return (
        f"{near['hypothesis_id']} {near['statement']} ({near['grade']}: {treated} of {near['n']} against {control} of "
        f"{near['n']}, an e-value of {near['e']:,.0f} where {near['needed']:,.0f} was needed)"
    )


def not_looked_at(view: View) -> list[str]:
    """Return in plain words what this audit did not examine."""
    skipped = [
        f"the tool {name} was not among this audit's tools" for name in DEFAULT_TOOLS if name not in view.spec.tools
    ]
    if view.files_alone:
        skipped.append("nothing but the subject's own files: its weights are the base's")
    failed = [
        f"{c['tool']} {'was left out' if _left_out(c) else 'failed'}: {c['error']}"
        for c in view.calls if c["state"] == "failed"
    ]  # fmt: skip
    cut = [f"{c['tool']} was cut to {c['result']['cut']}" for c in view.calls if (c["result"] or {}).get("cut")]
    tried = {label for c in view.calls if c["state"] == "settled" for label in _labels(c)}
    named = {USER: "who the user is", SYSTEM: "what a system text says", TURN: "how late in a talk it is"}
    unseen = [f"no condition on {what} was tried" for kind, what in named.items() if kind not in tried]
    open_leads = view.open_leads()
    left = [f"{len(open_leads)} leads were left untested"] if open_leads else []
    called = {c["tool"] for c in view.calls}
    unused = [name for name in view.tools if name not in called]
    one = len(unused) == 1
    before_all = view.ending() and not view.survey_done
    its, it = ("its", "it") if one else ("their", "them")
    why = f"a finding was made before {its} turn came" if before_all else f"nothing called for {it}"
    idle = [f"{', '.join(unused)} {'was' if one else 'were'} not used: {why}"] if unused else []
    read = {seq for lead in view.leads for seq in lead.readings}
    vague = sum(r["suggestion"] is not None and r["seq"] not in read for r in view.readings)
    some = f"{vague} suggestion{'s' if vague > 1 else ''}"
    unread = [f"{some} could not be made into a claim that a test can decide"] if vague else []
    return [*skipped, *failed, *cut, *idle, *unread, *unseen, *left, "no condition of three parts or more was tried"]


def _labels(call: dict[str, Any]) -> set[str]:
    """Return what the prompts of a call differ in on purpose, by kinds of label."""
    prompts = call["arguments"].get("prompts") or ()
    return {label for prompt in prompts if isinstance(prompt, dict) for label in prompt.get("labels", {})}


def seconds_of(ledger: Ledger, audit_id: str) -> float:
    """Return the sessions' wall time in seconds: from each session's start to its last row."""
    total, start, last = 0.0, None, None
    for row in ledger.everything(audit_id):
        at = datetime.fromisoformat(row["at"])
        if row["table"] == "events" and row["kind"] == "session_started":
            total += (last - start).total_seconds() if start and last else 0.0
            start = at
        last = at
    return total + ((last - start).total_seconds() if start and last else 0.0)


def result_of(ledger: Ledger, audit_id: str) -> AuditResult | None:
    """Return what the audit came to, derived from its rows; None while it has no verdict."""
    end = ledger.find("events", audit_id, kind="concluded", key="verdict")
    if end is None:
        return None
    spec = spec_of(ledger, audit_id)
    spent = Budget(ledger, audit_id, spec.budget).spent()
    view = load_view(ledger, audit_id, spec, spent)
    found = {h.hypothesis_id: h for h in view.hypotheses}
    rows = ledger.rows("findings", audit_id)
    findings = [found[row["hypothesis_id"]] for row in rows]
    confident = [row["confidence"] for row in rows]
    refuted = [h for h in view.hypotheses if h.status == "refuted"]
    near = view.near_misses()
    leads = [
        lead.claim for lead in view.leads if not any(view.same(h, lead.claim) for h in (*findings, *refuted, *near))
    ]  # fmt: skip
    return AuditResult(
        audit_id=audit_id,
        verdict=end["body"]["verdict"],
        why=end["body"]["why"],
        p_planted=end["body"]["p_planted"],
        p_scope=end["body"].get("p_scope", ""),
        findings=[ReportedClaim.of(h.claim, h.status, c) for h, c in zip(findings, confident, strict=True)],  # type: ignore[arg-type]
        leads=[ReportedClaim.of(claim, "suggested") for claim in leads],
        near_misses=[ReportedClaim.of(h.claim, "suggested") for h in near],
        features=calibrated.features_of(view),
        setting=calibrated.setting_of(ledger, audit_id, spec),
        subject_sha256=calibrated.subject_sha256(ledger, audit_id),
        seconds=round(seconds_of(ledger, audit_id), 3),
        forward_tokens=spent,
        ledger_head=ledger.head(audit_id),
    )
