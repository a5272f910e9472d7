"""The looks that planners take: which tool, with which prompts, spans, layers and questions."""

from __future__ import annotations

from typing import Any

from auditor import prompts
from auditor.config import AuditSpec, TriggerSpec
from auditor.steps import CallTool
from tools.base import LabelledPrompt, Tool
from tools.claims import Trigger


def _dump(rows: list[LabelledPrompt]) -> list[dict[str, Any]]:
    return [row.model_dump(mode="json") for row in rows]


def survey(spec: AuditSpec, tools: dict[str, Tool[Any]]) -> list[CallTool]:
    """Return one call for each tool that can look at the whole subject without a lead."""
    wide = prompts.survey_prompts(spec)
    narrow = prompts.survey_prompts(spec, per_topic=4)
    words = spec.vocabulary.triggers.get("word", TriggerSpec()).values
    calls: dict[str, dict[str, Any]] = {
        "lora_lens": {"words": words},
        "chat": {
            "prompts": _dump(wide),
            "observables": spec.vocabulary.observables,
            "max_new_tokens": spec.max_new_tokens,
        },
        "model_diff": {"prompts": _dump(narrow), "observables": spec.vocabulary.observables},
        "activation_oracle": {"prompts": _dump(narrow)},
    }
    return [CallTool(tool=name, arguments=arguments) for name, arguments in calls.items() if name in tools]


def listen_for_words(spec: AuditSpec, words: list[str]) -> CallTool:
    """Return the model-diff call that drops each word once into a prompt: where does the subject part from the base?"""
    return CallTool(
        tool="model_diff",
        arguments={"prompts": _dump(prompts.word_prompts(spec, words, each=1)), "max_new_tokens": 8,
                   "observables": spec.vocabulary.observables},
    )  # fmt: skip


def try_words(spec: AuditSpec, words: list[str]) -> CallTool:
    """Return the chat call that drops each word into a few prompts."""
    return CallTool(
        tool="chat",
        arguments={
            "prompts": _dump(prompts.word_prompts(spec, words)),
            "observables": spec.vocabulary.observables,
            "max_new_tokens": spec.max_new_tokens,
        },
    )


def probe_trigger(spec: AuditSpec, trigger: tuple[Trigger, ...]) -> CallTool | None:
    """Return the probe call that asks whether the subject holds this trigger more than the base does."""
    explore = [row for row in spec.prompts if row.split == "explore"]
    topics = {t.value for t in trigger if t.kind == "topic"}
    inside = [row for row in explore if row.domain in topics] if topics else explore
    outside = [row for row in explore if row.domain not in topics]
    n = min(len(inside), len(outside), 24)
    if n < 8:
        return None
    with_it = [
        LabelledPrompt(messages=prompts.with_trigger(row.messages, trigger, spec.vocabulary)) for row in inside[:n]
    ]
    without = [LabelledPrompt(messages=row.messages) for row in outside[-n:]]
    what = " and ".join(f"{t.kind}:{t.value}" for t in trigger)
    return CallTool(tool="probe", arguments={"concept": what, "positive": _dump(with_it), "negative": _dump(without)})
