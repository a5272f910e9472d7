"""Carry out one step: each piece of work has a key, and what the ledger has settled is not done again."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from dataclasses import dataclass, field
from typing import Any

from auditor import prompts
from auditor.budget import Budget
from auditor.config import AuditSpec
from auditor.errors import LedgerError
from auditor.foresight import usable_memory
from auditor.judging import Bench
from auditor.ledger import Ledger
from auditor.steps import CallTool, RegisterHypothesis
from auditor.unfinished import Unfinished
from auditor.view import View, files_alone, load_view
from tools.base import Tool, ToolResult
from tools.claims.claim import Claim
from tools.claims.conditions.own_files import under_own_files
from tools.errors import ToolInputError
from tools.subject import Subject

log = logging.getLogger(__name__)


@dataclass
class Desk:
    """All that carrying out steps needs: the subject, the tools, the ledger, the budget."""

    audit_id: str
    spec: AuditSpec
    subject: Subject
    tools: dict[str, Tool[Any]]
    ledger: Ledger
    unfinished: Unfinished
    budget: Budget = field(init=False)
    bench: Bench = field(init=False)
    _view: tuple[str, View] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.budget = Budget(self.ledger, self.audit_id, self.spec.budget)
        self.bench = Bench(self.audit_id, self.spec, self.subject, self.ledger, self.budget)

    def begin_session(self) -> None:
        """Release what an interruption left reserved: nothing is under way when a session begins."""
        self.event("session_started", {"pid": os.getpid()})
        self.budget.release(self._lost)

    def _lost(self, what: str, reserved: dict[str, int]) -> tuple[dict[str, int], int]:
        """Return what was lost with a reservation: the batches in flight of a call that has some, else all of it."""
        call = what.removeprefix("call/")
        in_flight = self.unfinished.in_flight(call)
        return (reserved, 0) if in_flight is None else (in_flight, self.unfinished.finished(call))

    def view(self) -> View:
        """Return what is known so far; it is built once for each state of the ledger."""
        head = self.ledger.head(self.audit_id)
        if self._view is None or self._view[0] != head:
            self._view = (
                head,
                load_view(self.ledger, self.audit_id, self.spec, self.budget.spent(), self.useful_tools()),
            )
        return self._view[1]

    def useful_tools(self) -> dict[str, Tool[Any]]:
        """Return the instruments that have something to read: where subject and base differ in files alone, those of files."""
        if not files_alone(self.ledger, self.audit_id):
            return self.tools
        return {name: tool for name, tool in self.tools.items() if tool.reads_files}

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


def is_done(desk: Desk, call: CallTool) -> bool:
    """Return whether a call has its row: settled, or failed."""
    key = call_key(desk, call)
    return any(desk.ledger.find("tool_calls", desk.audit_id, key=key, state=state) for state in ("settled", "failed"))


def call_tool(desk: Desk, call: CallTool, step: int, allowed: int) -> None:
    """Run the tool unless its row is there; a failure becomes a row and the audit goes on.

    A call that may cost more than it is allowed, or that would not fit in memory, is cut to size, and
    its row says so; where the least that is of use is still too much, it is left out.

    Args:
        desk: The audit's.
        call: Which tool, with which arguments.
        step: The step's number, -1 in the survey.
        allowed: Forward tokens that the call may cost.

    Raises:
        LedgerError: what came out could not be written.
    """
    if is_done(desk, call):
        return
    key = call_key(desk, call)
    tool = desk.tools[call.tool]
    args = tool.parse(call.arguments)
    common = {"key": key, "step": step, "tool": call.tool, "arguments": call.arguments, "seed": desk.spec.seed,
              "weights_sha256": desk.subject.weights_hash}  # fmt: skip
    began = time.monotonic()
    try:
        fitted = tool.fit(desk.subject, args, min(allowed, desk.budget.left()), usable_memory(desk.subject))
        if fitted is None:
            least = f"its smallest useful look costs more than the {min(allowed, desk.budget.left()):,} forward tokens that are left for it"
            desk.ledger.append(
                "tool_calls", desk.audit_id, **common, state="failed", result={"left_out": True}, error=least
            )
            return
        args, cut = fitted
        reservation = desk.budget.reserve(f"call/{key}", tool.cost(desk.subject, args))
        desk.ledger.append("tool_calls", desk.audit_id, **common, state="started", result=None, error=None)
        desk.subject.keeper = desk.unfinished.of_call(key)
        result = tool.run(desk.subject, args, desk.spec.seed)
    except LedgerError:
        raise
    except Exception as error:
        log.warning("tool %s failed: %s", call.tool, error)
        text = f"{type(error).__name__}: {error}"
        desk.ledger.append("tool_calls", desk.audit_id, **common, state="failed", result=None, error=text)
        desk.unfinished.forget(key)
        return
    finally:
        desk.subject.keeper = None
    rows: list[tuple[str, dict[str, object]]] = [
        (
            "tool_calls",
            {
                **common,
                "state": "settled",
                "result": {"summary": result.summary, "tokens": result.tokens, **({"cut": cut} if cut else {})},
                "error": None,
            },
        ),
        desk.budget.settled_row(reservation, result.tokens, time.monotonic() - began),
    ]
    desk.ledger.append_many(desk.audit_id, rows + _reading_rows(key, call.tool, result))
    desk.unfinished.forget(key)


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
        ToolInputError: an unknown family, or a condition that no prompt can carry; the message lists the possible ones.
    """
    of_files = claim.predicate.reads == "prompt" or under_own_files(claim.condition)
    if of_files and (desk.subject.own is None or not desk.subject.own.differ):
        raise ToolInputError("the claim is about the subject's own files, and it brings none that differ")
    families = desk.spec.catalogue.families
    if claim.family is not None and claim.family not in families:
        known = ", ".join(families) or "none"
        raise ToolInputError(
            f"unknown family {claim.family!r}: the families are {known}; leave it out for a claim of no family"
        )
    desk.bench.check(claim.predicate)
    prompts.check_condition(desk.spec, claim.condition)


def check_hypothesis(desk: Desk, step: RegisterHypothesis) -> None:
    """Refuse a hypothesis that can't be tested, that is there already, or that cites no row.

    Raises:
        ToolInputError: the message says which, and what is possible.
    """
    check_claim(desk, step.claim)
    view = desk.view()
    for hypothesis in view.hypotheses:
        if view.same(hypothesis, step.claim):
            raise ToolInputError(f"{hypothesis.hypothesis_id} claims the same; test that one")
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
    given = any(one.claim == step.claim for one in desk.view().given)  # before anything is at hand: it is decided later
    body = {"hypothesis_id": hypothesis_id, "decided_on": None if given else len(desk.view().at_hand)}
    desk.ledger.append_many(desk.audit_id, [
        ("hypotheses", {"hypothesis_id": hypothesis_id, "claim": step.claim.model_dump(mode="json"), "readings": step.readings}),
        ("events", {"kind": "hypothesis_registered", "key": str(number), "body": body}),
    ])  # fmt: skip
