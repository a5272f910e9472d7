"""From the rows of one audit to what its report says."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from auditor.budget import Budget
from auditor.calibrated import FEATURES, KIND
from auditor.ledger import Ledger
from auditor.view import Given, HypothesisView, TestView, View, load_view, spec_of
from reports import commands, examples
from reports.earlier import earlier_audits
from reports.finding import (
    ClaimText,
    FindingRecord,
    GivenRecord,
    HypothesisRecord,
    Note,
    Pair,
    ReadingRecord,
    Reply,
    TestRecord,
)
from reports.record import Calibrated, CallRecord, Chain, Commands, End, LeadRecord, NearMiss, Report, Spent, Weights
from tools.calibration.file import Calibration, Right
from tools.claims.claim import Claim
from tools.claims.conditions.always import Always

SHOWN_PAIRS = 3
SHOWN_READINGS = 5
Row = dict[str, Any]


def gather(ledger: Ledger, audit_id: str) -> Report:
    """Return the report of an audit as its rows stand, finished or not.

    Raises:
        LedgerError: the ledger has no such audit, or can't be read.
    """
    audit = ledger.rows("audits", audit_id)[0]
    spec = spec_of(ledger, audit_id)
    spent = _spent(ledger, audit_id, spec.budget)
    view = load_view(ledger, audit_id, spec, spent.total)
    rows = ledger.everything(audit_id)
    events = [row for row in rows if row["table"] == "events"]
    subjects = [row for row in rows if row["table"] == "subjects"]
    hypotheses = _hypotheses(rows, view)
    checked, db = ledger.verify(audit_id), ledger.path.name
    return Report(
        audit_id=audit_id,
        spec=audit["spec"],
        spec_sha256=audit["spec_sha256"],
        versions=tuple(sorted(audit["versions"].items())),
        began=datetime.fromisoformat(audit["at"]),
        last=datetime.fromisoformat(rows[-1]["at"]),
        last_seq=rows[-1]["seq"],
        sessions=tuple(e["seq"] for e in events if e["kind"] == "session_started"),
        end=_end(events),
        calibrated=_calibrated(events, spec.calibration),
        weights_sha256=subjects[0]["weights_sha256"] if subjects else "",
        weights=tuple(Weights(s["seq"], s["role"], s["path"], tuple(sorted(s["files"].items()))) for s in subjects),
        checked=next((Note(e["seq"], e["body"]["text"]) for e in events if e["kind"] == "subject_checked"), None),
        notes=tuple(Note(e["seq"], e["body"]["text"]) for e in events if e["kind"] == "subject_note"),
        foreseen=next((Note(e["seq"], e["body"]["text"]) for e in events if e["kind"] == "foreseen"), None),
        given=_given(view, events, hypotheses),
        findings=_findings(rows, hypotheses, view),
        hypotheses=tuple(hypotheses.values()),
        leads=_leads(view),
        unread=_unread(view),
        calls=_calls(rows),
        n_readings=len(view.readings),
        n_leads=len(view.leads),
        peak=examples.largest_peak(view.readings),
        troubles=_troubles(events),
        earlier=earlier_audits(ledger, audit_id),
        spent=spent,
        chain=Chain(checked.head, checked.rows, checked.broken_at),
        again=next((e["body"]["command"] for e in events if e["kind"] == "reproduce"), None),
        commands=Commands(
            verify=commands.verify(audit_id, checked.head, db),
            resume=commands.resume(audit_id, db),
            audit=commands.audit(spec),
            lookup=commands.lookup(audit_id, next((r for r in rows if r["table"] == "trials"), rows[-1]), db),
        ),
    )


def in_words(claim: Claim) -> ClaimText:
    """Return a claim's parts in words."""
    return ClaimText(
        family=claim.family or "none",
        condition="whatever is asked" if claim.condition == Always() else claim.condition.clause(),
        predicate=claim.predicate.clause(),
        concern=claim.concern,
        statement=claim.statement,
        n_conditions=len(claim.condition.parts),
    )


def _hypotheses(rows: list[Row], view: View) -> dict[str, HypothesisRecord]:
    return {
        h.hypothesis_id: HypothesisRecord(
            h.seq, h.hypothesis_id, in_words(h.claim), h.status, tuple(_test(rows, h, t) for t in h.tests)
        )
        for h in view.hypotheses
    }


