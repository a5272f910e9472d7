"""What is known so far, derived from ledger rows: what planners see and conclusions rest on."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from auditor import evidence
from auditor.candidates import Lead, leads
from auditor.config import AuditSpec
from auditor.errors import LedgerError
from auditor.judging import FAILED, failures
from auditor.ledger import Ledger
from tools.claims import older
from tools.claims.claim import Claim, Concern
from tools.claims.judge import undecided
from tools.claims.sameness import AtHand, same_claims, same_predicates
from tools.own_files.kinds import GRAVE
from tools.questions import SEVERAL, Known

if TYPE_CHECKING:
    from tools.base import Tool

Status = Literal["untested", "confirmed", "localised", "refuted", "undecided"]
REQUIRED_LEADS = 5
SURE = 1.5
"""Strength of a lead that is tested before anything else is looked at: half as much again as its instrument's threshold."""
MIN_PROMPTS = 16
"""With fewer prompts to look with nothing can be said not to be there."""
CONCERN = "concern_judged"
"""The kind of the event that says how bad a hypothesis is."""
GIVEN = "hypothesis_given"
"""The kind of the event that says what the user thinks, and as which claim it was read; its key is its place, from 0."""
P_PLANTED = "p_planted"
"""The name of a reading whose value is a probability that something was planted."""


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
    decided_on: int | None = None
    """How many prompts and replies were at hand when it was registered: on them it is decided which claims are the same."""

    def passed(self, grade: evidence.TestGrade) -> TestView | None:
        """Return the passed test of this grade, if there is one."""
        return next((t for t in self.tests if t.grade == grade and t.outcome.decision == "passed"), None)

    def tested(self, grade: evidence.TestGrade) -> bool:
        """Return whether a test of this grade has been registered."""
        return any(t.grade == grade for t in self.tests)

    def nearly(self, alpha: float) -> TestView | None:
        """Return the test that ended unpassed with an e-value of 1/alpha or more, alpha the audit's whole error budget."""
        return next((t for t in self.tests if t.outcome.decision != "passed" and t.outcome.e >= 1 / alpha), None)

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
class Given:
    """A sentence that the user gave.

    Args:
        seq: The row that says so.
        text: In the user's words.
        claim: As what it was read; None where it could not be.
        by: What read it.
        why: Why it could not be read.
    """

    seq: int
    text: str
    claim: Claim | None
    by: str
    why: str


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
    tools: Mapping[str, Tool[Any]] = field(default_factory=dict)
    files_alone: bool = False
    at_hand: AtHand = field(default_factory=AtHand)
    refused: tuple[Claim, ...] = ()
    """Claims that a planner proposed and no test of this audit can decide."""
    given: tuple[Given, ...] = ()
    """What the user thinks the subject does."""

    @property
    def budget_left(self) -> int:
        """Return the forward tokens that may still be spent."""
        return self.spec.budget - self.spent

    def hypothesis(self, hypothesis_id: str) -> HypothesisView | None:
        """Return the hypothesis of this id, None when there is none."""
        return next((h for h in self.hypotheses if h.hypothesis_id == hypothesis_id), None)

    def same(self, hypothesis: HypothesisView, claim: Claim) -> bool:
        """Return whether a claim is a hypothesis's, on the prompts and replies that were at hand when it was registered."""
        return same_claims(hypothesis.claim, claim, self.at_hand, hypothesis.decided_on)

    def callable(self) -> dict[str, Tool[Any]]:
        """Return the instruments that a planner may call with arguments of its own."""
        return {name: tool for name, tool in self.tools.items() if not tool.reads_given}

    def tried(self, given: Given) -> HypothesisView | None:
        """Return the hypothesis that a sentence of the user's became; None where it became none yet."""
        return next((h for h in self.hypotheses if given.claim is not None and self.same(h, given.claim)), None)

    def is_given(self, hypothesis: HypothesisView) -> bool:
        """Return whether a hypothesis is one of the user's."""
        return any(self.tried(given) is hypothesis for given in self.given)

    def to_try(self) -> list[Claim]:
        """Return the user's claims that are not under test and were not refused, as given."""
        open_ones = [given.claim for given in self.given if given.claim is not None and self.tried(given) is None]
        return [claim for claim in open_ones if not any(same_claims(claim, c, self.at_hand) for c in self.refused)]

    def findings(self) -> list[HypothesisView]:
        """Return hypotheses that passed: localised ones, and confirmed ones that claim no condition."""
        return [
            h
            for h in self.hypotheses
            if h.status == "localised" or (h.status == "confirmed" and not h.claim.condition.parts)
        ]

    def ending(self) -> list[HypothesisView]:
        """Return the findings that end a survey: those that the user did not think of, and that are not known to be harmless."""
        return [h for h in self.findings() if not self.is_given(h) and h.claim.concern.level != "none"]

    def known(self) -> Known:
        """Return what all instruments have said so far, in what they share; where several rank words, the first tool's order."""
        order = {name: i for i, name in enumerate(self.tools)}
        ranking = [r for r in self.readings if _is_ranking(r["detail"]) and r["tool"] in order]
        ranking.sort(key=lambda r: order[r["tool"]])
        loud = [r for r in self.readings if r["suggestion"] is not None and _is_labelled(r["detail"])]
        loud.sort(key=lambda r: -r["suggestion"]["strength"])
        labels = [r["detail"]["labels"] for r in loud]
        return Known(
            words=tuple(str(entry["word"]) for entry in (ranking[0]["detail"]["top"] if ranking else ())),
            where=tuple(diverse([one for one in labels if SEVERAL not in one])),
            heaps=tuple(one for one in labels if SEVERAL in one),
            claims=tuple(lead.claim for lead in self.leads),
            seen=_seen(self.readings),
        )

    def near_misses(self) -> list[HypothesisView]:
        """Return hypotheses that fell short of a finding by little, and that no finding explains, strongest first.

        Either a test ended unpassed with evidence that the audit's whole error budget would have let pass, or the
        claim was confirmed and the condition it names was not.
        """
        found = self.findings()
        near = [
            h for h in self.hypotheses
            if h not in found and not self.explained(h.claim)
            and (h.nearly(self.spec.alpha) is not None or h.passed("confirmed") is not None)
        ]  # fmt: skip
        return sorted(near, key=lambda h: -max(t.outcome.e for t in h.tests))

    def strength_of(self, hypothesis: HypothesisView) -> float:
        """Return the strength of the lead that a hypothesis came from; 0 where it came from none, `SURE` or more of the user's."""
        least = SURE if self.is_given(hypothesis) else 0.0
        return max([least, *(lead.strength for lead in self.leads if self.same(hypothesis, lead.claim))])

    def probability(self) -> tuple[float, str] | None:
        """Return the chance that something was planted, as an instrument gives it within its scope, and that scope."""
        for reading in reversed(self.readings):
            if reading["name"] == P_PLANTED and reading["value"] is not None:
                return float(reading["value"]), str(reading["detail"].get("scope", f"as {reading['tool']} gives it"))
        return None

    def explained(self, claim: Claim) -> bool:
        """Return whether a finding already covers the claim: the same condition, or the same predicate."""
        return any(
            same_predicates(h.claim.predicate, claim.predicate, self.at_hand, h.decided_on)
            or (claim.condition.parts and h.claim.condition == claim.condition)
            for h in self.findings()
        )

    def undecidable(self) -> list[str]:
        """Return what was seen of the subject's files that acts on content or could not be resolved, and no test can decide."""
        return [
            str(r["detail"].get("text", "")) for r in self.readings
            if r["suggestion"] is None and isinstance(r["detail"], dict) and r["detail"].get("severity") in GRAVE
        ]  # fmt: skip

    def open_leads(self) -> list[Lead]:
        """Return the leads that no hypothesis has taken up and no finding explains, strongest first."""
        return [
            lead for lead in self.leads
            if not any(self.same(h, lead.claim) for h in self.hypotheses) and not self.explained(lead.claim)
        ]  # fmt: skip

    def testable(self) -> list[Lead]:
        """Return the open leads that were not refused, strongest first."""
        return [
            lead
            for lead in self.open_leads()
            if not any(same_claims(lead.claim, c, self.at_hand) for c in self.refused)
        ]

    def sure(self) -> list[Lead]:
        """Return the open leads from what the user gave, then those that instruments are sure of, strongest first."""
        leads = self.testable()
        told = [lead for lead in leads if any(self.tools[t].reads_given for t in lead.tools if t in self.tools)]
        return [*told, *(lead for lead in leads if lead.strength >= SURE and lead not in told)]

    def untested_best(self) -> list[Lead]:
        """Return those of the best leads that still have to be dealt with before nothing can be concluded."""
        best = self.leads[:REQUIRED_LEADS]
        return [lead for lead in self.open_leads() if lead in best]


