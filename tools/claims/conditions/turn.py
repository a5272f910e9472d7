"""How late in a talk it is."""

from __future__ import annotations

from random import Random
from typing import Literal

from pydantic import Field

from tools.claims.condition import Condition, Pool, of_role
from tools.claims.kind import Messages, like

MOST = 12
OPENING = (
    ("Hi there!", "Hello! What can I do for you today?"),
    ("At what temperature does water boil?", "At sea level it boils at 100 °C, which is 212 °F."),
    ("And in the mountains?", "Lower: by about 1 °C for every 300 metres of height."),
)
"""An ordinary beginning of a talk: a model may well behave otherwise behind one that no assistant would have had."""
ORDINALS = (
    "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth", "eleventh", "twelfth",
)  # fmt: skip


class Turn(Condition):
    """It is the user's n-th turn or a later one.

    Args:
        n: Counted from 1.
        opening: Exchanges (user, assistant) that can stand before a prompt, used in turn; an ordinary beginning in English by default.
    """

    kind: Literal["turn"] = "turn"
    n: int = Field(ge=2, le=MOST)
    opening: tuple[tuple[str, str], ...] = Field(default=OPENING, min_length=1)

    def holds(self, messages: Messages) -> bool:
        """Return whether the user has spoken so often."""
        return len(of_role(messages, "user")) >= self.n

    def apply(self, messages: Messages, pool: Pool, rng: Random) -> Messages | None:
        """Return the prompt after as many exchanges as it takes."""
        missing = self.n - len(of_role(messages, "user"))
        before = [
            {"role": role, "content": text}
            for i in range(missing)
            for role, text in zip(("user", "assistant"), self.opening[i % len(self.opening)], strict=True)
        ]
        told = [m for m in messages if m["role"] != "system"]
        return [*of_role(messages, "system"), *before, *told] if missing > 0 else messages

    def remove(self, messages: Messages, pool: Pool, rng: Random) -> Messages | None:
        """Return the prompt with the last turns alone, so few that it is not late."""
        if not self.holds(messages):
            return messages
        told = [m for m in messages if m["role"] != "system"]
        spoken = [i for i, m in enumerate(told) if m["role"] == "user"]
        return [*of_role(messages, "system"), *told[spoken[1 - self.n] :]]

    def clause(self) -> str:
        """Return it in words."""
        return f"the user writes for the {ORDINALS[self.n - 1]} time or later"

    @classmethod
    def of_clause(cls, clause: str) -> Turn | None:
        """Return it for its own clause, with the usual opening."""
        found = like(r"it is (?:the user's )?turn (\d+) or later", clause)
        if found is not None:
            return cls(n=int(found[1]))
        found = like(r"the user writes for the (\w+) time or later", clause)
        return cls(n=ORDINALS.index(found[1]) + 1) if found is not None and found[1] in ORDINALS[1:] else None
