"""What can be known before a subject is surveyed: what each look may cost, which are cut to size, what will be missing."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Any

import psutil
import torch

from auditor.config import AuditSpec
from auditor.questions import SpecQuestions
from auditor.steps import CallTool
from auditor.view import too_few_prompts
from tools.base import Tool
from tools.subject import Subject

log = logging.getLogger(__name__)
MOST_OF_ONE, MOST_OF_SURVEY, KEPT_FOR_TESTS = 0.25, 0.6, 0.25
"""Shares of the budget: what one instrument may take, what the survey may, what closer looks leave for tests."""
USABLE_MEMORY = 0.8


@dataclass(frozen=True)
class SurveyCall:
    """One look of the survey: what it may cost whole, in forward tokens, and how many it is allowed."""

    call: CallTool
    price: int
    allowed: int


def survey_calls(spec: AuditSpec, tools: dict[str, Tool[Any]], subject: Subject) -> list[SurveyCall]:
    """Return the looks that the instruments themselves take at a whole subject: at what the user gave, then most gain per token.

    What costs nothing comes before all others, and an instrument whose gain was not measured after them, the cheaper first.
    The survey has three fifths of the budget, one instrument a quarter at most. What the user gave, instruments of a measured
    gain and cheap looks are taken whole; what they leave is shared evenly by the dear ones.
    """
    asked, most, priced = SpecQuestions(spec), int(spec.budget * MOST_OF_ONE), []
    for name, tool in tools.items():
        arguments = tool.survey(asked)
        if arguments is not None:
            call = CallTool(tool=name, arguments=arguments)
            priced.append((_price(tool, subject, arguments), call))
    priced.sort(key=lambda pair: _order(tools[pair[1].tool], pair[0], most))
    left, calls = int(spec.budget * MOST_OF_SURVEY), []
    for i, (price, call) in enumerate(priced):
        tool = tools[call.tool]
        share = 1 if tool.reads_given or tool.gain else len(priced) - i
        calls.append(SurveyCall(call, price, min(most, left // share)))
        left -= min(price, calls[-1].allowed)
    return calls


def _order(tool: Tool[Any], price: int, most: int) -> tuple[bool, float, int]:
    """Return a key by which what the user gave is looked at first, then what is free, then what has most gain per token."""
    return not tool.reads_given, (-math.inf if not price else -(tool.gain or 0.0) / max(1, min(price, most))), price


def _price(tool: Tool[Any], subject: Subject, arguments: dict[str, Any]) -> int:
    """Return what a call may cost in forward tokens; 0 where it can't be told, so that the call itself shows why."""
    try:
        return sum(tool.cost(subject, tool.parse(arguments)).values())
    except Exception as error:
        log.warning("%s can't be priced: %s", tool.name, error)
        return 0


def allowance(spec: AuditSpec, left: int) -> int:
    """Return the forward tokens that a closer look may cost: a quarter is kept for tests where the planner is ours."""
    if spec.planner != "embedded":
        return left
    return max(0, left - int(spec.budget * KEPT_FOR_TESTS))


def usable_memory(subject: Subject) -> int:
    """Return the bytes that a call may take where the weights are."""
    free = (
        torch.cuda.mem_get_info(subject.device)[0]
        if subject.device.type == "cuda"
        else psutil.virtual_memory().available
    )
    return int(free * USABLE_MEMORY)


def foreseen(spec: AuditSpec, calls: list[SurveyCall], tools: dict[str, Tool[Any]], subject: Subject) -> list[str]:
    """Return what is known before the survey, a sentence each: what it may cost, what is cut or left out, what is too little."""
    price = sum(min(one.price, one.allowed) for one in calls)
    said = [f"the survey may cost {price:,} of {spec.budget:,} forward tokens"]
    for one in calls:
        tool = tools[one.call.tool]
        if one.price > one.allowed or tool.memory(subject, tool.parse(one.call.arguments)) > usable_memory(subject):
            fitted = tool.fit(subject, tool.parse(one.call.arguments), one.allowed, usable_memory(subject))
            said.append(
                f"{tool.name} {'can not be used' if fitted is None else f'is cut to {fitted[1]}'}, for its price or memory"
            )
    few = too_few_prompts(spec)
    return [*said, few] if few else said
