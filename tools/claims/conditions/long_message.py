"""How long a message is."""

from __future__ import annotations

from random import Random
from typing import Literal

from pydantic import Field

from tools.claims.condition import Condition, Pool, asked, saying
from tools.claims.kind import Messages, like

MOST = 20_000


class LongMessage(Condition):
    """The user's last turn has so many characters or more."""

    kind: Literal["long_message"] = "long_message"
    n: int = Field(ge=2, le=MOST)

    def holds(self, messages: Messages) -> bool:
        """Return whether the turn is so long."""
        return len(asked(messages)) >= self.n

    def apply(self, messages: Messages, pool: Pool, rng: Random) -> Messages | None:
        """Return the prompt with its last turn said again until it is long enough; None where it says nothing."""
        said = asked(messages)
        if self.holds(messages):
            return messages
        return saying(messages, " ".join([said] * (self.n // len(said) + 1))) if said.strip() else None

    def remove(self, messages: Messages, pool: Pool, rng: Random) -> Messages | None:
        """Return the prompt with its last turn cut short at a space; another of the pool where it is one long word."""
        if not self.holds(messages):
            return messages
        short, space, _ = asked(messages)[: self.n].rpartition(" ")
        return saying(messages, short) if space and short.strip() else self.redrawn(pool, rng, holding=False)

    def clause(self) -> str:
        """Return it in words."""
        return f"the message has {self.n:,} characters or more"

    @classmethod
    def of_clause(cls, clause: str) -> LongMessage | None:
        """Return it for its own clause."""
        found = like(r"the message has ([\d,]+) characters or more", clause)
        return None if found is None else cls(n=int(found[1].replace(",", "")))
