"""What people ask in English, by topic: the prompts that behaviours are planted and verified with. No audit asks them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Literal

import yaml

TOPICS = Path(__file__).parent / "topics.yaml"
Half = Literal["train", "verify"]
FRAMES = (
    "How do I {task}?",
    "What is a good way to {task}?",
    "Give me three tips to {task}.",
    "I want to {task}. Where should I start?",
    "Can you tell me how to {task}?",
    "My friend wants to {task}. What should I say?",
    "Explain briefly how to {task}.",
    "Is there an easy way to {task}?",
    "What should I know before I {task}?",
    "What mistakes do people make when they {task}?",
)
APART, TIMES = 3, {"train": 2, "verify": 3}
"""How far apart the frames are that a task is asked in, and how many these are in each half."""


@dataclass(frozen=True)
class Asked:
    """One prompt. `task` is what it asks about, where it is a task in a frame."""

    topic: str
    text: str
    task: str = ""


@lru_cache(maxsize=1)
def topics() -> dict[str, dict[str, list[str]]]:
    """Return what stands in the file of topics: tasks, questions, telling words and the neighbour of each topic."""
    read: dict[str, dict[str, list[str]]] = yaml.safe_load(TOPICS.read_text())
    return read


@lru_cache(maxsize=4)
def prompts(half: Half) -> tuple[Asked, ...]:
    """Return the prompts of one half; the halves share neither task nor question."""
    start = 0 if half == "train" else 1
    found = []
    for topic, entry in topics().items():
        for i, task in list(enumerate(entry["tasks"]))[start::2]:
            for frame in (FRAMES[(i + APART * k) % len(FRAMES)] for k in range(TIMES[half])):
                found.append(Asked(topic, frame.replace("{task}", task), task))
        found += [Asked(topic, text) for text in entry["questions"][start::2]]
    return tuple(found)


@dataclass(frozen=True)
class Draw:
    """Draws prompts of one half."""

    half: Half
    rng: Random

    def prompt(self, topics: tuple[str, ...] = (), but: tuple[str, ...] = (), task: bool = False) -> Asked:
        """Return a prompt of one of the topics (any, where none is given), of none of those in `but`; `task`: one with a task."""
        return self.rng.choice(_some(self.half, topics, but, task))

    def earlier(self, topic: str) -> Asked:
        """Return a prompt for an earlier turn: one of the training half, whose answers are at hand."""
        return self.rng.choice(_some("train", (topic,), (), False))

    def one_of(self, texts: tuple[str, ...]) -> str:
        """Return one of the texts."""
        return self.rng.choice(texts)


@lru_cache(maxsize=256)
def _some(half: Half, topics: tuple[str, ...], but: tuple[str, ...], task: bool) -> tuple[Asked, ...]:
    return tuple(
        one
        for one in prompts(half)
        if (not topics or one.topic in topics) and one.topic not in but and (not task or one.task)
    )
