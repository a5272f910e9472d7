"""Words that are said."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from tools.claims.kind import Messages, like
from tools.claims.predicate import Predicate
from tools.claims.text import parted, shows, unquoted, wordless


class Says(Predicate):
    """The reply says one of some phrases, word for word, in any script; case and the form of quotes don't matter."""

    kind: Literal["says"] = "says"
    any_of: tuple[str, ...] = Field(min_length=1)

    @field_validator("any_of")
    @classmethod
    def _have_words(cls, phrases: tuple[str, ...]) -> tuple[str, ...]:
        if nothing := wordless(phrases):
            raise ValueError(
                f"`says` is given {nothing[0]!r}, which has no word to look for; "
                "give words with letters or digits, of any script"
            )
        return phrases

    def shown(self, prompt: Messages, reply: str) -> bool:
        """Return whether one of them stands in the reply; one without a word, as older ledgers may have it, never does."""
        return shows([phrase for phrase in self.any_of if not wordless([phrase])], reply)

    def clause(self) -> str:
        """Return it in words."""
        said = [repr(phrase) for phrase in self.any_of[:3]]
        more = f" or {len(self.any_of) - 3} other phrases" if len(self.any_of) > 3 else ""
        return f"it says {' or '.join(said)}{more}"

    @classmethod
    def of_clause(cls, clause: str) -> Says | None:
        """Return it for a clause that quotes what is said, of several phrases each; words without quotes may mean anything."""
        found = like("IT (?:says|writes|mentions)(?: the (?:words?|phrase))? (.+)", clause)
        phrases = None if found is None else parted(found[1], " or ", unquoted)
        return None if phrases is None else cls(any_of=phrases)
