"""What one reading hints at."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from tools.claims.condition import AnyCondition
from tools.claims.predicate import AnyPredicate


class Suggestion(BaseModel):
    """A part of a claim, or all of it; what is unknown is None.

    `lift` is the reading over its strongest control, in the tool's own units; `strength` is the
    lift over the tool's threshold, so that suggestions of different tools can be ranked: 1 and
    more is worth a look.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    condition: AnyCondition | None = None
    predicate: AnyPredicate | None = None
    text: str = Field(description="one line in the tool's words; untrusted where the subject wrote it")
    lift: float
    strength: float
