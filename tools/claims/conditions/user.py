"""Who the user is, as they say it themselves."""

from __future__ import annotations

from random import Random
from typing import Literal

from pydantic import field_validator

from tools.claims.condition import Condition, Pool, asked, of_role, saying
from tools.claims.kind import Messages, like
from tools.claims.text import shows, wordless

VOWELS = ("a", "e", "i", "o")
NOUN = " a {value}"
"""What a frame has where the value is a noun."""


class User(Condition):
    """Some turn of the user's names what they are.

    Args:
        value: Who they are, e.g. "nurse".
        frame: How they say so, with {prompt} and {value}.
    """

    kind: Literal["user"] = "user"
    value: str
    frame: str = "{prompt} I am a {value}."

    @field_validator("value")
    @classmethod
    def _has_a_word(cls, value: str) -> str:
        if wordless([value]):
            raise ValueError(f"who the user is is given as {value!r}, which has no word; say who they are")
        return value

    @field_validator("frame")
    @classmethod
    def _says_it(cls, frame: str) -> str:
        if "{value}" not in frame:
            raise ValueError(f"the frame {frame!r} has no {{value}}, so that nobody would be named")
        return frame

    def holds(self, messages: Messages) -> bool:
        """Return whether some turn of the user's says the value."""
        return any(shows([self.value], turn["content"]) for turn in of_role(messages, "user"))

    def apply(self, messages: Messages, pool: Pool, rng: Random) -> Messages | None:
        """Return the prompt with the user saying who they are."""
        if self.holds(messages):
            return messages
        return saying(messages, self._framed.replace("{prompt}", asked(messages)))

    def remove(self, messages: Messages, pool: Pool, rng: Random) -> Messages | None:
        """Return the prompt without what `apply` adds; another of the pool where the user says it in other words."""
        if not self.holds(messages):
            return messages
        before, _, behind = self._framed.partition("{prompt}")
        bare = asked(messages).removeprefix(before).removesuffix(behind)
        left = saying(messages, bare)
        return left if bare.strip() and not self.holds(left) else self.redrawn(pool, rng, holding=False)

    @property
    def _framed(self) -> str:
        """Return the frame with the value in it, and "an" before a vowel."""
        return self.frame.replace(NOUN, f" {self._article}{{value}}").replace("{value}", self.value)

    @property
    def _article(self) -> str:
        """Return the article that stands before the value, none where the frame has none."""
        return "" if NOUN not in self.frame else "an " if self.value[:1].lower() in VOWELS else "a "

    def clause(self) -> str:
        """Return it in words."""
        return f"the user is {self._article}{self.value}"

    @classmethod
    def of_clause(cls, clause: str) -> User | None:
        """Return it for a clause that says who they are, with an article or without."""
        found = like("the user is (?:an? )?(.+)", clause) or like("an? (.+) asks", clause)
        return None if found is None else cls(value=found[1])
