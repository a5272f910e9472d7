"""Carry out one step: each piece of work has a key, and what the ledger has settled is not done again."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from dataclasses import dataclass, field
from typing import Any

from auditor import evidence, predicates, prompts
from auditor.budget import Budget
from auditor.config import AuditSpec
from auditor.errors import BudgetError, LedgerError
from auditor.interpret import same_claim
from auditor.ledger import Ledger
from auditor.steps import CallTool, RegisterHypothesis, RunTest
from auditor.view import View, load_view, outcome_of
from tools.base import Tool, ToolResult
from tools.claims import STORED, Claim
from tools.errors import ToolInputError
from tools.subject import Subject

log = logging.getLogger(__name__)
WITHOUT_TRIGGER = "subject_without_trigger"


@dataclass
class Desk:
    """All that carrying out steps needs: the subject, the tools, the ledger, the budget."""

    audit_id: str
    spec: AuditSpec
    subject: Subject
    tools: dict[str, Tool[Any]]
    ledger: Ledger
    budget: Budget = field(init=False)

    def __post_init__(self) -> None:
        self.budget = Budget(self.ledger, self.audit_id, self.spec.budget)

    def view(self) -> View:
        """Return what is known so far."""
        return load_view(self.ledger, self.audit_id, self.spec, self.budget.spent())

    def event(self, kind: str, body: dict[str, Any], key: str | None = None) -> None:
        """Append an event; one with a key that is already there is left as it is."""
        if key is None or self.ledger.find("events", self.audit_id, kind=kind, key=key) is None:
            self.ledger.append("events", self.audit_id, kind=kind, key=key, body=body)


def call_key(desk: Desk, call: CallTool) -> str:
    """Return the key of a tool call: tool, arguments, seed and weights, hashed."""
    parts = [call.tool, call.arguments, desk.spec.seed, desk.subject.weights_hash]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]


def check_call(desk: Desk, call: CallTool) -> None:
    """Refuse a call that can't be made, before anything is written.

    Raises:
        ToolInputError: the tool is not one of the audit's, or an argument does not fit.
    """
    if call.tool not in desk.tools:
        raise ToolInputError(f"unknown tool {call.tool!r}: this audit has {', '.join(desk.tools) or 'none'}")
    desk.tools[call.tool].parse(call.arguments)
    key = call_key(desk, call)
    if any(row["state"] != "started" for row in desk.ledger.rows("tool_calls", desk.audit_id, key=key)):
        raise ToolInputError(f"{call.tool} has been called with these arguments; its readings are in the ledger")


def call_tool(desk: Desk, call: CallTool, step: int) -> None:
    """Run the tool unless its row is there; a failure becomes a row and the audit goes on.

    Raises:
        LedgerError: what came out could not be written.
    """
    key = call_key(desk, call)
    for state in ("settled", "failed"):
        if desk.ledger.find("tool_calls", desk.audit_id, key=key, state=state):
            return
    tool = desk.tools[call.tool]
    args = tool.parse(call.arguments)
    common = {"key": key, "step": step, "tool": call.tool, "arguments": call.arguments, "seed": desk.spec.seed,
              "weights_sha256": desk.subject.weights_hash}  # fmt: skip
    began = time.monotonic()
    try:
        reservation = desk.budget.reserve(f"call/{key}", tool.cost(desk.subject, args))
        desk.ledger.append("tool_calls", desk.audit_id, **common, state="started", result=None, error=None)
        result = tool.run(desk.subject, args, desk.spec.seed)
    except LedgerError:
        raise
    except Exception as error:
        log.warning("tool %s failed: %s", call.tool, error)
        text = f"{type(error).__name__}: {error}"
        desk.ledger.append("tool_calls", desk.audit_id, **common, state="failed", result=None, error=text)
        return
    rows: list[tuple[str, dict[str, object]]] = [
        (
            "tool_calls",
            {
                **common,
                "state": "settled",
                "result": {"summary": result.summary, "tokens": result.tokens},
                "error": None,
            },
        ),
        desk.budget.settled_row(reservation, result.tokens, time.monotonic() - began),
    ]
    desk.ledger.append_many(desk.audit_id, rows + _reading_rows(key, call.tool, result))


def _reading_rows(key: str, tool: str, result: ToolResult) -> list[tuple[str, dict[str, object]]]:
    return [
        (
            "readings",
            {
                "call_key": key, "tool": tool, "name": reading.name, "channel": reading.channel, "value": reading.value,
                "controls": reading.controls, "lift": reading.lift, "detail": reading.detail,
                "suggestion": None if reading.suggestion is None else reading.suggestion.model_dump(mode="json"),
            },
        )
        for reading in result.readings
    ]  # fmt: skip


def take_suggestions(desk: Desk) -> None:
    """Log the suggestions that the specification brought along, in place of any tool's."""
    key = "given"
    if desk.ledger.find("tool_calls", desk.audit_id, key=key, state="settled"):
        return
    call: dict[str, object] = {"key": key, "state": "settled", "step": 0, "tool": "given", "arguments": {}, "seed": desk.spec.seed,
            "weights_sha256": desk.subject.weights_hash, "result": {"summary": "suggestions given with the specification"},
            "error": None}  # fmt: skip
    rows: list[tuple[str, dict[str, object]]] = [("tool_calls", call)]
    for one in desk.spec.suggestions or []:
        rows.append(("readings", {"call_key": key, "tool": "given", "name": "given", "channel": "subject", "value": None,
                                  "controls": {}, "lift": one.lift, "suggestion": one.model_dump(mode="json"), "detail": {}}))  # fmt: skip
    desk.ledger.append_many(desk.audit_id, rows)


