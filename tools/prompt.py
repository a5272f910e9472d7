"""One prompt as instruments are given it."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

LEAST_TRANSCRIPTS, MOST_TRANSCRIPTS = 3, 200
"""Fewer have nothing in common that would not be chance."""


class ToolArgs(BaseModel):
    """Arguments of an instrument; an unknown key is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class LabelledPrompt(ToolArgs):
    """One prompt with the conditions it meets, e.g. `{"topic": "travel"}`."""

    messages: list[dict[str, str]] = Field(min_length=1)
    labels: dict[str, str | tuple[str, ...]] = Field(default_factory=dict)


def _enough(chats: list[list[dict[str, str]]]) -> list[list[dict[str, str]]]:
    if chats and not LEAST_TRANSCRIPTS <= len(chats) <= MOST_TRANSCRIPTS:
        raise ValueError(
            f"there are {len(chats)} transcripts; pass {LEAST_TRANSCRIPTS} to {MOST_TRANSCRIPTS} of what went wrong"
        )
    for number, chat in enumerate(chats, 1):
        if [message.get("role") for message in chat[-2:]] != ["user", "assistant"] or not chat[-1].get(
            "content", ""
        ).strip():
            raise ValueError(
                f"transcript {number} does not end with a user's turn and the assistant's answer to it; "
                "cut it behind the answer that went wrong"
            )
    return chats


Transcripts = Annotated[list[list[dict[str, str]]], AfterValidator(_enough)]
"""Chats that end with an answer, none or so many as can be compared."""
