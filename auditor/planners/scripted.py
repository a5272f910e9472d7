"""The planner of a scripted audit: the steps stand in the scenario file, in order."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from auditor.config import AuditSpec
from auditor.errors import SpecError
from auditor.steps import STEP, CallTool, Conclude, Step, brought_up
from auditor.view import View
from tools.base import load_tools
from tools.errors import ToolInputError


class ScriptedPlanner:
    """Proposes the given steps, then concludes."""

    surveys = False
    interrupts = False
    why = "the script says so"
    reserve_tokens = 0
    last_usage: dict[str, int] | None = None

    def __init__(self, spec: AuditSpec) -> None:
        if not spec.steps:
            raise SpecError("planner scripted needs steps: give the scenario a `steps` list")
        self.steps = [_checked(raw, number, spec) for number, raw in enumerate(spec.steps, 1)]

    def propose(self, view: View, step: int) -> Step:
        """Return the step of this number, a conclusion after the last."""
        return self.steps[step] if step < len(self.steps) else Conclude(reason="the script has ended")

    def correct(self, view: View, step: int, proposed: Step, problem: str) -> Step | None:
        """Return None: a script that can't be carried out is its author's to mend."""
        return None


def _checked(raw: dict[str, Any], number: int, spec: AuditSpec) -> Step:
    """Return the step of this number, counted from 1, its tool installed and its arguments that tool's.

    Raises:
        SpecError: it is no step; the message has its number.
    """
    try:
        step = STEP.validate_python(brought_up(raw, spec))
        if isinstance(step, CallTool):
            load_tools([step.tool])[step.tool].parse(step.arguments)
    except ValidationError as error:
        where = "; ".join(": ".join([*map(str, e["loc"]), e["msg"]]) for e in error.errors())
        raise SpecError(f"steps: step {number} is no valid step: {where}") from error
    except ToolInputError as error:
        raise SpecError(f"steps: step {number} is no valid step: {error}") from error
    return step