def check_claim(desk: Desk, claim: Claim) -> None:
    """Refuse a claim that no test could decide.

    Raises:
        ToolInputError: an unknown family, effect or topic; the message lists the possible ones.
    """
    names = desk.spec.vocabulary.family_names
    if claim.family not in names:
        raise ToolInputError(f"unknown family {claim.family!r}: the families are {', '.join(names)}")
    predicates.cues_of(claim.effect, desk.spec.vocabulary)
    prompts.check_trigger(desk.spec, claim.trigger)


def check_hypothesis(desk: Desk, step: RegisterHypothesis) -> None:
    """Refuse a hypothesis that can't be tested, that is there already, or that cites no row.

    Raises:
        ToolInputError: the message says which, and what is possible.
    """
    check_claim(desk, step.claim)
    for row in desk.ledger.rows("hypotheses", desk.audit_id):
        if same_claim(Claim.model_validate(row["claim"], context=STORED), step.claim):
            raise ToolInputError(f"{row['hypothesis_id']} claims the same; test that one")
    known = {row["seq"] for row in desk.ledger.rows("readings", desk.audit_id)}
    unknown = [seq for seq in step.readings if seq not in known]
    if unknown:
        raise ToolInputError(f"there are no readings {unknown}: the ledger's are {sorted(known)}")


def register_hypothesis(desk: Desk, step: RegisterHypothesis, number: int) -> None:
    """Write the hypothesis unless this step has written it before."""
    done = desk.ledger.find("events", desk.audit_id, kind="hypothesis_registered", key=str(number))
    if done is not None:
        return
    hypothesis_id = f"H{len(desk.ledger.rows('hypotheses', desk.audit_id)) + 1}"
    desk.ledger.append_many(desk.audit_id, [
        ("hypotheses", {"hypothesis_id": hypothesis_id, "claim": step.claim.model_dump(mode="json"), "readings": step.readings}),
        ("events", {"kind": "hypothesis_registered", "key": str(number), "body": {"hypothesis_id": hypothesis_id}}),
    ])  # fmt: skip


def check_test(desk: Desk, step: RunTest) -> None:
    """Refuse a test of nothing.

    Raises:
        ToolInputError: no such hypothesis, or nothing to localise.
    """
    known = [row["hypothesis_id"] for row in desk.ledger.rows("hypotheses", desk.audit_id)]
    if step.hypothesis_id not in known:
        raise ToolInputError(f"unknown hypothesis {step.hypothesis_id!r}: registered are {', '.join(known) or 'none'}")
    view = desk.view().hypothesis(step.hypothesis_id)
    assert view is not None, "a registered hypothesis is in the view"
    if view.tested(step.grade):
        raise ToolInputError(
            f"{step.hypothesis_id} has been tested for {step.grade}: a test is not repeated until it passes"
        )
    if step.grade == "localised" and not view.claim.trigger:
        raise ToolInputError(f"{step.hypothesis_id} claims no trigger, so there is nothing to localise")


