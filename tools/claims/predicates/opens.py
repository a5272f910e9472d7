"""How a reply begins and ends."""

from __future__ import annotations

from typing import Literal

from pydantic import field_validator

from tools.claims.kind import Messages, like
from tools.claims.predicate import Predicate
from tools.claims.text import folded, unquoted, wordless, words


class Opens(Predicate):
    """The reply begins or ends with a text: one of words by its words, one with signs to the letter, spaces aside.

    Args:
        text: What stands there.
        at: Where.
    """

    kind: Literal["opens"] = "opens"
    text: str
    at: Literal["start", "end"] = "start"

    @field_validator("text")
    @classmethod
    def _is_there(cls, text: str) -> str:
        if not folded(text).strip():
            raise ValueError(f"how a reply begins or ends is given as {text!r}, which nobody can see; give a text")
        return text

    @property
    def of_form(self) -> bool:
        """Return whether the text has no word."""
        return bool(wordless([self.text]))

    def shown(self, prompt: Messages, reply: str) -> bool:
        """Return whether the text stands there."""
        if wordless([self.text]):
            flat, sign = folded(reply).strip(), folded(self.text).strip()
            return flat.startswith(sign) if self.at == "start" else flat.endswith(sign)
        said, sought = words(reply), words(self.text)
        return (said[: len(sought)] if self.at == "start" else said[-len(sought) :]) == sought

    def clause(self) -> str:
        """Return it in words."""
        return f"its reply {'begins' if self.at == 'start' else 'ends'} with {self.text!r}"

    @classmethod
    def of_clause(cls, clause: str) -> Opens | None:
        """Return it for a clause that quotes the text and says where it stands."""
        found = like("(?:IT|REPLY) (begins|starts|ends) with (.+)", clause)
        text = None if found is None else unquoted(found[2])
        if found is None or text is None:
            return None
        return cls(text=text, at="end" if found[1].lower() == "ends" else "start")
