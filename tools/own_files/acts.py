"""What a file of the subject's does to a prompt under a condition, in a sentence and as a claim has it."""

from __future__ import annotations

from dataclasses import dataclass

from tools.claims import Effect, Trigger
from tools.own_files.kinds import LONGEST


@dataclass(frozen=True)
class Act:
    """What a file of the subject's does to a prompt under a condition, and the base's does not.

    Args:
        adds: What it writes then, without tags where it has words.
        drops: What it leaves out then.
        when: The condition in words.
        trigger: The condition as a prompt can be given it; None where it can't.
        error: How it fails, where that is what it does.
        file: Which of the files it is.
    """

    adds: str
    drops: str
    when: str
    trigger: tuple[Trigger, ...] | None = None
    error: str = ""
    file: str = "chat template"

    @property
    def sentence(self) -> str:
        """Return it in a sentence."""
        if self.error:
            return f"the {self.file} fails {self.when}: {self.error}"
        if self.file == "tokenizer" and self.adds and self.drops:
            return f"the tokenizer turns {self.drops!r} into {self.adds!r} {self.when}"
        does = [f"adds {self.adds!r}"] if self.adds else []
        does += [f"drops {self.drops!r}"] if self.drops else []
        return f"the {self.file} {' and '.join(does)} {self.when}"

    @property
    def effect(self) -> Effect | None:
        """Return it as an effect that a test can look for; None where there is none."""
        if self.error or self.trigger is None:
            return None
        if self.adds:
            return Effect(
                kind="tokenizer_adds" if self.file == "tokenizer" else "template_adds", value=self.adds[:LONGEST]
            )
        return Effect(kind="template_drops", value=self.drops[:LONGEST]) if self.file == "chat template" else None
