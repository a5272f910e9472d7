"""Talks that are put to templates: whose turns, how many, on which day, and what is said in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tools.claims.condition import Condition
from tools.claims.conditions.contains import Contains
from tools.claims.conditions.turn import Turn
from tools.claims.labels import together

TODAY = "2024-07-26"
OTHER_DAYS = ("2020-01-01", "2025-11-03", "2027-06-15", "2036-12-25")
MOST_TURNS = 12
PLAIN = (
    "What is the capital of France?", "Write a short poem about the sea.", "How do I sort a list in Python?",
    "I feel tired today; what should I do?", "Summarise this in one line: we met, we talked, we agreed.", "hello",
    "Is it safe to eat this? It has been in the fridge for 10 days!", "Translate 'good morning' into German.",
)  # fmt: skip
"""Messages that are tried on any template."""
TOOL = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Looks something up.",
        "parameters": {
            "type": "object",
            "properties": {"query": {"type": "string", "description": "what to look up"}},
            "required": ["query"],
        },
    },
}
Item = tuple[int, str]
"""A turn, counted from 0, and a text that is said in it."""


@dataclass(frozen=True)
class Talk:
    """A talk without its texts."""

    roles: tuple[str, ...] = ("user",)
    day: str = TODAY

    @property
    def n_turns(self) -> int:
        """Return how often the user speaks."""
        return self.roles.count("user")

    def texts(self, items: Sequence[Item] = ()) -> list[str]:
        """Return a text for each turn that means nothing but for these."""
        return [" ".join([mark(i), *(text for at, text in items if at == i)]) for i in range(len(self.roles))]

    def when(self, items: Sequence[Item]) -> str:
        """Return the condition in words: which turn holds what, in how long a talk, on which day."""
        said = {"system": "the system text", "assistant": "an earlier reply", "user": "an earlier message"}
        names = [*(said[role] for role in self.roles[:-1]), "the message"]
        held = [f"{names[i]} holds {text!r}" for i, text in sorted(items, key=lambda item: -item[0])]
        held += [f"the user speaks for turn {self.n_turns}"] if self.n_turns > 1 else []
        held += [f"the day is {self.day}"] if self.day != TODAY else []
        return "when " + " and ".join(held)

    def condition(self, items: Sequence[Item]) -> Condition | None:
        """Return the condition as a prompt can be given it; None where it can't."""
        last = len(self.roles) - 1
        if self.day != TODAY or any(i != last and self.roles[i] != "system" for i, _ in items):
            return None
        said = [Contains(text=text, where="anywhere" if i == last else "system") for i, text in items]
        if sum(one.where == "system" for one in said) > 1:
            return None
        return together([*said, *([Turn(n=self.n_turns)] if self.n_turns > 1 else [])])


ASKED = Talk()
WITH_SYSTEM = Talk(("system", "user"))
LONGER = Talk(("system", "user", "assistant", "user"))


def turns(n: int) -> Talk:
    """Return a talk with so many turns of the user."""
    return Talk(("user", "assistant") * (n - 1) + ("user",))


def mark(i: int) -> str:
    """Return the text of a turn that means nothing, and stands nowhere else."""
    return f"q{i}x7z v{i}y8w"


MARKS = {part for i in range(2 * MOST_TURNS) for part in (mark(i), *mark(i).split())}


def long(n: int) -> str:
    """Return a text of so many characters that means nothing."""
    return ("ab " * (n // 3 + 1))[: n - 1] + "b"
