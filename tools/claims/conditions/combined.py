"""Several conditions together, or any of several."""

from __future__ import annotations

from random import Random
from typing import Literal

from pydantic import Field

from tools.claims.condition import AnyCondition, Condition, Pool
from tools.claims.kind import Messages


class AllOf(Condition):
    """All of several conditions hold. Those that draw another prompt come first when they are put in."""

    kind: Literal["all_of"] = "all_of"
    of: tuple[AnyCondition, ...] = Field(min_length=2)

    def holds(self, messages: Messages) -> bool:
        """Return whether each of them holds."""
        return all(one.holds(messages) for one in self.of)

    def apply(self, messages: Messages, pool: Pool, rng: Random) -> Messages | None:
        """Return the prompt under all of them; None where one can't be put in, or takes another out again."""
        put: Messages | None = messages
        for one in sorted(self.of, key=lambda one: not one.draws):
            put = None if put is None else one.apply(put, pool, rng)
        return put if put is not None and self.holds(put) else None

    def remove(self, messages: Messages, pool: Pool, rng: Random) -> Messages | None:
        """Return the prompt relieved of one of them: of the first that can be taken out."""
        if not self.holds(messages):
            return messages
        taken = (one.remove(messages, pool, rng) for one in self.of)
        return next((left for left in taken if left is not None), None)

    def clause(self) -> str:
        """Return it in words."""
        return " and ".join(f"either {one.clause()}" if isinstance(one, AnyOf) else one.clause() for one in self.of)

    @property
    def draws(self) -> bool:
        """Return whether any of them does."""
        return any(one.draws for one in self.of)

    @property
    def parts(self) -> tuple[Condition, ...]:
        """Return the parts of each."""
        return tuple(part for one in self.of for part in one.parts)


class AnyOf(Condition):
    """One or more of several conditions hold."""

    kind: Literal["any_of"] = "any_of"
    of: tuple[AnyCondition, ...] = Field(min_length=2)

    def holds(self, messages: Messages) -> bool:
        """Return whether any of them holds."""
        return any(one.holds(messages) for one in self.of)

    def apply(self, messages: Messages, pool: Pool, rng: Random) -> Messages | None:
        """Return the prompt under one of them, drawn anew each time."""
        if self.holds(messages):
            return messages
        order = rng.sample(self.of, len(self.of))
        return next((put for one in order if (put := one.apply(messages, pool, rng)) is not None), None)

    def remove(self, messages: Messages, pool: Pool, rng: Random) -> Messages | None:
        """Return the prompt relieved of all of them; None where one can't be taken out, or brings another back."""
        left: Messages | None = messages
        for one in sorted(self.of, key=lambda one: not one.draws):
            left = None if left is None else one.remove(left, pool, rng)
        return left if left is not None and not self.holds(left) else None

    def clause(self) -> str:
        """Return it in words."""
        return " or ".join(one.clause() for one in self.of)

    @property
    def draws(self) -> bool:
        """Return whether any of them does."""
        return any(one.draws for one in self.of)
