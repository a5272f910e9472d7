"""When a behaviour shows: what a prompt can be given, and relieved of."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from random import Random
from typing import Annotated, Any

from pydantic import BeforeValidator, GetJsonSchemaHandler, SerializeAsAny
from pydantic_core import CoreSchema

from tools.claims.kind import Kind, Message, Messages, Registry

Pool = Sequence[Messages]
"""The prompts that an audit has registered: from here a prompt is drawn anew where a condition can't be put in or taken out."""


TRIES = 64
"""Prompts of a pool that are drawn before it is searched from end to end for one that fits."""


class Condition(Kind):
    """One condition on prompts. `apply` then `holds`; `remove` then does not; either may say that it can't.

    Where a prompt has no words of its own left, or the condition is on what the whole prompt is about, another prompt
    of the pool is drawn in its place.
    """

    @abstractmethod
    def holds(self, messages: Messages) -> bool:
        """Return whether a prompt meets the condition."""

    @abstractmethod
    def apply(self, messages: Messages, pool: Pool, rng: Random) -> Messages | None:
        """Return the prompt under the condition; None where no prompt can be given it."""

    @abstractmethod
    def remove(self, messages: Messages, pool: Pool, rng: Random) -> Messages | None:
        """Return the prompt relieved of the condition; None where it can't be."""

    @abstractmethod
    def clause(self) -> str:
        """Return the condition as the clause behind "when", e.g. "the user says 'kettle'"."""

    @property
    def draws(self) -> bool:
        """Return whether it is put in by drawing another prompt."""
        return False

    @property
    def parts(self) -> tuple[Condition, ...]:
        """Return the conditions that must all hold, each of which a test takes out in turn; none where it always holds."""
        return (self,)

    def redrawn(self, pool: Pool, rng: Random, holding: bool) -> Messages | None:
        """Return a prompt of the pool that meets the condition, or does not, each as likely; None where there is none."""
        for messages in (rng.choice(pool) for _ in range(TRIES if pool else 0)):
            if self.holds(messages) == holding:
                return messages
        fitting = [messages for messages in pool if self.holds(messages) == holding]
        return rng.choice(fitting) if fitting else None


CONDITIONS = Registry("auditor.conditions", Condition)


def condition_of(terms: Any) -> Condition:
    """Return the condition that terms say.

    Raises:
        ValueError: see `Registry.read`.
    """
    condition: Condition = CONDITIONS.read(terms)
    return condition


class _AsTerms:
    """Has a field's JSON schema say what terms there are."""

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return CONDITIONS.schema()


AnyCondition = Annotated[SerializeAsAny[Condition], BeforeValidator(condition_of), _AsTerms]
"""A field that holds a condition of any installed kind."""


def asked(messages: Messages) -> str:
    """Return what the user said last."""
    return next((m["content"] for m in reversed(messages) if m["role"] == "user"), "")


def saying(messages: Messages, text: str) -> Messages:
    """Return the prompt with another text as the user's last turn."""
    last = max((i for i, m in enumerate(messages) if m["role"] == "user"), default=len(messages))
    return [*messages[:last], {"role": "user", "content": text}, *messages[last + 1 :]]


def of_role(messages: Messages, role: str) -> list[Message]:
    """Return the turns of one speaker."""
    return [message for message in messages if message["role"] == role]