def _given(view: View, events: Iterable[Row], hypotheses: dict[str, HypothesisRecord]) -> tuple[GivenRecord, ...]:
    """Return the user's sentences: as which claim each was read, and which hypothesis it became or why none."""
    taken = {one.text: one for one in view.given}
    return tuple(_one_given(taken[text], view, events, hypotheses) if text in taken
                 else GivenRecord(1, text, None, "", None, Note(1, "the audit did not come to it"))
                 for text in view.spec.hypotheses)  # fmt: skip


def _one_given(one: Given, view: View, events: Iterable[Row], hypotheses: dict[str, HypothesisRecord]) -> GivenRecord:
    tried = view.tried(one)
    record = None if tried is None else hypotheses[tried.hypothesis_id]
    why = Note(one.seq, one.why) if one.claim is None else None if record else _refused(one.claim, events)
    return GivenRecord(one.seq, one.text, None if one.claim is None else in_words(one.claim), one.by, record, why)


def _refused(claim: Claim, events: Iterable[Row]) -> Note | None:
    """Return why a claim could not be registered, where that was tried."""
    terms = claim.model_dump(mode="json")
    refused = (
        e for e in events if e["kind"] == "step_invalid" and (e["body"].get("proposed") or {}).get("claim") == terms
    )
    return next((Note(e["seq"], e["body"]["problem"]) for e in refused), None)


def _test(rows: list[Row], hypothesis: HypothesisView, test: TestView) -> TestRecord:
    own = next(r for r in rows if r["table"] == "tests" and r["test_id"] == test.test_id)
    sides: dict[int, dict[str, Row]] = {}
    for row in rows:
        if row["table"] == "trials" and row["test_id"] == test.test_id:
            sides.setdefault(row["idx"], {})[row["channel"]] = row
    treated, control = test.terms["channels"]
    pairs = [(i, s[treated], s[control]) for i, s in sorted(sides.items()) if treated in s and control in s]
    counted = pairs[: test.outcome.n]
    said = [r for r in rows if r["table"] == "events" and r["key"] == test.test_id]
    stopped = [r for r in said if r["kind"] == "test_stopped"]
    decided = [r["seq"] for r in said if r["kind"] == "test_decided"]
    return TestRecord(
        view=test,
        hypothesis_id=hypothesis.hypothesis_id,
        k=own["k"],
        sha256=own["terms_sha256"],
        trials=tuple(row["seq"] for _, *both in counted for row in both),
        drawn=len(pairs),
        first=tuple(Pair(i, _reply(t), _reply(c)) for i, t, c in counted[:SHOWN_PAIRS]),
        decided=decided[-1] if decided else test.seq,
        stopped=Note(stopped[-1]["seq"], stopped[-1]["body"]["why"]) if stopped and not test.outcome.decision else None,
    )


def _reply(row: Row) -> Reply:
    return Reply(row["seq"], _prompt_text(row["prompt"]), row["reply"], bool(row["outcome"]))


def _prompt_text(messages: list[dict[str, str]]) -> str:
    """Return what was asked: the one user turn, or all turns with their roles."""
    if len(messages) == 1:
        return messages[0]["content"]
    return "\n".join(f"{m['role']}: {m['content']}" for m in messages)


def _findings(rows: list[Row], hypotheses: dict[str, HypothesisRecord], view: View) -> tuple[FindingRecord, ...]:
    found = []
    for row in rows:
        if row["table"] != "findings":
            continue
        claimed = view.hypothesis(row["hypothesis_id"])
        assert claimed is not None, "a finding's hypothesis is a row: the ledger has a foreign key for it"
        led = [r for r in view.readings if r["seq"] in claimed.readings]
        led.sort(key=lambda r: (-(r["suggestion"] or {"strength": 0.0})["strength"], r["seq"]))
        shown, others = led[:SHOWN_READINGS], led[SHOWN_READINGS:]
        found.append(
            FindingRecord(
                row["seq"],
                row["finding_id"],
                hypotheses[row["hypothesis_id"]],
                row["grade"],
                row["e_value"],
                row["confidence"],
                None if row["confidence"] is None else _rests_on(view.spec.calibration, row["grade"]),
                tuple(_reading(r, view.readings) for r in shown),
                tuple(r["seq"] for r in others),
            )
        )
    return tuple(found)


