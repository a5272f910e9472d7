"""Carry out registered tests: terms first, then paired trials in batches, until the e-process decides."""

from __future__ import annotations

import time
from typing import Any

from auditor import evidence, prompts
from auditor.errors import BudgetError
from auditor.execute import Desk
from auditor.judging import failed_row, failures
from auditor.steps import RunTest
from auditor.view import max_trials_of, outcome_of
from tools.claims import older
from tools.claims.claim import Claim
from tools.claims.judge import ROLE, Side, decided, undecided
from tools.claims.predicates.file_does import FileDoes
from tools.errors import ToolInputError
from tools.own_files.replies import Asks, under_base_files, under_own_files


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
    if step.grade == "localised" and not view.claim.condition.parts:
        raise ToolInputError(f"{step.hypothesis_id} claims no condition, so there is nothing to localise")


def run_test(desk: Desk, step: RunTest, number: int) -> None:
    """Register the test, then run paired trials until it is decided; both survive an interruption.

    A test that has used up its pairs while evidence still comes in gets as many again, as long as the
    budget also pays for the tests that are still required: the e-process and its share of the error
    budget stay what they were, and its bound holds at any stopping time.
    """
    test_id = f"T{number}"
    row = desk.ledger.find("tests", desk.audit_id, test_id=test_id)
    if row is None:
        check_test(desk, step)
        row = _register_test(desk, step, test_id)
    terms = row["terms"]
    claim = older.claim(terms["claim"], desk.spec.catalogue, desk.spec.topics())
    while True:
        trials: dict[int, dict[str, int]] = {}
        for trial in desk.ledger.rows("trials", desk.audit_id, test_id=test_id):
            trials.setdefault(trial["idx"], {})[trial["channel"]] = trial["outcome"]
        limit = max_trials_of(desk.ledger, desk.audit_id, terms, test_id)
        failed = failures(desk.ledger.rows("events", desk.audit_id), test_id)
        outcome = outcome_of(terms, trials, limit, failed)
        if outcome.decision == "failed" and _worth_more(desk, claim, test_id, terms, outcome):
            body = {"test_id": test_id, "max_trials": outcome.n + terms["max_trials"], "n": outcome.n, "e": outcome.e}
            desk.event("maximum_raised", body, key=f"{test_id}/{outcome.n}")
            continue
        if outcome.decision is not None:
            break
        if _too_many_failed(desk, test_id, len(trials)):
            return
        try:
            _run_batch(desk, claim, terms, test_id, range(len(trials), min(len(trials) + evidence.BATCH, limit)))
        except BudgetError as error:
            desk.event("test_stopped", {"test_id": test_id, "why": str(error)}, key=test_id)
            return
    desk.event(
        "test_decided", {"test_id": test_id, "decision": outcome.decision, "e": outcome.e, "n": outcome.n}, key=test_id
    )


def _too_many_failed(desk: Desk, test_id: str, n_pairs: int) -> bool:
    """Return whether a test has to stop because its judge fails too often, and say so in the ledger."""
    failed = failures(desk.ledger.rows("events", desk.audit_id), test_id)
    if n_pairs < evidence.FUTILITY_AFTER or not undecided(failed, 2 * n_pairs):
        return False
    why = f"{failed} of {2 * n_pairs} judgements failed, and above one in ten a test decides nothing"
    desk.event("test_stopped", {"test_id": test_id, "why": why}, key=test_id)
    return True


def _worth_more(desk: Desk, claim: Claim, test_id: str, terms: dict[str, Any], outcome: evidence.Outcome) -> bool:
    """Return whether a test without a decision goes on: evidence grows, and the tests still required stay affordable."""
    if not outcome.grows(terms.get("parts", 1)):
        return False
    view, settled = desk.view(), desk.ledger.rows("budget", desk.audit_id, state="settled")
    settled = [row for row in settled if row["key"].startswith(f"test/{test_id}/")]
    per_test = sum(sum(row["tokens"].values()) for row in settled) / max(1, outcome.n) * terms["max_trials"]
    has_parts = bool(claim.condition.parts)
    waiting = len(view.untested_best()) + (terms["grade"] == "confirmed" and has_parts)
    return bool(per_test * (1 + waiting) <= view.budget_left)


