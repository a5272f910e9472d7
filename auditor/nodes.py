"""What the graph's nodes do: check the subject, survey it, settle on the next step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from auditor import execute, foresight, given, prompts, story, trials
from auditor.errors import BudgetError, LedgerError
from auditor.execute import Desk
from auditor.foresight import SurveyCall
from auditor.outlook import Outlook, outlook
from auditor.planners import Planner
from auditor.planners.embedded import EmbeddedPlanner, closer_looks
from auditor.questions import SpecQuestions
from auditor.steps import STEP, CallTool, Conclude, RegisterHypothesis, RunTest, Step, brought_up, dressed
from auditor.view import HypothesisView, View
from tools.changes import rounding
from tools.errors import AuditorError
from tools.subject import Subject


class Progress(Protocol):
    """Where an audit says what has happened; the command line shows it on stderr."""

    def say(self, text: str, outlook: Outlook) -> None:
        """Say what has just happened, and where the audit stands."""
        ...


def check(desk: Desk) -> bool:
    """Record what was found on loading, and return whether the subject can be audited at all.

    An adapter that changes no logit on sixteen prompts leaves nothing to audit, nor does a fine-tune whose weights
    are the base's, or differ from them by rounding alone; but for the files beside them, where those differ.
    """
    for i, note in enumerate(desk.subject.notes):
        desk.event("subject_note", {"text": note}, key=str(i))
    if not desk.subject.adapter_given and desk.subject.tuned is None:
        desk.event(
            "subject_checked", {"changed": None, "text": "no adapter was given: subject and base are one"}, key="check"
        )
        return True
    done = desk.ledger.find("events", desk.audit_id, kind="subject_checked", key="check")
    if done is not None:
        return done["body"]["changed"] is not False
    alike = "" if desk.subject.tuned is None else why_alike(desk.subject)
    if alike:
        unchanged = _unchanged(desk, alike)
        desk.event("subject_checked", unchanged, key="check")
        return unchanged["changed"] is not False
    asked = [p.messages for p in prompts.survey_prompts(desk.spec, per_topic=2)[:16]]
    texts = [desk.subject.render(messages) for messages in asked]
    bare = [desk.subject.dialogue.render(messages) for messages in asked] if desk.subject.invocation else []
    tokens = desk.subject.encode([*texts, *bare]).n_tokens
    try:
        reservation = desk.budget.reserve("check", {"subject": tokens, "base": tokens})
    except BudgetError as error:
        desk.event("subject_checked", {"changed": None, "text": f"not checked for any change: {error}"}, key="check")
        return True
    changed = desk.subject.changes_anything(texts)
    changes = "the adapter changes" if desk.subject.tuned is None else "the subject's weights change"
    body: dict[str, Any] = {"changed": True, "text": "the subject differs from its base"}
    if changed and bare:
        body["text"] += _invoked(desk.subject.changes_anything(bare))
    if not changed:
        body = _unchanged(desk, f"{changes} no logit on any prompt tried")
    desk.ledger.append_many(desk.audit_id, [
        desk.budget.settled_row(reservation, reservation.tokens, 0.0),
        ("events", {"kind": "subject_checked", "key": "check", "body": body}),
    ])  # fmt: skip
    return body["changed"] is not False


def _invoked(without: bool) -> str:
    """Return when an adapter with invocation tokens was seen to act."""
    return " after its invocation tokens" + (", and without them too" if without else ", and not without them")


def _unchanged(desk: Desk, why: str) -> dict[str, Any]:
    """Return what the check records of weights that are the base's: nothing can be seen, unless other files differ."""
    own = desk.subject.own
    if own is None or not own.differ:
        return {"changed": False, "text": why}
    if any(tool.reads_files for tool in desk.tools.values()):
        return {"changed": None, "files_alone": True, "text": f"{why}; its own files differ, and are what is looked at"}
    return {
        "changed": False,
        "text": f"{why}; its own files differ, and no tool that reads files is among this audit's",
    }


def why_alike(subject: Subject) -> str:
    """Return why a full fine-tune is none: its weights are the base's, but for rounding; an empty text where they changed."""
    kind = str(subject.model.dtype).removeprefix("torch.")
    return {
        "same": f"the subject's weights are the base's, as they stand in {kind}",
        "rounding": "the subject differs from its base by rounding only: it is the base cast to another format, or an adapter "
        "was merged into it and taken out again",
        "changed": "",
    }[rounding.difference(rounding.pairs(subject.model, subject.tuned))]


def survey(desk: Desk, planner: Planner, progress: Progress) -> None:
    """Take the cheap, whole-model looks, or the suggestions that came with the specification.

    What the user thinks is read before that. A planner that interrupts gets its turn with it, and as soon as an instrument
    is sure of something; the looks left are then taken only if nothing comes of that, see `survey_goes_on`.
    """
    given.take_up(desk)
    if desk.spec.suggestions is not None:
        execute.take_suggestions(desk)
        desk.event("survey_done", {"calls": 0, "failed": 0}, key="survey")
        return
    if not planner.surveys:
        return
    tools = desk.useful_tools()
    calls = foresight.survey_calls(desk.spec, tools, desk.subject)
    if desk.ledger.find("events", desk.audit_id, kind="foreseen", key="survey") is None:
        text = "; ".join(foresight.foreseen(desk.spec, calls, tools, desk.subject))
        desk.event("foreseen", {"text": text}, key="survey")
        progress.say(text, outlook(desk, calls))
    for i, one in enumerate(calls):
        if planner.interrupts and _interrupted(desk.view()):
            return
        _look(desk, one, calls[i + 1 :], progress)
        for again in _again(desk, one):
            _look(desk, again, calls[i + 1 :], progress)
    failed = [row for row in desk.ledger.rows("tool_calls", desk.audit_id, state="failed") if row["step"] == -1]
    desk.event("survey_done", {"calls": len(calls), "failed": len(failed)}, key="survey")