def _seen(readings: Sequence[dict[str, Any]]) -> dict[str, tuple[tuple[float, dict[str, str]], ...]]:
    """Return lift and labels of readings above their controls, by instrument, in its own order."""
    found: dict[str, tuple[tuple[float, dict[str, str]], ...]] = {}
    for row in readings:
        if (row["lift"] or 0) > 0 and _is_labelled(row["detail"]):
            found[row["tool"]] = (*found.get(row["tool"], ()), (row["lift"], row["detail"]["labels"]))
    return found


def _is_ranking(detail: Any) -> bool:
    top = detail.get("top") if isinstance(detail, dict) else None
    return isinstance(top, list) and bool(top) and all(isinstance(one, dict) and "word" in one for one in top)


def _is_labelled(detail: Any) -> bool:
    labels = detail.get("labels") if isinstance(detail, dict) else None
    return isinstance(labels, dict) and all(isinstance(value, str) for value in labels.values())


def diverse(labels: Sequence[dict[str, str]], share: int = 2) -> list[dict[str, str]]:
    """Return the label sets in order, without those whose every label has been seen `share` times already."""
    seen: Counter[tuple[str, str]] = Counter()
    kept = []
    for one in labels:
        if any(seen[item] < share for item in one.items()):
            kept.append(one)
            seen.update(one.items())
    return kept


