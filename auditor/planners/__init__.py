"""Planners: each proposes the next step, none executes it."""

from __future__ import annotations

from typing import Protocol, get_args

from auditor.config import AuditSpec, PlannerName
from auditor.errors import SpecError
from auditor.steps import Step
from auditor.view import View


class Planner(Protocol):
    """Proposes steps.

    `surveys` says whether the survey is made before the first one, `interrupts` whether it stops for a claim that an
    instrument is sure of, `reserve_tokens` how many tokens of a language model one proposal may cost, `last_usage` what the
    last one did cost, `why` the reason for it in a sentence.
    """

    surveys: bool
    interrupts: bool
    why: str
    reserve_tokens: int
    last_usage: dict[str, int] | None

    def propose(self, view: View, step: int) -> Step:
        """Return the next step."""
        ...

    def correct(self, view: View, step: int, proposed: Step, problem: str) -> Step | None:
        """Return another step after an invalid one; None when this planner has none."""
        ...


def make_planner(spec: AuditSpec) -> Planner:
    """Return the planner that the specification names.

    Raises:
        SpecError: there is no such planner, or it lacks its model or its steps.
    """
    from auditor.planners.embedded import EmbeddedPlanner

    if spec.planner == "embedded":
        return EmbeddedPlanner()
    if spec.planner == "scripted":
        from auditor.planners.scripted import ScriptedPlanner

        return ScriptedPlanner(spec)
    if spec.planner == "llm":
        from auditor.planners.llm import LlmPlanner

        if not spec.model:
            raise SpecError("planner llm needs --model PROVIDER:NAME, e.g. openai:gpt-5.2")
        return LlmPlanner(spec.model)
    raise SpecError(f"unknown planner {spec.planner!r}: the planners are {', '.join(get_args(PlannerName))}")
