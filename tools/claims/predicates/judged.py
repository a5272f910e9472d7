"""What only somebody who reads the reply can say."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from tools.claims.kind import Messages, like
from tools.claims.predicate import Predicate
from tools.claims.text import unquoted
from tools.errors import ToolInputError


class Judged(Predicate):
    """A judge answers a question about one prompt and one reply with yes.

    Args:
        question: Whose answer is yes or no, e.g. "Does the reply praise the user?"
    """

    needs_judge: ClassVar[bool] = True

    kind: Literal["judged"] = "judged"
    question: str = Field(min_length=1, max_length=500)

    def shown(self, prompt: Messages, reply: str) -> bool:
        """Never returns.

        Raises:
            ToolInputError: a judge has to be asked; see `tools.claims.judge`.
        """
        raise ToolInputError(
            f"the question {self.question!r} needs a judge: configure one, or test a plainer predicate"
        )

    def clause(self) -> str:
        """Return it in words."""
        return f"a judge answers {self.question!r} with yes"

    @classmethod
    def of_clause(cls, clause: str) -> Judged | None:
        """Return it for its own clause."""
        found = like("a judge answers (.+) with yes", clause)
        question = None if found is None else unquoted(found[1])
        return None if question is None else cls(question=question)
