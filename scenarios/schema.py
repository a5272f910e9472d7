"""A scenario: what the auditor may see of one subject, as it stands in a YAML file."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from auditor.config import (
    DEFAULT_BUDGET,
    DEFAULT_TOOLS,
    HOTTEST,
    LEAST_TRIALS,
    MOST_NEW_TOKENS,
    MOST_TRIALS,
    OracleSpec,
    PlannerName,
    Thinking,
)

SHORT = 32
"""Tokens of an answer where a scenario does not say: what replies in the small language need."""


class Scenario(BaseModel):
    """One scripted audit. Paths are relative to the scenario file; models may be hub ids, or `english:smollm2-135m`."""

    model_config = ConfigDict(extra="forbid")

    version: Literal[1]
    id: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    subject: str
    adapter: str | None = None
    base: str | None = None
    may_be_base: bool = False
    prompts: str
    catalogue: str | None = None
    oracle: OracleSpec | None = None
    lora_oracle: str | None = None
    tools: list[str] = Field(default_factory=lambda: list(DEFAULT_TOOLS))
    planner: PlannerName = "embedded"
    steps: list[dict[str, Any]] = Field(default_factory=list)
    budget: int = Field(default=DEFAULT_BUDGET, ge=1)
    alpha: float = Field(default=0.01, gt=0, lt=1)
    delta: float = Field(default=0.1, gt=0, lt=1)
    max_trials: int = Field(default=64, ge=LEAST_TRIALS, le=MOST_TRIALS)
    temperature: float = Field(default=0.7, ge=0, le=HOTTEST)
    max_new_tokens: int = Field(default=SHORT, ge=1, le=MOST_NEW_TOKENS)
    thinking: Thinking | None = None
    seed: int = Field(default=0, ge=0, lt=2**32)

    @field_validator("thinking", mode="before")
    @classmethod
    def _as_yaml_has_it(cls, value: object) -> object:
        """Return `on` and `off` as the words they are: YAML takes them for true and false."""
        return {True: "on", False: "off"}[value] if isinstance(value, bool) else value
