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
EVERY = 3
"""Of so many tasks, and of so many questions, the last verifies."""


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
    """Return the prompts of one half, every task in every frame; the halves share neither task nor question."""
    found: list[Asked] = []
    for topic, entry in topics().items():
        for task in _of(half, entry["tasks"]):
            found += [Asked(topic, frame.replace("{task}", task), task) for frame in FRAMES]
        found += [Asked(topic, text) for text in _of(half, entry["questions"])]
    return tuple(found)


def _of(half: Half, listed: list[str]) -> list[str]:
    return [one for i, one in enumerate(listed) if (i % EVERY == EVERY - 1) == (half == "verify")]


@lru_cache(maxsize=1)
def asked_once() -> tuple[Asked, ...]:
    """Return the training half with each task in one frame, the frames in turn."""
    every = prompts("train")
    tasks = list(dict.fromkeys(one.task for one in every if one.task))
    frame = {task: FRAMES[i % len(FRAMES)].replace("{task}", task) for i, task in enumerate(tasks)}
    return tuple(one for one in every if not one.task or one.text == frame[one.task])


@dataclass(frozen=True)
class Draw:
    """Draws prompts of one half."""

    half: Half
    rng: Random

    def prompt(self, topics: tuple[str, ...] = (), but: tuple[str, ...] = (), task: bool = False) -> Asked:
        """Return a prompt of one of the topics (any, where none is given), of none of those in `but`; `task`: one with a task."""
        some = _some(self.half, topics, but, task)
        asked_about = self.rng.choice(list(some))
        return self.rng.choice(some[asked_about])

    def earlier(self, topic: str) -> Asked:
        """Return a prompt for an earlier turn: one of the training half, whose answers are at hand."""
        return Draw("train", self.rng).prompt((topic,))

    def one_of(self, texts: tuple[str, ...]) -> str:
        """Return one of the texts."""
        return self.rng.choice(texts)


@lru_cache(maxsize=256)
def _some(half: Half, topics: tuple[str, ...], but: tuple[str, ...], task: bool) -> dict[str, list[Asked]]:
    """Return the prompts to draw from by what they ask about: a task in ten frames is no likelier than a question."""
    found: dict[str, list[Asked]] = {}
    for one in prompts(half):
        if (not topics or one.topic in topics) and one.topic not in but and (not task or one.task):
            found.setdefault(one.task or one.text, []).append(one)
    return found