def _look(desk: Desk, one: SurveyCall, to_come: Sequence[SurveyCall], progress: Progress) -> None:
    """Take one look of the survey, for no more than the survey has left, and say what came of it."""
    if execute.is_done(desk, one.call):
        return
    settled = [row for row in desk.ledger.rows("tool_calls", desk.audit_id, state="settled") if row["step"] == -1]
    spent = sum(sum(row["result"]["tokens"].values()) for row in settled)
    left = int(desk.spec.budget * foresight.MOST_OF_SURVEY) - spent
    execute.call_tool(desk, one.call, -1, max(0, min(one.allowed, left)))
    progress.say(story.of_call(desk, one.call), outlook(desk, to_come))


def _again(desk: Desk, one: SurveyCall) -> list[SurveyCall]:
    """Return the looks by which an instrument asks again where its survey was unsure: for a quarter of the budget at most."""
    view = desk.view()
    if _interrupted(view) or one.call.tool not in view.tools:
        return []
    looks = closer_looks(view, one.call.tool, SpecQuestions(desk.spec))
    allowed = int(desk.spec.budget * foresight.MOST_OF_ONE)
    return [SurveyCall(call, 0, allowed) for stage, call in looks if stage == "again"]


def survey_goes_on(desk: Desk, planner: Planner) -> bool:
    """Return whether the survey was interrupted and nothing came of what it was interrupted for."""
    view = desk.view()
    return planner.surveys and planner.interrupts and not view.survey_done and not _interrupted(view)


def _interrupted(view: View) -> bool:
    """Return whether something is found that ends the survey, under test, or so sure that it is tested before the next look."""
    under_test = [h for h in view.hypotheses if h.status == "untested" or _half_tested(h)]
    return bool(view.ending() or under_test or view.to_try() or view.sure())


def _half_tested(hypothesis: HypothesisView) -> bool:
    """Return whether a hypothesis was confirmed and its condition is still to be taken out."""
    has_one = bool(hypothesis.claim.condition.parts)
    return has_one and hypothesis.status == "confirmed" and not hypothesis.tested("localised")


def proposed(desk: Desk, number: int) -> Step:
    """Return the step that was settled on under this number."""
    row = desk.ledger.find("events", desk.audit_id, kind="step_proposed", key=str(number))
    assert row is not None, f"step {number} is carried out before it was proposed"
    return STEP.validate_python(brought_up(row["body"]["step"], desk.spec))


def plan(desk: Desk, planner: Planner, number: int) -> Step:
    """Return the next step, valid and in the ledger before it is taken.

    An invalid proposal is answered with its problem once; then the embedded planner's step is
    taken, and the ledger says so.
    """
    if desk.ledger.find("events", desk.audit_id, kind="step_proposed", key=str(number)) is not None:
        return proposed(desk, number)
    view = desk.view()
    step: Step | None = None
    problem, reservation = "", None
    try:
        if planner.reserve_tokens:
            reservation = desk.budget.reserve(f"plan/{number}", {"planner": planner.reserve_tokens})
        step = dressed(planner.propose(view, number), desk.spec)
        problem = problem_with(desk, step)
        if problem:
            desk.event("step_invalid", {"step": number, "problem": problem, "proposed": step.model_dump(mode="json")})
            other = planner.correct(view, number, step, problem)
            step = None if other is None else dressed(other, desk.spec)
            problem = "no other step was proposed" if step is None else problem_with(desk, step)
    except Exception as error:  # a planner, or a follow-up of an instrument, may fail in any way
        if isinstance(error, LedgerError):
            raise
        problem = f"{type(error).__name__}: {error}"
        desk.event("planner_failed", {"step": number, "problem": problem})
    finally:
        usage = planner.last_usage
        if reservation is not None and usage is not None:
            spent = {"planner": sum(usage.values())}
            desk.ledger.append_many(desk.audit_id, [desk.budget.settled_row(reservation, spent, 0.0)])
    by = type(planner).__name__
    if step is None or problem:
        step, by = _instead(desk, number), "EmbeddedPlanner"
    why = planner.why if by == type(planner).__name__ else "the planner proposed no valid step"
    desk.event("step_proposed", {"step": step.model_dump(mode="json"), "by": by, "why": why}, key=str(number))
    return step


def _instead(desk: Desk, number: int) -> Step:
    """Return the embedded planner's step in place of one that can't be taken; a conclusion where it has none either.

    A claim that no test can decide is put down as refused, and the next lead is taken.
    """
    left = ""
    try:
        for _ in range(len(desk.view().leads) + len(desk.view().given) + 1):
            step = EmbeddedPlanner().propose(desk.view(), number)
            left = problem_with(desk, step)
            if not left:
                return step
            if not isinstance(step, RegisterHypothesis):
                break
            desk.event("step_invalid", {"step": number, "problem": left, "proposed": step.model_dump(mode="json")})
    except Exception as error:  # an instrument's follow-up may fail in any way, and the audit goes on
        left = f"{type(error).__name__}: {error}"
        desk.event("planner_failed", {"step": number, "problem": left})
    return Conclude(reason=f"no valid step was left: {left}")


def problem_with(desk: Desk, step: Step) -> str:
    """Return why the step can't be taken, an empty text when it can."""
    try:
        if isinstance(step, CallTool):
            execute.check_call(desk, step)
        elif isinstance(step, RegisterHypothesis):
            execute.check_hypothesis(desk, step)
        elif isinstance(step, RunTest):
            trials.check_test(desk, step)
    except AuditorError as error:
        return str(error)
    return ""
