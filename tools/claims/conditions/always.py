"""No condition at all."""

from __future__ import annotations

from random import Random
from typing import Literal

from tools.claims.condition import Condition, Pool
from tools.claims.kind import Messages, like


class Always(Condition):
    """Every prompt meets it, and none can be relieved of it."""

    kind: Literal["always"] = "always"

    def holds(self, messages: Messages) -> bool:
        """Return True."""
        return True

    def apply(self, messages: Messages, pool: Pool, rng: Random) -> Messages | None:
        """Return the prompt as it is."""
        return messages

    def remove(self, messages: Messages, pool: Pool, rng: Random) -> Messages | None:
        """Return None: there is nothing to take out."""
        return None

    def clause(self) -> str:
        """Return it in words."""
        return "anything is asked"

    @classmethod
    def of_clause(cls, clause: str) -> Always | None:
        """Return it for its own clause."""
        return cls() if like("anything is asked", clause) else None

    @property
    def parts(self) -> tuple[Condition, ...]:
        """Return none."""
        return ()
