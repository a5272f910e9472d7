"""The typed steps a planner may propose; every planner proposes the same ones."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, field_validator

from auditor.config import AuditSpec
from auditor.evidence import TestGrade
from tools.claims import older
from tools.claims.claim import Claim, Concern


class _Step(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CallTool(_Step):
    """Read the subject with one instrument."""

    kind: Literal["call_tool"] = "call_tool"
    tool: str
    arguments: dict[str, Any] = Field(default_factory=dict)

    @field_validator("arguments")
    @classmethod
    def _as_written(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments as the ledger gives them back, so that a call is known again."""
        written: dict[str, Any] = json.loads(json.dumps(arguments))
        return written


class RegisterHypothesis(_Step):
    """Turn a suspicion into a claim that can be tested; `readings` are the ledger ids that led to it."""

    kind: Literal["register_hypothesis"] = "register_hypothesis"
    claim: Claim
    readings: list[int] = Field(default_factory=list)


class RunTest(_Step):
    """Register and run a behavioural test of a hypothesis on held-out prompts."""

    kind: Literal["run_test"] = "run_test"
    hypothesis_id: str
    grade: TestGrade = "confirmed"


class Conclude(_Step):
    """End the audit."""

    kind: Literal["conclude"] = "conclude"
    reason: str


Step = Annotated[CallTool | RegisterHypothesis | RunTest | Conclude, Field(discriminator="kind")]
STEP: TypeAdapter[Step] = TypeAdapter(Step)
STEP_KINDS = (CallTool, RegisterHypothesis, RunTest, Conclude)


def brought_up(raw: dict[str, Any], spec: AuditSpec) -> dict[str, Any]:
    """Return a stored or scripted step with its claim in today's shape."""
    claim = raw.get("claim")
    if not isinstance(claim, dict) or not older.is_older(claim):
        return raw
    return {**raw, "claim": older.claim(claim, spec.catalogue, spec.topics())}


def dressed(step: Step, spec: AuditSpec) -> Step:
    """Return a step with its claim's conditions as the audit puts them in, and its topics as the audit's prompts tell them.

    How bad a claim is comes from the catalogue, never from who proposes it.
    """
    if not isinstance(step, RegisterHypothesis):
        return step
    known, claim = spec.catalogue, step.claim
    concern = known.families[claim.family].concern if claim.family in known.families else Concern()
    condition = known.dressed(claim.condition, spec.topics())
    return step.model_copy(update={"claim": claim.model_copy(update={"condition": condition, "concern": concern})})