def run_test(desk: Desk, step: RunTest, number: int) -> None:
    """Register the test, then run paired trials until it is decided; both survive an interruption."""
    test_id = f"T{number}"
    row = desk.ledger.find("tests", desk.audit_id, test_id=test_id)
    if row is None:
        check_test(desk, step)
        row = _register_test(desk, step, test_id)
    claim = Claim.model_validate(row["terms"]["claim"], context=STORED)
    while True:
        trials: dict[int, dict[str, int]] = {}
        for trial in desk.ledger.rows("trials", desk.audit_id, test_id=test_id):
            trials.setdefault(trial["idx"], {})[trial["channel"]] = trial["outcome"]
        outcome = outcome_of(row["terms"], trials)
        if outcome.decision is not None:
            break
        try:
            _run_batch(desk, claim, row["terms"], test_id, len(trials))
        except BudgetError as error:
            desk.event("test_stopped", {"test_id": test_id, "why": str(error)}, key=test_id)
            return
    desk.event(
        "test_decided", {"test_id": test_id, "decision": outcome.decision, "e": outcome.e, "n": outcome.n}, key=test_id
    )


def _register_test(desk: Desk, step: RunTest, test_id: str) -> dict[str, Any]:
    hypothesis = desk.view().hypothesis(step.hypothesis_id)
    assert hypothesis is not None, "checked before"
    claim, k = hypothesis.claim, len(desk.ledger.rows("tests", desk.audit_id)) + 1
    cues = predicates.cues_of(claim.effect, desk.spec.vocabulary)
    n_rows = len(prompts.rows_for(desk.spec, claim.trigger))
    terms = evidence.register(desk.spec, claim, step.grade, k, cues, n_rows)
    desk.ledger.append("tests", desk.audit_id, test_id=test_id, hypothesis_id=step.hypothesis_id, k=k, grade=step.grade,
                       terms=terms.as_dict(), terms_sha256=terms.sha256)  # fmt: skip
    row = desk.ledger.find("tests", desk.audit_id, test_id=test_id)
    assert row is not None, "the row was just appended"
    return row


def _run_batch(desk: Desk, claim: Claim, terms: dict[str, Any], test_id: str, start: int) -> None:
    """Run the next batch of pairs and write all of its trials in one transaction."""
    indices = range(start, min(start + evidence.BATCH, terms["max_trials"]))
    seeds = [prompts.trial_seed(desk.spec, test_id, i) for i in indices]
    sides = {}
    for channel in terms["channels"]:
        taken_out = [i % terms.get("parts", 1) if channel == WITHOUT_TRIGGER else None for i in indices]
        sides[channel] = [
            prompts.draw(desk.spec, claim.trigger, test_id, i, without)
            for i, without in zip(indices, taken_out, strict=True)
        ]
    texts = {channel: [desk.subject.render(m) for m in messages] for channel, messages in sides.items()}
    limit = terms["decoding"]["max_new_tokens"]
    cost: dict[str, int] = {}
    for channel, rendered in texts.items():
        role = "base" if channel == "base" else "subject"
        cost[role] = cost.get(role, 0) + desk.subject.encode(rendered).n_tokens + limit * len(rendered)
    reservation = desk.budget.reserve(f"test/{test_id}/{start}", cost)
    began, spent = time.monotonic(), dict.fromkeys(cost, 0)
    rows: list[tuple[str, dict[str, object]]] = []
    for channel, rendered in texts.items():
        role = "base" if channel == "base" else "subject"
        replies, tokens = desk.subject.generate(rendered, role, seeds, limit, terms["decoding"]["temperature"])
        spent[role] += tokens
        for i, seed, messages, reply in zip(indices, seeds, sides[channel], replies, strict=True):
            outcome = int(predicates.holds(claim.effect, reply, desk.spec.vocabulary))
            rows.append(("trials", {"test_id": test_id, "idx": i, "channel": channel, "seed": seed,
                                    "prompt": messages, "reply": reply, "outcome": outcome}))  # fmt: skip
    rows.append(desk.budget.settled_row(reservation, spent, time.monotonic() - began))
    desk.ledger.append_many(desk.audit_id, rows)
