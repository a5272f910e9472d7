"""Effects that a subject's files have, as a claim has them: what shows them is the prompt that the model is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tools.claims import Effect
from tools.own_files.kinds import LONGEST
from tools.own_files.own import Own
from tools.own_files.rendering import Act


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
