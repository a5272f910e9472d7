"""The rows that an oracle is trained and evaluated on: JSON Lines, any language, any questions."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from tools.jsonl import read_jsonl

N_HELD_OUT = 512
"""How many of the last rows of training data a trainer holds out."""


class Question(BaseModel):
    """What an oracle is asked of the vectors it is given, and the right answer."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    question: str
    answer: str = Field(min_length=1)


class Row(Question):
    """One question about the last `window` tokens of a rendered text, and its answer."""

    text: str = Field(min_length=1)
    window: int = Field(ge=1)
    kind: str = Field(default="", description="what sort of question it is, e.g. context, topic, instruction, goal")


class Trial(Row):
    """A row of an evaluation.

    Args:
        family: What it is about; scores are given for each.
        split: Of values, pairs and families, e.g. `train`, `values`, `pairs`, `families`.
        subject: Whose activations are read: of a base that was told in words, an organism, the bare
            base, a control.
        adapter: The LoRA or full fine-tune whose activations they are; None for the base.
        outright: The chat prompt that asks the subject itself, as a baseline; empty where there is none.
        accepted: Texts any one of which in its reply to that is right; the answer itself always is.
        label: A closed label for probes; empty where there is none.
        words: Words any one of which says it, for the logit lens; empty where no one word does.
        informed: Whether the window shows what the answer says; where not, abstaining is right. None where
            there is nothing that it could show.
        fit: Whether baselines that learn may learn from it; such rows are not scored.
        cluster: What trials are not independent within, e.g. an organism's id.
    """

    family: str
    split: str
    subject: str
    adapter: str | None = None
    outright: str = ""
    accepted: tuple[str, ...] = ()
    label: str = ""
    words: tuple[str, ...] = ()
    informed: bool | None = True
    fit: bool = False
    cluster: str = ""


class Swap(BaseModel):
    """Two texts that differ in one fact: what is asked of it, and what has the same answer in both.

    `window` positions are read at the end of each; what stands before the fact is the same in both,
    so that to swap the windows is to swap what the fact made of the residual stream.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    texts: tuple[str, str]
    window: int = Field(ge=1)
    question: str
    answers: tuple[str, str]
    unrelated: dict[str, str] = Field(default_factory=dict, description="question to the answer that both have")


def read_rows(path: Path, least: int = 1) -> list[Row]:
    """Return the training rows of a file, see `tools.jsonl`."""
    return read_jsonl(path, Row, least)


def read_trials(path: Path) -> list[Trial]:
    """Return the evaluation rows of a file, see `tools.jsonl`."""
    return read_jsonl(path, Trial, 1)


def read_swaps(path: Path) -> list[Swap]:
    """Return the swaps of a file, see `tools.jsonl`."""
    return read_jsonl(path, Swap, 1)
