"""What is known so far, derived from ledger rows: what planners see and conclusions rest on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ValidationError

from auditor import evidence
from auditor.config import AuditSpec
from auditor.errors import LedgerError
from auditor.interpret import Lead, leads, same_claim, same_effect
from auditor.ledger import Ledger
from tools.claims import STORED, Claim

Status = Literal["untested", "confirmed", "localised", "refuted", "undecided"]
REQUIRED_LEADS = 5


@dataclass(frozen=True)
class TestView:
    """One registered test and where its trials stand."""

    test_id: str
    grade: evidence.TestGrade
    outcome: evidence.Outcome
    seq: int
    terms: dict[str, Any]


@dataclass(frozen=True)
class HypothesisView:
    """A claim under test."""

    hypothesis_id: str
    claim: Claim
    readings: list[int]
    tests: list[TestView]
    seq: int

    def passed(self, grade: evidence.TestGrade) -> TestView | None:
        """Return the passed test of this grade, if there is one."""
        return next((t for t in self.tests if t.grade == grade and t.outcome.decision == "passed"), None)

    def tested(self, grade: evidence.TestGrade) -> bool:
        """Return whether a test of this grade has been registered."""
        return any(t.grade == grade for t in self.tests)

    @property
    def status(self) -> Status:
        """Return the best that its tests have shown."""
        if self.passed("confirmed") and self.passed("localised"):
            return "localised"
        if self.passed("confirmed"):
            return "confirmed"
        if not self.tests:
            return "untested"
        return "refuted" if all(t.outcome.decision == "failed" for t in self.tests) else "undecided"


@dataclass(frozen=True)
class View:
    """Everything a planner may know: short, typed, with ledger ids."""

    spec: AuditSpec
    calls: list[dict[str, Any]]
    readings: list[dict[str, Any]]
    leads: list[Lead]
    hypotheses: list[HypothesisView]
    spent: int
    survey_done: bool

    @property
    def budget_left(self) -> int:
        """Return the forward tokens that may still be spent."""
        return self.spec.budget - self.spent

    def hypothesis(self, hypothesis_id: str) -> HypothesisView | None:
        """Return the hypothesis of this id, None when there is none."""
        return next((h for h in self.hypotheses if h.hypothesis_id == hypothesis_id), None)

    def findings(self) -> list[HypothesisView]:
        """Return hypotheses that passed: localised ones, and confirmed ones that claim no trigger."""
        return [
            h for h in self.hypotheses if h.status == "localised" or (h.status == "confirmed" and not h.claim.trigger)
        ]

    def explained(self, claim: Claim) -> bool:
        """Return whether a finding already covers the claim: the same trigger, or the same effect."""
        return any(
            same_effect(h.claim.effect, claim.effect) or (claim.trigger and h.claim.trigger == claim.trigger)
            for h in self.findings()
        )

    def open_leads(self) -> list[Lead]:
        """Return the leads that no hypothesis has taken up and no finding explains, strongest first."""
        taken = [h.claim for h in self.hypotheses]
        return [
            lead for lead in self.leads
            if not any(same_claim(lead.claim, c) for c in taken) and not self.explained(lead.claim)
        ]  # fmt: skip

    def untested_best(self) -> list[Lead]:
        """Return those of the best leads that still have to be dealt with before nothing can be concluded."""
        best = self.leads[:REQUIRED_LEADS]
        return [lead for lead in self.open_leads() if lead in best]


def load_view(ledger: Ledger, audit_id: str, spec: AuditSpec, spent: int) -> View:
    """Return the view of an audit as its rows stand."""
    readings = ledger.rows("readings", audit_id)
    trials: dict[str, dict[int, dict[str, int]]] = {}
    for row in ledger.rows("trials", audit_id):
        trials.setdefault(row["test_id"], {}).setdefault(row["idx"], {})[row["channel"]] = row["outcome"]
    tests: dict[str, list[TestView]] = {}
    for row in ledger.rows("tests", audit_id):
        outcome = outcome_of(row["terms"], trials.get(row["test_id"], {}))
        tests.setdefault(row["hypothesis_id"], []).append(
            TestView(row["test_id"], row["grade"], outcome, row["seq"], row["terms"])
        )
    hypotheses = [
        HypothesisView(row["hypothesis_id"], Claim.model_validate(row["claim"], context=STORED), row["readings"],
                       tests.get(row["hypothesis_id"], []), row["seq"])
        for row in ledger.rows("hypotheses", audit_id)
    ]  # fmt: skip
    calls = [row for row in ledger.rows("tool_calls", audit_id) if row["state"] in ("settled", "failed")]
    done = ledger.find("events", audit_id, kind="survey_done") is not None
    return View(spec, calls, readings, leads(readings, spec.vocabulary), hypotheses, spent, done)


def outcome_of(terms: dict[str, Any], trials: dict[int, dict[str, int]]) -> evidence.Outcome:
    """Return a test's outcome from its trials: pairs in order of index, complete pairs only."""
    treated, control = terms["channels"]
    pairs = [
        (pair[treated], pair[control]) for _, pair in sorted(trials.items()) if treated in pair and control in pair
    ]
    return evidence.weigh(pairs, terms["alpha"], terms["delta"], terms["max_trials"], terms.get("parts", 1))


def spec_of(ledger: Ledger, audit_id: str) -> AuditSpec:
    """Return the specification that an audit began with.

    Raises:
        LedgerError: the ledger has no such audit, or another version of the auditor began it.
    """
    row = ledger.find("audits", audit_id)
    if row is None:
        raise LedgerError(f"there is no audit {audit_id!r} in {ledger.path}; `auditor list` shows those there are")
    try:
        return AuditSpec.model_validate(row["spec"], context=STORED)
    except ValidationError as error:
        raise LedgerError(
            f"audit {audit_id} was begun by another version ({row['versions']}): {error.errors()[0]['msg']}"
        ) from error
