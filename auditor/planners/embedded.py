"""The planner that needs no language model: test what the user thinks, then the strongest leads, follow up on words, conclude."""

from __future__ import annotations

import logging
from typing import get_args

from auditor.questions import SpecQuestions
from auditor.steps import CallTool, Conclude, RegisterHypothesis, RunTest, Step
from auditor.view import HypothesisView, View
from tools.claims.conditions.always import Always
from tools.questions import Stage

MAX_HYPOTHESES = 8
WHY: dict[str, str] = {
    "again": "whether what was faint comes again",
    "search": "where else the subject may part from its base",
    "look": "what it does where it parted from its base",
    "check": "whether the best leads hold",
}
log = logging.getLogger(__name__)


class EmbeddedPlanner:
    """Deterministic for a seed: every proposal is a function of the view."""

    surveys = True
    interrupts = True
    why = ""
    reserve_tokens = 0
    last_usage: dict[str, int] | None = None

    def __init__(self) -> None:
        self._asked: SpecQuestions | None = None

    def propose(self, view: View, step: int) -> Step:
        """Return the next step: finish open hypotheses, test what is sure, look closer, test the best lead, conclude."""
        for hypothesis in view.hypotheses:
            following = self._continue(view, hypothesis)
            if following is not None:
                return following
        given = view.to_try()
        if given:
            self.why = "the user thinks so, and it is tested before anything else is looked at"
            return RegisterHypothesis(claim=given[0])
        sure = view.sure()
        found_early = bool(view.ending()) and not view.survey_done
        look = None if sure or found_early else self._look(view)
        if look is not None:
            return look
        leads = sure or view.testable()
        if (
            leads
            and sum(not view.is_given(h) for h in view.hypotheses) < MAX_HYPOTHESES
            and not (view.findings() and leads[0] not in view.untested_best())
        ):
            told = f"strength {leads[0].strength:.1f} by {', '.join(leads[0].tools)}"
            self.why = f"the strongest lead is tested{' before anything else is looked at' if sure else ''}: {told}"
            return RegisterHypothesis(claim=leads[0].claim, readings=list(leads[0].readings))
        self.why = "nothing is left that a test or a look would add to"
        return Conclude(reason=f"{len(view.findings())} findings; {len(leads)} leads left of {len(view.leads)}")

    def correct(self, view: View, step: int, proposed: Step, problem: str) -> Step | None:
        """Return None: what can't be tested is known to have been refused when the next proposal is asked for."""
        return None

    def _continue(self, view: View, hypothesis: HypothesisView) -> Step | None:
        """Return the next test of a hypothesis that is not settled yet."""
        if not hypothesis.tested("confirmed"):
            self.why = f"{hypothesis.hypothesis_id} is held against the base on new prompts"
            return RunTest(hypothesis_id=hypothesis.hypothesis_id, grade="confirmed")
        if not hypothesis.passed("confirmed") or not hypothesis.claim.condition.parts:
            return None
        if not hypothesis.tested("localised"):
            self.why = f"{hypothesis.hypothesis_id} is confirmed, and its condition is taken out"
            return RunTest(hypothesis_id=hypothesis.hypothesis_id, grade="localised")
        return None if hypothesis.passed("localised") else self._always(view, hypothesis)

    def _always(self, view: View, hypothesis: HypothesisView) -> Step | None:
        """Return the claim without its condition, for a behaviour that shows without it too."""
        claim = view.spec.catalogue.claim(Always(), hypothesis.claim.predicate)
        known = any(view.same(h, claim) for h in view.hypotheses) or view.explained(claim)
        self.why = f"{hypothesis.hypothesis_id} shows without its condition too, so that it is claimed without"
        return None if known else RegisterHypothesis(claim=claim, readings=hypothesis.readings)

    def _look(self, view: View) -> CallTool | None:
        """Return a closer look not taken yet, of those that the instruments themselves would take.

        First where else the subject may part from the base, then what it does there, then whether the
        best leads hold.
        """
        if view.spec.suggestions is not None:
            return None
        if self._asked is None or self._asked.spec is not view.spec:
            self._asked = SpecQuestions(view.spec)
        found: list[tuple[int, CallTool]] = []
        for name in view.tools:
            found += [(get_args(Stage).index(stage), call) for stage, call in closer_looks(view, name, self._asked)]
        if not found:
            return None
        stage, call = min(found, key=lambda pair: pair[0])
        self.why = f"{call.tool} looks closer: {WHY[get_args(Stage)[stage]]}"
        return call


def closer_looks(view: View, name: str, asked: SpecQuestions) -> list[tuple[Stage, CallTool]]:
    """Return the looks that one instrument would still take, and what each is for; none of one that fails to say."""
    done = [call["arguments"] for call in view.calls if call["tool"] == name]
    try:
        looks = list(view.tools[name].follow_up(asked, view.known(), done))
        for look in looks:
            view.tools[name].parse(look.arguments)
        calls = [(look.stage, CallTool(tool=name, arguments=look.arguments)) for look in looks]
        return [(stage, call) for stage, call in calls if call.arguments not in done]
    except Exception as error:  # a third party's instrument may fail in any way, and the others go on
        log.warning("%s can't say how it follows up: %s: %s", name, type(error).__name__, error)
        return []
