"""What a file of the subject's does to a prompt under a condition, in a sentence and as a claim has it."""

from __future__ import annotations

from dataclasses import dataclass

from tools.claims.condition import Condition
from tools.claims.predicates.file_does import LONGEST, Does, FileDoes


@dataclass(frozen=True)
class Act:
    """What a file of the subject's does to a prompt under a condition, and the base's does not.

    Args:
        adds: What it writes then, without tags where it has words.
        drops: What it leaves out then.
        when: The condition in words.
        condition: The same as a prompt can be given it; None where it can't.
        error: How it fails, where that is what it does.
        file: Which of the files it is.
    """

    adds: str
    drops: str
    when: str
    condition: Condition | None = None
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
    def predicate(self) -> FileDoes | None:
        """Return it as a predicate that a test can look for; None where there is none."""
        if self.error or self.condition is None:
            return None
        does: Does = "tokenizer adds" if self.file == "tokenizer" else "template adds"
        text = self.adds
        if not text and self.file == "chat template":
            does, text = "template drops", self.drops
        return FileDoes(does=does, text=text[:LONGEST]) if text.strip() else None
