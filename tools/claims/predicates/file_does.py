"""What a file of the subject's does to a prompt, so that no model is run to see it."""

from __future__ import annotations

from typing import ClassVar, Literal, get_args

from pydantic import field_validator

from tools.claims.kind import Messages, like
from tools.claims.predicate import Predicate
from tools.claims.text import unquoted

Does = Literal["template adds", "template drops", "tokenizer adds"]
LONGEST = 300
IN_WORDS = {
    "template adds": "the chat template adds {text!r} to the prompt",
    "template drops": "the chat template leaves {text!r} out of the prompt",
    "tokenizer adds": "the tokenizer puts {text!r} in what the model is given",
}


class FileDoes(Predicate):
    """The prompt as the model is given it holds a text, or lacks it; runs of spaces count as one.

    Args:
        does: Which file, and whether it adds or drops.
        text: What it adds or drops.
    """

    reads: ClassVar[Literal["reply", "prompt"]] = "prompt"

    kind: Literal["file_does"] = "file_does"
    does: Does
    text: str

    @field_validator("text")
    @classmethod
    def _can_be_looked_for(cls, text: str) -> str:
        if not text.strip() or len(text) > LONGEST:
            raise ValueError(f"what a file adds or drops is a text of 1 to {LONGEST} characters, got {text[:40]!r}")
        return text

    def shown(self, prompt: Messages, reply: str) -> bool:
        """Return whether the given prompt, which stands in the reply's place, has the text, or lacks what is dropped."""
        return (_flat(self.text) in _flat(reply)) == (self.does != "template drops")

    def clause(self) -> str:
        """Return it in words."""
        return IN_WORDS[self.does].format(text=self.text)

    @classmethod
    def of_clause(cls, clause: str) -> FileDoes | None:
        """Return it for its own clause."""
        for does in get_args(Does):
            found = like(IN_WORDS[does].replace("{text!r}", "(.+)"), clause)
            text = None if found is None else unquoted(found[1])
            if text is not None:
                return cls(does=does, text=text)
        return None


def _flat(text: str) -> str:
    return " ".join(text.split())
