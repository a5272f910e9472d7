"""How much is said."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tools.claims.kind import Messages, like
from tools.claims.predicate import Predicate
from tools.claims.text import words


class Length(Predicate):
    """The reply has so many words or more, or fewer."""

    kind: Literal["length"] = "length"
    n_words: int = Field(ge=1)
    than: Literal["at_least", "fewer"]

    @property
    def of_form(self) -> bool:
        """Return true."""
        return True

    def shown(self, prompt: Messages, reply: str) -> bool:
        """Return whether the reply is so long, or shorter."""
        return (len(words(reply)) >= self.n_words) == (self.than == "at_least")

    def clause(self) -> str:
        """Return it in words."""
        return f"its reply has {f'{self.n_words} words or more' if self.than == 'at_least' else f'fewer than {self.n_words} words'}"

    @classmethod
    def of_clause(cls, clause: str) -> Length | None:
        """Return it for its own clause."""
        fewer, more = like(r"REPLY has fewer than (\d+) words", clause), like(r"REPLY has (\d+) words or more", clause)
        if fewer is not None:
            return cls(n_words=int(fewer[1]), than="fewer")
        return None if more is None else cls(n_words=int(more[1]), than="at_least")
