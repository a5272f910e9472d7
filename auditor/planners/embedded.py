"""The planner that needs no language model: test the strongest leads, follow up on words, conclude."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from auditor.interpret import claim_of, same_claim
from auditor.planners import looks
from auditor.steps import CallTool, Conclude, RegisterHypothesis, RunTest, Step
from auditor.view import HypothesisView, View

MAX_HYPOTHESES = 8
N_WORDS, N_APART, N_AROUND, N_CHECKED = 64, 8, 6, 5


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
        """Return a closer look not taken yet: from many conditions at once to the few that matter, then a probe.

        The shift of words (or the lens) names words, the scan says under which conditions the subject
        parts from the base, chat says what it then does, and whether each condition is needed; the
        oracle reads what the subject has in mind there, and whether the best leads hold.
        """
        if view.spec.suggestions is not None:
            return None
        for call in self._closer(view):
            if not _taken(view, call):
                return call
        best = next((lead for lead in view.leads if lead.claim.trigger), None)
        if best is not None and "probe" in view.spec.tools and not any(c["tool"] == "probe" for c in view.calls):
            return looks.probe_trigger(view.spec, best.claim.trigger)
        return None

    def _closer(self, view: View) -> Iterator[CallTool]:
        """Yield the closer looks in order, each made of what the ones before it found."""
        spec, words = view.spec, leading_words(view)
        if "scan" in spec.tools and words and (call := looks.scan_words(spec, words[:N_WORDS])):
            yield call
        heaps = surprising(view, several=True)[:N_APART]
        if "scan" in spec.tools and heaps and (call := looks.scan_each_word(spec, heaps)):
            yield call
        where = diverse(surprising(view, several=False))[:N_AROUND]
        if "chat" in spec.tools and where:
            yield looks.ask_around(spec, where)
        if "activation_oracle" in spec.tools and spec.oracle is not None:
            if where:
                yield looks.read_around(spec, where)
            checked = [c["arguments"]["statement"] for c in view.calls if "statement" in c["arguments"]]
            fresh = [lead.claim for lead in view.leads[:N_CHECKED] if lead.claim.statement not in checked]
            yield from [looks.check_claim(spec, claim) for claim in fresh[: N_CHECKED - len(checked)]]


def leading_words(view: View) -> list[str]:
    """Return the words that training moved most; without that reading, those that the weights read most."""
    for tool, name in (("word_shift", "words_shifted"), ("lora_lens", "words_read")):
        for reading in view.readings:
            if reading["tool"] == tool and reading["name"] == name:
                return [str(entry["word"]) for entry in reading["detail"]["top"]]
    return []


def surprising(view: View, several: bool) -> list[dict[str, str]]:
    """Return the conditions under which the subject parted most from the base, loudest first.

    Args:
        view: What is known.
        several: Whether to return those with several words at once, or all others.
    """
    loud = [r for r in view.readings if r["tool"] == "scan" and r["suggestion"] is not None]
    loud.sort(key=lambda r: -r["lift"])
    return [r["detail"]["labels"] for r in loud if (looks.SEVERAL in r["detail"]["labels"]) == several]


def diverse(labels: Sequence[dict[str, str]], share: int = 2) -> list[dict[str, str]]:
    """Return the label sets in order, without those whose every label has been seen `share` times already."""
    seen: Counter[tuple[str, str]] = Counter()
    kept = []
    for one in labels:
        if any(seen[item] < share for item in one.items()):
            kept.append(one)
            seen.update(one.items())
    return kept


def _taken(view: View, call: CallTool) -> bool:
    return any(c["tool"] == call.tool and c["arguments"] == call.arguments for c in view.calls)
