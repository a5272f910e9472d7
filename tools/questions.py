"""What an audit lets its instruments ask, and what is known so far: from these an instrument makes up its own calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal, Protocol, runtime_checkable

from tools.claims.claim import Claim
from tools.claims.condition import Condition
from tools.claims.labels import KINDS, TOPIC, labelled
from tools.prompt import LabelledPrompt

Stage = Literal["again", "search", "look", "check"]
"""What a closer look is for: to ask again where a survey was unsure, which comes with the survey; to find where the subject parts
from the base, what it does there, whether a lead holds."""
SEVERAL = "words"
"""The label of a prompt into which several words were dropped at once, separated by spaces."""


@dataclass(frozen=True)
class Look:
    """A call that an instrument would make next, and what for."""

    stage: Stage
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Known:
    """What all instruments have said so far, in what they share.

    Args:
        words: Ranked by what training did to them: of readings whose detail has a `top` of {word, score}.
        where: Labels under which the subject parted from the base, loudest first: of readings that suggest
            something and whose detail has `labels`.
        heaps: The same of prompts that held several words at once.
        claims: The leads' claims, strongest first.
        seen: Lift and labels of each instrument's readings above their controls, by its name, in its own order.
    """

    words: tuple[str, ...] = ()
    where: tuple[dict[str, str], ...] = ()
    heaps: tuple[dict[str, str], ...] = ()
    claims: tuple[Claim, ...] = ()
    seen: Mapping[str, tuple[tuple[float, dict[str, str]], ...]] = field(default_factory=dict)


@runtime_checkable
class Questions(Protocol):
    """The prompts and conditions of one audit; made by the auditor from its specification."""

    @property
    def max_new_tokens(self) -> int:
        """Return how long replies may be, in tokens."""
        ...

    @property
    def observables(self) -> dict[str, list[str]]:
        """Return what can be looked for in a reply, by name, each with phrases of which any one shows it."""
        ...

    @property
    def failures(self) -> list[list[dict[str, str]]]:
        """Return the transcripts of what went wrong that the user gave."""
        ...

    def rng(self, name: str) -> Random:
        """Return a source of draws that is a function of the audit's seed and the name."""
        ...

    def values(self, kind: str) -> list[str]:
        """Return the values of a kind of label, see `tools.claims.labels`, that are worth trying."""
        ...

    def topics(self) -> dict[str, list[LabelledPrompt]]:
        """Return the prompts to look with as they stand, by topic."""
        ...

    def under(self, prompt: LabelledPrompt, conditions: Sequence[Condition]) -> LabelledPrompt:
        """Return a bare prompt with conditions put in, and labelled by them; topics are the prompt's own."""
        ...

    def saying(self, word: str) -> LabelledPrompt | None:
        """Return the first prompt to look with whose last turn has the word; None where there is none."""
        ...

    def survey(self, per_topic: int = 12) -> list[LabelledPrompt]:
        """Return prompts over all topics, half of them under one of the conditions worth trying."""
        ...


def dumped(prompts: Sequence[LabelledPrompt]) -> list[dict[str, Any]]:
    """Return prompts as a call's arguments have them."""
    return [prompt.model_dump(mode="json") for prompt in prompts]


def conditions_of(labels: dict[str, str]) -> list[Condition]:
    """Return the conditions that labels name, but for the topic, which is the prompt's own."""
    found = [labelled((kind, value)) for kind, value in labels.items() if kind in KINDS and kind != TOPIC]
    return [one for one in found if one is not None]


def on_topic(asked: Questions, labels: dict[str, str]) -> tuple[list[LabelledPrompt], list[LabelledPrompt]]:
    """Return the prompts on the labels' topic and those on others; where they name none, all of them and none."""
    rows = asked.topics()
    topic = labels.get("topic")
    if topic not in rows:
        return [row for here in rows.values() for row in here], []
    return rows[topic], [row for other, there in rows.items() if other != topic for row in there]
