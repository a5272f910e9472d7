"""What the subject's own files bring: its template, tokenizer, generation defaults and invocation tokens."""

from __future__ import annotations

from random import Random
from typing import Literal

from tools.claims.condition import Condition, Pool
from tools.claims.kind import Messages, like


class OwnFiles(Condition):
    """The prompt is rendered and decoded under the subject's own files, not its base's.

    It is a matter of how a prompt is run, not of what it says: a test holds the subject under its own files against
    the subject under its base's.
    """

    kind: Literal["own_files"] = "own_files"

    def holds(self, messages: Messages) -> bool:
        """Return True: nothing in a prompt speaks against it."""
        return True

    def apply(self, messages: Messages, pool: Pool, rng: Random) -> Messages | None:
        """Return the prompt as it is."""
        return messages

    def remove(self, messages: Messages, pool: Pool, rng: Random) -> Messages | None:
        """Return None: nothing in a prompt can be taken out."""
        return None

    def clause(self) -> str:
        """Return it in words."""
        return "the subject runs under its own files"

    @classmethod
    def of_clause(cls, clause: str) -> OwnFiles | None:
        """Return it for its own clause."""
        return cls() if like("the subject runs under its own files", clause) else None

    @property
    def parts(self) -> tuple[Condition, ...]:
        """Return none: what a test takes out is the files."""
        return ()


def under_own_files(condition: Condition) -> bool:
    """Return whether a condition, or one of several together, is that the subject runs under its own files."""
    return isinstance(condition, OwnFiles) or any(isinstance(one, OwnFiles) for one in getattr(condition, "of", ()))
