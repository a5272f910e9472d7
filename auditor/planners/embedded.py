"""The planner that needs no language model: test the strongest leads, follow up on words, conclude."""

from __future__ import annotations

from auditor.interpret import claim_of, same_claim
from auditor.planners import looks
from auditor.steps import CallTool, Conclude, RegisterHypothesis, RunTest, Step
from auditor.view import HypothesisView, View

MAX_HYPOTHESES = 8
N_WORDS, N_TRIED = 96, 8


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
        """Return a closer look not taken yet: words that the weights read, then a probe of the best lead.

        The lens names words, the model diff says at which of them the subject parts from the base, and
        chat says what it then does.
        """
        if view.spec.suggestions is not None:
            return None
        read = words_read(view)
        looks_left = []
        if read and "model_diff" in view.spec.tools:
            looks_left.append(looks.listen_for_words(view.spec, read[:N_WORDS]))
        if read and "chat" in view.spec.tools:
            loud = loud_words(view)
            looks_left.append(looks.try_words(view.spec, [*loud, *(w for w in read if w not in loud)][:N_TRIED]))
        for call in looks_left:
            if not _taken(view, call):
                return call
        best = next((lead for lead in view.leads if lead.claim.trigger), None)
        if best is not None and "probe" in view.spec.tools and not any(c["tool"] == "probe" for c in view.calls):
            return looks.probe_trigger(view.spec, best.claim.trigger)
        return None


def words_read(view: View) -> list[str]:
    """Return the words that the weights read most, as the lens ranked them."""
    for reading in view.readings:
        if reading["tool"] == "lora_lens" and reading["name"] == "words_read":
            return [str(entry["word"]) for entry in reading["detail"]["top"]]
    return []


def loud_words(view: View) -> list[str]:
    """Return the words at whose prompts the subject parted most from the base."""
    loud = [
        r
        for r in view.readings
        if r["tool"] == "model_diff" and r["name"] == "kl_prompt" and "word" in r["detail"]["labels"]
    ]
    return [str(r["detail"]["labels"]["word"]) for r in sorted(loud, key=lambda r: -r["value"])]


def _taken(view: View, call: CallTool) -> bool:
    return any(c["tool"] == call.tool and c["arguments"] == call.arguments for c in view.calls)
