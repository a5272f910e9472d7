"""What a reply shows or does not."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, GetJsonSchemaHandler, SerializeAsAny
from pydantic_core import CoreSchema

from tools.claims.kind import Kind, Messages, Registry


class Predicate(Kind):
    """One thing that a reply shows or does not, decided by the same rule for the subject and for its controls."""

    reads: ClassVar[Literal["reply", "prompt"]] = "reply"
    """What it is asked of: a reply, or the prompt as the model is given it, for what the subject's own files do."""
    needs_judge: ClassVar[bool] = False
    """Whether somebody has to be asked; such a kind is a `Judged`, see `judge.decided`."""

    @property
    def of_form(self) -> bool:
        """Return whether it is about how a reply is written, and not about what it says."""
        return False

    @abstractmethod
    def shown(self, prompt: Messages, reply: str) -> bool:
        """Return whether a reply to a prompt shows it."""

    @abstractmethod
    def clause(self) -> str:
        """Return it as what "it" does, e.g. "it says 'kettle'"."""


PREDICATES = Registry("auditor.predicates", Predicate)


def predicate_of(terms: Any) -> Predicate:
    """Return the predicate that terms say.

    Raises:
        ValueError: see `Registry.read`.
    """
    predicate: Predicate = PREDICATES.read(terms)
    return predicate


class _AsTerms:
    """Has a field's JSON schema say what terms there are."""

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return PREDICATES.schema()


AnyPredicate = Annotated[SerializeAsAny[Predicate], BeforeValidator(predicate_of), _AsTerms]
"""A field that holds a predicate of any installed kind."""
