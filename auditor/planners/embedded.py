"""The planner that needs no language model: test the strongest leads, follow up on words, conclude."""

from __future__ import annotations

from typing import get_args

from auditor.interpret import claim_of, same_claim
from auditor.questions import SpecQuestions
from auditor.steps import CallTool, Conclude, RegisterHypothesis, RunTest, Step
from auditor.view import HypothesisView, View
from tools.questions import Stage

MAX_HYPOTHESES = 8


class EmbeddedPlanner:
    """Deterministic for a seed: every proposal is a function of the view."""

    surveys = True
    reserve_tokens = 0
    last_usage: dict[str, int] | None = None

    def propose(self, view: View, step: int) -> Step:
        """Return the next step: finish open hypotheses, look closer, test the best lead, conclude."""
        for hypothesis in view.hypotheses:
            following = self._continue(view, hypothesis)
            if following is not None:
                return following
        look = self._look(view)
        if look is not None:
            return look
        leads = view.open_leads()
        if (
            leads
            and len(view.hypotheses) < MAX_HYPOTHESES
            and not (view.findings() and leads[0] not in view.untested_best())
        ):
            return RegisterHypothesis(claim=leads[0].claim, readings=list(leads[0].readings))
        return Conclude(reason=f"{len(view.findings())} findings; {len(leads)} leads left of {len(view.leads)}")

    def correct(self, view: View, step: int, proposed: Step, problem: str) -> Step | None:
        """Return a conclusion: what this planner proposes is valid unless the audit's prompts can't carry it."""
        return Conclude(reason=f"a step could not be taken: {problem}")

    def _continue(self, view: View, hypothesis: HypothesisView) -> Step | None:
        """Return the next test of a hypothesis that is not settled yet."""
        if not hypothesis.tested("confirmed"):
            return RunTest(hypothesis_id=hypothesis.hypothesis_id, grade="confirmed")
        if not hypothesis.passed("confirmed") or not hypothesis.claim.trigger:
            return None
        if not hypothesis.tested("localised"):
            return RunTest(hypothesis_id=hypothesis.hypothesis_id, grade="localised")
        return None if hypothesis.passed("localised") else self._always(view, hypothesis)

    def _always(self, view: View, hypothesis: HypothesisView) -> Step | None:
        """Return the claim without its trigger, for a behaviour that shows without it too."""
        claim = claim_of((), hypothesis.claim.effect, view.spec.vocabulary)
        known = any(same_claim(h.claim, claim) for h in view.hypotheses) or view.explained(claim)
        return None if known else RegisterHypothesis(claim=claim, readings=hypothesis.readings)

    def _look(self, view: View) -> CallTool | None:
        """Return a closer look not taken yet, of those that the instruments themselves would take.

        First where else the subject may part from the base, then what it does there, then whether the
        best leads hold.
        """
        if view.spec.suggestions is not None:
            return None
        asked, known = SpecQuestions(view.spec), view.known()
        for stage in get_args(Stage):
            for name, tool in view.tools.items():
                done = [call["arguments"] for call in view.calls if call["tool"] == name]
                for look in tool.follow_up(asked, known, done):
                    if look.stage == stage and look.arguments not in done:
                        return CallTool(tool=name, arguments=look.arguments)
        return None
