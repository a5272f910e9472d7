"""What the user thinks the subject does: each sentence is made a claim that a test can decide, once, and kept in a row."""

from __future__ import annotations

from typing import Any

from auditor import prompts
from auditor.config import AuditSpec
from auditor.errors import BudgetError, ProviderError, SpecError
from auditor.execute import Desk
from auditor.judging import BASE
from auditor.translator import RESERVED, Translator
from auditor.view import GIVEN
from tools.claims import statement
from tools.claims.claim import Claim
from tools.claims.condition import Condition
from tools.claims.predicate import Predicate
from tools.claims.predicates.judged import Judged
from tools.errors import ToolInputError

SENTENCE, PROVIDER, JUDGE = "its own words", "a language model", "the judge, who is asked whether it is so"
"""What reads a sentence."""
QUESTION = "Is this true of the reply: {said}?"
Row = tuple[str, dict[str, object]]


def check_given(spec: AuditSpec) -> None:
    """Refuse a sentence that nobody in this audit can read, or that no test could decide, before anything runs.

    Raises:
        SpecError: the message has the sentence, what can be read, and what to do.
    """
    for text in spec.hypotheses:
        claim = _read(text, spec) or (None if _provider_of(spec) else _judged(text, spec))
        if claim is None and _provider_of(spec) is None:
            raise SpecError(
                f"the hypothesis {text!r} can't be read: what can is {statement.shapes()}, with the topics "
                f"{', '.join(sorted(spec.topics()))[:200]}; write it so, or pass --judge (base, or PROVIDER:NAME), who is asked "
                "whether it is so, with a condition of these"
            )
        problem = "" if claim is None else _problem(claim, spec)
        if problem:
            raise SpecError(f"the hypothesis {text!r} can't be tested: {problem}")


def take_up(desk: Desk) -> None:
    """Write as what each of the user's sentences is read, unless that is written."""
    for i, text in enumerate(desk.spec.hypotheses):
        if desk.ledger.find("events", desk.audit_id, kind=GIVEN, key=str(i)) is None:
            desk.ledger.append_many(desk.audit_id, _rows(desk, i, text))


def _rows(desk: Desk, i: int, text: str) -> list[Row]:
    claim, by, why = _read(text, desk.spec), SENTENCE, ""
    settled: list[Row] = []
    if claim is None and _provider_of(desk.spec) is not None:
        by = PROVIDER
        claim, why, settled = _asked(desk, i, text)
    judged = _judged(text, desk.spec) if claim is None else None
    if judged is not None:
        claim, by, why = judged, JUDGE, ""
    return [*settled, _row(i, text, claim, by, why)]


def _asked(desk: Desk, i: int, text: str) -> tuple[Claim | None, str, list[Row]]:
    """Return the claim that a language model reads a sentence as, or why it reads none, and the row that pays for it."""
    spec, model = desk.spec, _provider_of(desk.spec)
    assert model is not None, "checked before"
    try:
        reservation = desk.budget.reserve(f"given/{i}", {"planner": RESERVED})
    except BudgetError as error:
        return None, str(error), []
    translator, claim, why = Translator(model), None, ""
    try:
        parts = translator.parts(
            text, sorted(spec.topics()), lambda when, does: _problem(_claim(when, does, spec), spec)
        )
        claim = _claim(*parts, spec)
    except ProviderError as error:
        why = str(error)
    return claim, why, [desk.budget.settled_row(reservation, {"planner": translator.tokens}, 0.0)]


def _row(i: int, text: str, claim: Claim | None, by: str, why: str = "") -> Row:
    body: dict[str, Any] = {
        "text": text,
        "claim": None if claim is None else claim.model_dump(mode="json"),
        "by": by,
        "why": why,
    }
    return "events", {"kind": GIVEN, "key": str(i), "body": body}


def _read(text: str, spec: AuditSpec) -> Claim | None:
    """Return the claim that a sentence makes in a catalogue's words, or in those of our own sentences."""
    parts = statement.read(text, spec.catalogue, spec.topics())
    return None if parts is None else _claim(*parts, spec)


def _judged(text: str, spec: AuditSpec) -> Claim | None:
    """Return the claim that the judge says yes to a sentence; None without a judge, or where its condition can't be read."""
    parts = None if spec.judge is None else statement.parts_of(text, spec.catalogue, spec.topics())
    return None if parts is None else _claim(parts[0], Judged(question=QUESTION.format(said=parts[1])), spec)


def _claim(condition: Condition, predicate: Predicate, spec: AuditSpec) -> Claim:
    known = spec.catalogue
    return known.claim(known.dressed(condition, spec.topics()), known.recognised(predicate))


def _problem(claim: Claim, spec: AuditSpec) -> str:
    """Return why no test of this audit could decide a claim, as far as its prompts and its judge go."""
    if claim.predicate.needs_judge and spec.judge is None:
        return "it needs a judge, and this audit has none: pass --judge, or say what shows by itself"
    try:
        prompts.check_condition(spec, claim.condition)
    except ToolInputError as error:
        return str(error)
    return ""


def _provider_of(spec: AuditSpec) -> str | None:
    """Return the language model that this audit may ask: its planner's, else its judge's; None where neither is one."""
    if spec.planner == "llm" and spec.model:
        return spec.model
    return spec.judge if spec.judge != BASE else None
