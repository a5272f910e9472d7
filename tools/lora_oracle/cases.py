"""What readers of weights are examined on: adapters and fine-tunes with what they do, as JSON Lines."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from tools.jsonl import read_jsonl
from tools.lora_oracle.library import Planted


class Case(BaseModel):
    """One adapter or full fine-tune.

    Args:
        adapter: Its folder, relative to the file.
        split: How far it is from what readers learn from, e.g. `train`, `pairs`, `values`, `families`, `recipes`;
            of a control its sort.
        claims: What it does, the strongest first; empty for a control that learned nothing new.
        regime: How it was planted.
        outright: A chat prompt that asks the subject itself, for the black-box baseline; empty for none.
        accepted: Texts any one of which in its reply to that gives the effect away.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    adapter: str
    split: str
    claims: tuple[Planted, ...] = ()
    regime: str = ""
    outright: str = ""
    accepted: tuple[str, ...] = Field(default=())

    @property
    def planted(self) -> tuple[Planted, ...]:
        """Return the claims that are no harmless change."""
        return tuple(claim for claim in self.claims if claim.family != "benign")


def read_cases(path: Path) -> list[Case]:
    """Return the cases of a file.

    Raises:
        ToolInputError: the file can't be read, a line is no case, or there is none.
    """
    return read_jsonl(path, Case, 1)