def _register_test(desk: Desk, step: RunTest, test_id: str) -> dict[str, Any]:
    view = desk.view()
    hypothesis = view.hypothesis(step.hypothesis_id)
    assert hypothesis is not None, "checked before"
    claim = hypothesis.claim
    registered = [row["terms"]["alpha"] for row in desk.ledger.rows("tests", desk.audit_id)]
    weight = evidence.weight_of(view.strength_of(hypothesis), hypothesis.passed("confirmed") is not None)
    terms = evidence.register(desk.spec, claim, step.grade, registered, weight, len(desk.spec.pool()), desk.bench.name)
    desk.ledger.append("tests", desk.audit_id, test_id=test_id, hypothesis_id=step.hypothesis_id, k=terms.k,
                       grade=step.grade, terms=terms.as_dict(), terms_sha256=terms.sha256)  # fmt: skip
    row = desk.ledger.find("tests", desk.audit_id, test_id=test_id)
    assert row is not None, "the row was just appended"
    return row


def _run_batch(desk: Desk, claim: Claim, terms: dict[str, Any], test_id: str, indices: range) -> None:
    """Run the next batch of pairs and write all of its trials in one transaction."""
    seeds = [prompts.trial_seed(desk.spec, test_id, i) for i in indices]
    sides = {}
    for channel in terms["channels"]:
        taken_out = [i % terms.get("parts", 1) if channel.endswith(evidence.WITHOUT) else None for i in indices]
        sides[channel] = [
            prompts.draw(desk.spec, claim.condition, test_id, i, without)
            for i, without in zip(indices, taken_out, strict=True)
        ]
    if claim.predicate.reads == "prompt":
        desk.ledger.append_many(desk.audit_id, _prompts_read(desk, claim, test_id, indices, seeds, sides))
        return
    limit = terms["decoding"]["max_new_tokens"]
    ask = {channel: _asks(desk, channel, messages) for channel, messages in sides.items()}
    cost: dict[str, int] = {}
    for channel, asks in ask.items():
        cost[asks.role] = cost.get(asks.role, 0) + asks.n_tokens + desk.subject.longest(limit) * len(sides[channel])
    cost |= desk.bench.cost(claim.predicate, [messages for asked in sides.values() for messages in asked], limit)
    reservation = desk.budget.reserve(f"test/{test_id}/{indices.start}", cost)
    began, spent = time.monotonic(), dict.fromkeys(cost, 0)
    rows: list[tuple[str, dict[str, object]]] = []
    for channel, asks in ask.items():
        replies, tokens = asks.replies(seeds, limit, terms["decoding"]["temperature"])
        spent[asks.role] += tokens
        for i, seed, messages, reply in zip(indices, seeds, sides[channel], replies, strict=True):
            answer = desk.subject.dialogue.answer(reply)
            side: Side = "treated" if channel == terms["channels"][0] else "control"
            before = desk.bench.tokens
            told = decided(claim.predicate, messages, answer, desk.bench.judge, side)
            spent[ROLE] = spent.get(ROLE, 0) + desk.bench.tokens - before
            rows.append(("trials", {"test_id": test_id, "idx": i, "channel": channel, "seed": seed,
                                    "prompt": messages, "reply": reply, "outcome": int(told.shown)}))  # fmt: skip
            if told.failed:
                rows.append(failed_row(test_id, i, channel, told.why))
    rows.append(desk.budget.settled_row(reservation, spent, time.monotonic() - began))
    desk.ledger.append_many(desk.audit_id, rows)


def _asks(desk: Desk, channel: str, messages: list[list[dict[str, str]]]) -> Asks:
    """Return what a channel is asked: under the base's files, or the subject's own."""
    if channel.startswith(evidence.OWN_FILES):
        return under_own_files(desk.subject, messages)
    return under_base_files(desk.subject, messages, "base" if channel == "base" else "subject")


def _prompts_read(
    desk: Desk, claim: Claim, test_id: str, indices: range, seeds: list[int], sides: dict[str, Any]
) -> list[tuple[str, dict[str, object]]]:
    """Return the trials of a claim about a file: prompts as the model is given them, with no reply to them.

    Raises:
        ToolInputError: the subject brings no files of its own.
    """
    own = desk.subject.own
    if own is None or not isinstance(claim.predicate, FileDoes):
        raise ToolInputError("the subject brings no files of its own, so that nothing can be said of them")
    rows: list[tuple[str, dict[str, object]]] = []
    for channel, asked in sides.items():
        for i, seed, messages in zip(indices, seeds, asked, strict=True):
            texts = own.given(claim.predicate, messages, desk.subject.render(messages), channel != "base")
            shown = any(claim.predicate.shown(messages, text) for text in texts)
            rows.append(("trials", {"test_id": test_id, "idx": i, "channel": channel, "seed": seed, "prompt": messages,
                                    "reply": "\n".join(texts), "outcome": int(shown)}))  # fmt: skip
    return rows
