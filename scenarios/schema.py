"""A scenario: what the auditor may see of one subject, as it stands in a YAML file."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from auditor.config import DEFAULT_BUDGET, DEFAULT_TOOLS, OracleSpec, PlannerName


class Scenario(BaseModel):
    """One scripted audit. Paths are relative to the scenario file, or hub ids where they name models."""

    model_config = ConfigDict(extra="forbid")

    version: Literal[1]
    id: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    subject: str
    adapter: str | None = None
    base: str | None = None
    may_be_base: bool = False
    prompts: str
    vocabulary: str
    oracle: OracleSpec | None = None
    lora_oracle: str | None = None
    tools: list[str] = Field(default_factory=lambda: list(DEFAULT_TOOLS))
    planner: PlannerName = "embedded"
    steps: list[dict[str, Any]] = Field(default_factory=list)
    budget: int = Field(default=DEFAULT_BUDGET, ge=1)
    alpha: float = Field(default=0.01, gt=0, lt=1)
    delta: float = Field(default=0.1, gt=0, lt=1)
    seed: int = Field(default=0, ge=0, lt=2**32)
