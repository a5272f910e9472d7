"""The planner that asks a language model: one function call is one step.

The model proposes and nothing more: what it says is validated here, checked against the audit by
the graph, and carried out elsewhere.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from auditor.errors import ProviderError
from auditor.planners import briefing
from auditor.provider import Caller, function_of
from auditor.steps import STEP_KINDS, CallTool, Step
from auditor.view import View
from tools.base import Tool
from tools.errors import ToolInputError
from tools.quoting import one_line

if TYPE_CHECKING:
    from langchain_core.messages import AIMessage

USE = "use_"
STEPS: dict[str, type[Any]] = {kind.__name__: kind for kind in STEP_KINDS}


class _NoStepError(Exception):
    """An answer that is no step: what is wrong with it, and what was proposed."""

    def __init__(self, problem: str, proposed: str = "") -> None:
        super().__init__(problem)
        self.problem, self.proposed = problem, proposed


class LlmPlanner:
    """Asks a chat model for each step, and once more when its answer is none.

    At most one correction is asked for in a step: by `propose` when the answer is no step at all,
    by `correct` when it is one that the audit can't take.

    Attributes:
        last_usage: Tokens of the step's requests so far, `input_tokens` and `output_tokens`; None
            where the server reports none.
    """

    surveys = True
    interrupts = False
    why = ""
    reserve_tokens = 12_000

    def __init__(self, model: str) -> None:
        """Set up the client; nothing is sent.

        Args:
            model: PROVIDER:NAME as langchain's `init_chat_model` reads it. With `openai` the
                endpoint is OPENAI_BASE_URL where that is set, which then needs no key.

        Raises:
            SpecError: the name has no provider, a package is missing, or the provider lacks its key.
        """
        self.model = model
        self.last_usage: dict[str, int] | None = None
        self._corrected: int | None = None
        self._caller = Caller(model, "planner llm")

    def propose(self, view: View, step: int) -> Step:
        """Return the model's next step.

        Raises:
            ProviderError: the model can't be reached, or twice gave no step.
        """
        self.last_usage, self._corrected, self._caller.usage = None, None, None
        try:
            return self._ask(view, step)
        except _NoStepError as error:
            return self._ask_again(view, step, error)

    def correct(self, view: View, step: int, proposed: Step, problem: str) -> Step | None:
        """Return the model's answer to the problem; None when this step's correction is used up.

        Raises:
            ProviderError: the model can't be reached, or gave no step.
        """
        if self._corrected == step:
            return None
        return self._ask_again(view, step, _NoStepError(problem, proposed.model_dump_json()))

    def _ask_again(self, view: View, step: int, first: _NoStepError) -> Step:
        self._corrected = step
        try:
            return self._ask(view, step, briefing.complaint(first.problem, first.proposed, view))
        except _NoStepError as error:
            problem = one_line(f"{first.problem}; then: {error.problem}", 600)
            raise ProviderError(f"{self.model} proposed no valid step and was asked twice: {problem}") from error

    def _ask(self, view: View, step: int, complaint: str = "") -> Step:
        tools = {} if view.spec.suggestions is not None else view.callable()
        messages = [
            ("system", briefing.system_text(view, bool(tools))),
            ("human", briefing.step_text(view, step) + complaint),
        ]
        try:
            reply = self._caller.ask(messages, _schemas(tools))
        finally:
            self.last_usage = self._caller.usage
        return _step_of(reply, tools)


def _schemas(tools: dict[str, Tool[Any]]) -> list[dict[str, Any]]:
    """Return the functions that the model may call: the steps, and `use_<tool>` for each instrument."""
    steps = [
        function_of(name, kind.__doc__ or "", kind) for name, kind in STEPS.items() if tools or kind is not CallTool
    ]
    return [*steps, *(function_of(USE + name, tool.card, tool.Args) for name, tool in tools.items())]


def _step_of(reply: AIMessage, tools: dict[str, Tool[Any]]) -> Step:
    """Return the step that a reply proposes.

    Raises:
        _NoStepError: there is not exactly one call, it is of no known function, or its arguments don't fit.
    """
    calls = [*reply.tool_calls, *reply.invalid_tool_calls]
    known = [*(name for name, kind in STEPS.items() if tools or kind is not CallTool), *(USE + name for name in tools)]
    if len(calls) != 1:
        names = ", ".join(str(call["name"]) for call in calls) or "none"
        raise _NoStepError(f"a step is exactly one function call; yours were {names}", str(reply.text))
    name, proposed = str(calls[0]["name"]), f"{calls[0]['name']}({json.dumps(calls[0]['args'], ensure_ascii=False)})"
    if reply.invalid_tool_calls:
        raise _NoStepError(f"the arguments of {name} are not a JSON object", proposed)
    if name not in known:
        raise _NoStepError(f"unknown function {name!r}: the functions are {', '.join(known)}", proposed)
    arguments = reply.tool_calls[0]["args"]
    try:
        json.dumps(arguments, ensure_ascii=False, allow_nan=False).encode()
        values = {"tool": name.removeprefix(USE), "arguments": arguments} if name.startswith(USE) else arguments
        step: Step = (CallTool if name.startswith(USE) else STEPS[name]).model_validate(values)
        if isinstance(step, CallTool):
            _check_arguments(step, tools)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'arguments'}: {e['msg']}" for e in error.errors())
        raise _NoStepError(f"{name}: {problems}", proposed) from error
    except ToolInputError as error:
        raise _NoStepError(str(error), proposed) from error
    except ValueError as error:
        raise _NoStepError(f"{name}: numbers must be finite and texts valid Unicode ({error})", proposed) from error
    return step


def _check_arguments(step: CallTool, tools: dict[str, Tool[Any]]) -> None:
    if step.tool not in tools:
        raise ToolInputError(f"unknown tool {step.tool!r}: this audit has {', '.join(tools)}")
    tools[step.tool].parse(step.arguments)