def _reading(row: Row, readings: list[Row]) -> ReadingRecord:
    said = row["suggestion"]["text"] if row["suggestion"] else None
    controls = tuple(sorted(row["controls"].items()))
    return ReadingRecord(
        row["seq"],
        row["tool"],
        row["name"],
        row["channel"],
        row["value"],
        controls,
        row["lift"],
        said,
        examples.of(row, readings),
    )


def _leads(view: View) -> tuple[LeadRecord, ...]:
    untested = view.open_leads()
    return tuple(
        LeadRecord(in_words(lead.claim), lead.lift, lead.tools, lead.readings, explained=lead not in untested)
        for lead in view.leads
        if not any(view.same(h, lead.claim) for h in view.hypotheses)
    )


def _unread(view: View) -> tuple[Note, ...]:
    """Return the suggestions that no claim could be made of."""
    read = {seq for lead in view.leads for seq in lead.readings}
    return tuple(
        Note(r["seq"], r["suggestion"]["text"]) for r in view.readings if r["suggestion"] and r["seq"] not in read
    )


def _calls(rows: list[Row]) -> tuple[CallRecord, ...]:
    """Return each call once, in the order of their beginnings, as its last row has it."""
    latest: dict[str, Row] = {}
    for row in rows:
        if row["table"] == "tool_calls":
            latest[row["key"]] = row
    return tuple(
        CallRecord(
            row["seq"],
            row["tool"],
            row["state"],
            row["step"],
            _n_prompts(row["arguments"]),
            row["error"] or _said(row["result"] or {}),
            tuple(sorted((row["result"] or {}).get("tokens", {}).items())),
        )
        for row in latest.values()
    )


def _said(result: Row) -> str:
    cut = f"cut to {result['cut']}; " if "cut" in result else ""
    return f"{cut}{result.get('summary', '')}"


def _n_prompts(arguments: Row) -> int | None:
    given = [arguments[name] for name in ("prompts", "positive", "negative") if isinstance(arguments.get(name), list)]
    return sum(map(len, given)) if given else None


def _troubles(events: Iterable[Row]) -> tuple[Note, ...]:
    named = {"planner_failed": "the planner failed", "step_invalid": "a proposed step could not be taken"}
    return tuple(
        Note(e["seq"], f"step {e['body']['step']}: {named[e['kind']]}: {e['body']['problem']}")
        for e in events
        if e["kind"] in named
    )


def _end(events: Iterable[Row]) -> End | None:
    for event in events:
        if event["kind"] == "concluded":
            body = event["body"]
            near = tuple(NearMiss(**{**one, "hits": tuple(one["hits"])}) for one in body.get("near_misses", ()))
            return End(
                event["seq"],
                body["verdict"],
                body["why"],
                body["p_planted"],
                body.get("p_scope", ""),
                near,
                tuple(body["not_looked_at"]),
            )
    return None


def _calibrated(events: Iterable[Row], by: Calibration | None) -> Calibrated | None:
    for event in events:
        if event["kind"] == KIND and by is not None:
            named = tuple((FEATURES.get(name, name), value) for name, value in event["body"]["features"].items())
            return Calibrated(event["seq"], named, event["body"]["why_not"], by)
    return None


def _rests_on(by: Calibration | None, grade: str) -> Right | None:
    return None if by is None else by.confidences.get(grade)


def _spent(ledger: Ledger, audit_id: str, limit: int) -> Spent:
    rows = ledger.rows("budget", audit_id)
    settled = {row["key"] for row in rows if row["state"] == "settled"}
    budget, released = Budget(ledger, audit_id, limit), ledger.rows("events", audit_id, kind="released")
    closed = settled | {event["key"] for event in released}
    return Spent(
        limit,
        tuple(sorted(budget.spent_by_role().items())),
        sum(row["seconds"] for row in rows),
        tuple(r["seq"] for r in rows),
        tuple(row["seq"] for row in rows if row["key"] not in closed),
        budget.lost(),
        tuple(event["seq"] for event in released),
    )