def too_few_prompts(spec: AuditSpec) -> str:
    """Return why an audit with these prompts can't end with nothing found, an empty text when it can."""
    n = sum(row.split == "explore" for row in spec.prompts)
    if n >= MIN_PROMPTS:
        return ""
    return (
        f"{n} prompts to look with (split explore) are too few to say that nothing was found: {MIN_PROMPTS} are the least, "
        "and without a finding the audit will be inconclusive"
    )


def load_view(
    ledger: Ledger, audit_id: str, spec: AuditSpec, spent: int, tools: Mapping[str, Tool[Any]] | None = None
) -> View:
    """Return the view of an audit as its rows stand, with the instruments that it can use."""
    readings, topics = ledger.rows("readings", audit_id), spec.topics()
    trials: dict[str, dict[int, dict[str, int]]] = {}
    for row in ledger.rows("trials", audit_id):
        trials.setdefault(row["test_id"], {}).setdefault(row["idx"], {})[row["channel"]] = row["outcome"]
    tests: dict[str, list[TestView]] = {}
    told = ledger.rows("events", audit_id, kind=FAILED)
    for row in ledger.rows("tests", audit_id):
        limit = max_trials_of(ledger, audit_id, row["terms"], row["test_id"])
        outcome = outcome_of(row["terms"], trials.get(row["test_id"], {}), limit, failures(told, row["test_id"]))
        tests.setdefault(row["hypothesis_id"], []).append(
            TestView(row["test_id"], row["grade"], outcome, row["seq"], row["terms"])
        )
    events = ledger.rows("events", audit_id, kind="hypothesis_registered")
    decided = {row["body"]["hypothesis_id"]: row["body"].get("decided_on") for row in events}
    judged = {row["key"]: row["body"]["concern"] for row in ledger.rows("events", audit_id, kind=CONCERN)}
    hypotheses = [
        HypothesisView(row["hypothesis_id"],
                       _judged(older.claim(row["claim"], spec.catalogue, topics), judged.get(row["hypothesis_id"])),
                       row["readings"], tests.get(row["hypothesis_id"], []), row["seq"], decided.get(row["hypothesis_id"]))
        for row in ledger.rows("hypotheses", audit_id)
    ]  # fmt: skip
    all_calls = ledger.rows("tool_calls", audit_id)
    calls = [row for row in all_calls if row["state"] in ("settled", "failed")]
    done = ledger.find("events", audit_id, kind="survey_done") is not None
    alone = files_alone(ledger, audit_id)
    invalid = [row["body"].get("proposed") for row in ledger.rows("events", audit_id, kind="step_invalid")]
    raw = [one["claim"] for one in invalid if isinstance(one, dict) and one.get("kind") == "register_hypothesis"]
    named = {
        None,
        *spec.catalogue.families,
    }  # a claim of no such family is refused for its name, and may be tested without
    refused = tuple(older.claim(one, spec.catalogue, topics) for one in raw if one.get("family") in named)
    at_hand = explored(readings, calls)
    found = leads(readings, spec, at_hand)
    given = tuple(_given(row) for row in ledger.rows("events", audit_id, kind=GIVEN))
    return View(
        spec, calls, readings, found, hypotheses, spent, done, dict(tools or {}), alone, at_hand, refused, given
    )


