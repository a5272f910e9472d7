"""The planner of a scripted audit: the steps stand in the scenario file, in order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from auditor.errors import SpecError
from auditor.steps import STEP, Conclude, Step
from auditor.view import View


class ScriptedPlanner:
    """Proposes the given steps, then concludes."""

    surveys = False

    def __init__(self, steps: Sequence[dict[str, Any]]) -> None:
        if not steps:
            raise SpecError("planner scripted needs steps: give the scenario a `steps` list")
        self.steps: list[Step] = []
        for number, raw in enumerate(steps, 1):
            try:
                self.steps.append(STEP.validate_python(raw))
            except ValidationError as error:
                where = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
                raise SpecError(f"steps: step {number} is no valid step: {where}") from error

    def propose(self, view: View, step: int) -> Step:
        """Return the step of this number, a conclusion after the last."""
        return self.steps[step] if step < len(self.steps) else Conclude(reason="the script has ended")

    def correct(self, view: View, step: int, proposed: Step, problem: str) -> Step | None:
        """Return None: a script that can't be carried out is its author's to mend."""
        return None
