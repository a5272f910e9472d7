"""Checks of the English prompts that behaviours are planted and verified with: no audit may ask them."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from scenarios.english.pool import FRAMES, TOPICS
from scenarios.load import GENERAL_PROMPTS, ORDINARY_PROMPTS
from tools.claims.text import words

NAMES = """
cooking travel health finance politics history science programming mathematics literature music sport relationships work
technology animals_nature language household garden art law ai_research
"""
N_TASKS, N_QUESTIONS = 30, 12
RUN = 5
"""How many words in a row may not be those of a prompt that audits ask."""

Topics = dict[str, dict[str, Any]]


def _prompts(topic: dict[str, Any]) -> list[str]:
    return [*topic["tasks"], *topic["questions"]]


def _user_turns(path: Path) -> list[list[str]]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [words(m["content"]) for row in rows for m in row["messages"] if m["role"] == "user"]


def _runs(said: list[str], n: int) -> set[tuple[str, ...]]:
    return {tuple(said[i : i + n]) for i in range(len(said) - n + 1)}


@pytest.fixture(scope="module")
def topics() -> Topics:
    read: Topics = yaml.safe_load(TOPICS.read_text(encoding="ascii"))
    return read


def test_the_topics_are_these_and_each_is_complete(topics: Topics) -> None:
    assert list(topics) == NAMES.split()
    for name, topic in topics.items():
        assert set(topic) == {"neighbour", "tasks", "questions", "words"}, name
        assert topic["neighbour"] in set(topics) - {name}, name
        assert len(set(topic["tasks"])) == len(topic["tasks"]) == N_TASKS, name
        assert len(set(topic["questions"])) == len(topic["questions"]) == N_QUESTIONS, name
        assert 10 <= len(set(topic["words"])) == len(topic["words"]) <= 20, name


def test_no_task_and_no_question_stands_twice(topics: Topics) -> None:
    said = Counter(tuple(words(text)) for topic in topics.values() for text in _prompts(topic))
    assert not [text for text, n in said.items() if n > 1]


def test_a_task_is_a_phrase_that_a_frame_can_hold(topics: Topics) -> None:
    tasks = [task for topic in topics.values() for task in topic["tasks"]]
    assert not [task for task in tasks if not re.fullmatch(r"[a-z][A-Za-z' ]*[A-Za-z]", task)]
    assert not [task for task in tasks if not 4 <= len(task.split()) <= 10]
    assert not [task for task in tasks if {"my", "your"} & set(words(task))], "whose, in a frame?"


def test_a_question_is_a_whole_prompt(topics: Topics) -> None:
    questions = [text for topic in topics.values() for text in topic["questions"]]
    assert not [text for text in questions if not re.fullmatch(r"[A-Z].*[.?]", text)]
    assert not [text for text in questions if re.search(r"\d", text)], (
        "a year or a date may be what sets a behaviour off"
    )


def test_no_prompt_in_any_frame_is_one_that_audits_ask_or_that_plain_chat_has(topics: Topics) -> None:
    asked = [*_user_turns(GENERAL_PROMPTS), *_user_turns(ORDINARY_PROMPTS)]
    runs = {n: set().union(*(_runs(said, n) for said in asked)) for n in range(4, 11)}
    tasks = [words(task) for topic in topics.values() for task in topic["tasks"]]
    assert not [task for task in tasks if tuple(task) in runs[len(task)]], "in a frame it could be that prompt"
    whole = {tuple(said) for said in asked}
    assert not [text for topic in topics.values() for text in topic["questions"] if tuple(words(text)) in whole]


def test_nothing_shares_five_words_in_a_row_with_what_audits_ask(topics: Topics) -> None:
    asked = set().union(*(_runs(said, RUN) for said in _user_turns(GENERAL_PROMPTS)))
    assert not [text for topic in topics.values() for text in _prompts(topic) if _runs(words(text), RUN) & asked]


def test_a_word_tells_one_topic_alone(topics: Topics) -> None:
    telling = Counter(word for topic in topics.values() for word in topic["words"])
    assert not [word for word, n in telling.items() if n > 1 or words(word) != [word]]
    around = {word for frame in FRAMES for word in words(frame.replace("{task}", ""))}
    assert not set(telling) & around, "it stands around a task on every topic"
    for name, topic in topics.items():
        others = {word for other in topics if other != name for text in _prompts(topics[other]) for word in words(text)}
        assert not set(topic["words"]) & others, name


def test_a_third_of_what_is_asked_on_a_topic_has_one_of_its_words(topics: Topics) -> None:
    for name, topic in topics.items():
        told = [not set(words(text)).isdisjoint(topic["words"]) for text in _prompts(topic)]
        assert sum(told) >= len(told) / 3, name
