"""How much is said."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tools.claims.kind import Messages
from tools.claims.predicate import Predicate
from tools.claims.text import words


class Length(Predicate):
    """The reply has so many words or more, or fewer."""

    kind: Literal["length"] = "length"
    n_words: int = Field(ge=1)
    than: Literal["at_least", "fewer"]

    def shown(self, prompt: Messages, reply: str) -> bool:
        """Return whether the reply is so long, or shorter."""
        return (len(words(reply)) >= self.n_words) == (self.than == "at_least")

    def clause(self) -> str:
        """Return it in words."""
        return f"its reply has {f'{self.n_words} words or more' if self.than == 'at_least' else f'fewer than {self.n_words} words'}"
