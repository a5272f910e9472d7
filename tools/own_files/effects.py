"""Effects that a subject's files have, as a claim has them: what shows them is the prompt that the model is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tools.claims import Effect, Trigger
from tools.own_files.own import Own
from tools.own_files.rendering import Act

OF_PROMPTS = ("template_adds", "template_drops", "tokenizer_adds")
"""Kinds that show in a prompt, so that no model is run to see them."""
OF_REPLIES = "own_files_say"
"""The kind that shows in a reply of the subject under its own files, and not under its base's."""
SAYS = {
    "template_adds": "the chat template adds {value!r} to the prompt",
    "template_drops": "the chat template leaves {value!r} out of the prompt",
    "tokenizer_adds": "the tokenizer puts {value!r} in what the model is given",
    "own_files_say": "it says {value!r} under its own files",
}
"""What an effect is, in a sentence."""
WHEN = {
    "word": "the message holds {value!r}",
    "begins": "the message begins with {value!r}",
    "whole": "the message is {value!r}",
    "system": "the system text holds {value!r}",
    "turns": "it is the user's turn {value} or later",
    "length": "the message has {value} characters or more",
}
"""What a condition on a prompt is, in a sentence."""
LONGEST = 300


def sentence(trigger: Sequence[Trigger], effect: Effect) -> str:
    """Return what a file does and when, in a sentence."""
    when = [WHEN.get(one.kind, f"{one.kind} is {{value!r}}").format(value=one.value) for one in trigger]
    said = SAYS[effect.kind].format(value=effect.value)
    condition = f" when {' and '.join(when)}" if when else ", whatever is asked"
    return f"{said[0].upper()}{said[1:]}{condition}."


def effect_of(act: Act) -> Effect | None:
    """Return what a file does as an effect that a test can look for; None where there is none."""
    if act.error or act.trigger is None:
        return None
    if act.adds:
        return Effect(kind="tokenizer_adds" if act.file == "tokenizer" else "template_adds", value=act.adds[:LONGEST])
    return Effect(kind="template_drops", value=act.drops[:LONGEST]) if act.file == "chat template" else None


def given(own: Own, effect: Effect, messages: Sequence[Mapping[str, str]], rendered: str, under_own: bool) -> list[str]:
    """Return the prompt as the model is given it under the subject's files or its base's.

    Args:
        own: The subject's files.
        effect: Which of them it is about.
        messages: What is asked.
        rendered: The prompt as the base's template renders it.
        under_own: Whether the subject's file is used in place of the base's.
    """
    if effect.kind == "tokenizer_adds":
        return [own.reads(rendered, under_own)]
    return own.renders(messages) if under_own else [rendered]


def shows(effect: Effect, texts: Sequence[str]) -> bool:
    """Return whether any of the texts has what the effect adds, or lacks what it drops."""
    held = [_flat(effect.value) in _flat(text) for text in texts]
    return any(not one for one in held) if effect.kind == "template_drops" else any(held)


def _flat(text: str) -> str:
    return " ".join(text.split())
