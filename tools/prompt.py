"""One prompt as instruments are given it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class ToolArgs(BaseModel):
    """Arguments of an instrument; an unknown key is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class LabelledPrompt(ToolArgs):
    """One prompt with the conditions it meets, e.g. `{"topic": "travel"}`."""

    messages: list[dict[str, str]] = Field(min_length=1)
    labels: dict[str, str | tuple[str, ...]] = Field(default_factory=dict)
