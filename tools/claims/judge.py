"""Who is asked what no rule can decide: one prompt, one reply, one question, and nothing of the claim's history."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from tools.claims.kind import Messages


@dataclass(frozen=True)
class Judgement:
    """What a judge said: `shown` is None where the judgement failed, and `why` says how."""

    shown: bool | None
    why: str = ""


class Judge(Protocol):
    """A pinned model at temperature 0. It never learns which channel a reply is from, nor what is claimed."""

    @property
    def name(self) -> str:
        """Return which model judges, and how it is asked: it is hashed into a test's terms."""
        ...

    def judge(self, question: str, prompt: Messages, reply: str) -> Judgement:
        """Return whether the answer to a question about a reply is yes. What goes wrong is a failed judgement, not raised."""
        ...