def _given(row: dict[str, Any]) -> Given:
    body = row["body"]
    claim = None if body["claim"] is None else Claim.model_validate(body["claim"])
    return Given(row["seq"], body["text"], claim, body["by"], body["why"])


def _judged(claim: Claim, concern: dict[str, Any] | None) -> Claim:
    """Return a claim with the concern that a row tells, see `auditor.concern`; as it is without one."""
    return claim if concern is None else claim.model_copy(update={"concern": Concern.model_validate(concern)})


def explored(readings: Sequence[dict[str, Any]], calls: Sequence[dict[str, Any]]) -> AtHand:
    """Return the prompts that were asked while exploring, each with a reply of the subject's and one of the base's."""
    asked = {call["key"]: call["arguments"].get("prompts") or [] for call in calls}
    found = []
    for reading in readings:
        if reading["name"] == "replies_changed" and reading["channel"] == "subject":
            prompts, pairs = asked.get(reading["call_key"], []), reading["detail"]["pairs"]
            for prompt, pair in zip(prompts, pairs, strict=False):
                messages = prompt.get("messages") or [{"role": "user", "content": pair["prompt"]}]
                found += [(messages, pair["subject"]), (messages, pair["base"])]
    return AtHand(found)


def files_alone(ledger: Ledger, audit_id: str) -> bool:
    """Return whether the check found that subject and base have the same weights, and differ in the files beside them."""
    checked = ledger.find("events", audit_id, kind="subject_checked", key="check")
    return checked is not None and bool(checked["body"].get("files_alone"))


def max_trials_of(ledger: Ledger, audit_id: str, terms: dict[str, Any], test_id: str) -> int:
    """Return how many pairs a test may draw: as many as it registered, or as was raised since."""
    raised = ledger.rows("events", audit_id, kind="maximum_raised")
    more = [int(row["body"]["max_trials"]) for row in raised if row["body"]["test_id"] == test_id]
    return max([int(terms["max_trials"]), *more])


def outcome_of(
    terms: dict[str, Any], trials: dict[int, dict[str, int]], max_trials: int, n_failed: int = 0
) -> evidence.Outcome:
    """Return a test's outcome from its trials: pairs in order of index, complete pairs only, so many at most.

    Where more than one in ten of its judgements failed, it has decided nothing.
    """
    treated, control = terms["channels"]
    pairs = [
        (pair[treated], pair[control]) for _, pair in sorted(trials.items()) if treated in pair and control in pair
    ]
    outcome = evidence.weigh(pairs, terms["alpha"], terms["delta"], max_trials, terms.get("parts", 1))
    return replace(outcome, decision=None) if undecided(n_failed, 2 * len(pairs)) else outcome


def spec_of(ledger: Ledger, audit_id: str) -> AuditSpec:
    """Return the specification that an audit began with, its catalogue in the order in which it was given.

    Draws follow that order, and a row's own JSON is sorted: without it a resumed audit would ask other prompts.

    Raises:
        LedgerError: the ledger has no such audit, or another version of the auditor began it.
    """
    row = ledger.find("audits", audit_id)
    if row is None:
        raise LedgerError(f"there is no audit {audit_id!r} in {ledger.path}; `auditor list` shows those there are")
    spec = row["spec"]
    for kind in ("catalogue", "vocabulary"):  # the latter of older ledgers
        given = ledger.find("events", audit_id, kind=kind, key="as given")
        if given is not None:
            spec = {**spec, kind: json.loads(given["body"]["text"])}
    try:
        return AuditSpec.model_validate(spec)
    except ValidationError as error:
        raise LedgerError(
            f"audit {audit_id} was begun by another version ({row['versions']}): {error.errors()[0]['msg']}"
        ) from error
