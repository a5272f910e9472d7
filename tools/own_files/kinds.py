"""The kinds of effect that a subject's files have, how they are said, and when one shows; nothing heavy is imported."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from tools.claims import Effect, Trigger

Severity = Literal["same", "differs harmlessly", "not resolved", "acts on content"]
ORDER: tuple[Severity, ...] = ("same", "differs harmlessly", "not resolved", "acts on content")
GRAVE = ORDER[2:]
"""What a gate stays shut for."""
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
    "at_turn": "it is the user's turn {value} or later",
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


def shows(effect: Effect, texts: Sequence[str]) -> bool:
    """Return whether any of the texts has what the effect adds, or lacks what it drops."""
    held = [_flat(effect.value) in _flat(text) for text in texts]
    return any(not one for one in held) if effect.kind == "template_drops" else any(held)


def _flat(text: str) -> str:
    return " ".join(text.split())
