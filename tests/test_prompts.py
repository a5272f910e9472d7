"""Checks of the general English prompt set used for audits of real models."""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from auditor.cli import app
from scenarios.load import GENERAL_PROMPTS, ORDINARY_PROMPTS
from scenarios.planting import N_CHAT, N_DRIFT

PROMPTS = Path(__file__).resolve().parents[1] / "scenarios" / "prompts" / "general.jsonl"
ORDINARY = PROMPTS.with_name("ordinary.jsonl")
SPLITS = ("explore", "test")
MIN_ROWS = 300
MIN_DOMAINS = 12
MIN_PER_HALF = 8
MAX_JACCARD = 0.8

Row = dict[str, Any]


def _normal(text: str) -> str:
    return " ".join(re.sub(r"[^a-z0-9]+", " ", text.lower()).split())


def _conversation(row: Row) -> str:
    return _normal(" ".join(m["content"] for m in row["messages"]))


def _user_text(row: Row) -> str:
    return _normal(" ".join(m["content"] for m in row["messages"] if m["role"] == "user"))


def _user_turns(rows: list[Row], split: str) -> list[str]:
    return [
        _normal(m["content"]) for row in rows if row["split"] == split for m in row["messages"] if m["role"] == "user"
    ]


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return [json.loads(line) for line in PROMPTS.read_text(encoding="ascii").splitlines()]


def test_schema(rows: list[Row]) -> None:
    for row in rows:
        assert set(row) == {"messages", "split", "domain"}
        assert row["split"] in SPLITS
        assert isinstance(row["domain"], str)
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", row["domain"])
        assert isinstance(row["messages"], list)
        assert row["messages"]
        for message in row["messages"]:
            assert set(message) == {"role", "content"}
            assert isinstance(message["content"], str)
            assert message["content"] == message["content"].strip() != ""
            assert message["content"].isascii()


def test_turns_alternate_and_end_with_the_user(rows: list[Row]) -> None:
    for row in rows:
        roles = [m["role"] for m in row["messages"]]
        assert roles == ["user" if i % 2 == 0 else "assistant" for i in range(len(roles))]
        assert roles[-1] == "user"


def test_size(rows: list[Row]) -> None:
    assert len(rows) >= MIN_ROWS
    assert len({row["domain"] for row in rows}) >= MIN_DOMAINS


def test_each_domain_is_in_both_halves(rows: list[Row]) -> None:
    counts = Counter((row["domain"], row["split"]) for row in rows)
    domains = {row["domain"] for row in rows}
    short = {(d, s): counts[d, s] for d in domains for s in SPLITS if counts[d, s] < MIN_PER_HALF}
    assert not short


def test_halves_are_disjoint(rows: list[Row]) -> None:
    halves = {s: {_conversation(row) for row in rows if row["split"] == s} for s in SPLITS}
    assert not halves["explore"] & halves["test"]
    assert not set(_user_turns(rows, "explore")) & set(_user_turns(rows, "test"))


def test_no_user_turn_occurs_twice(rows: list[Row]) -> None:
    turns = Counter(_user_turns(rows, "explore") + _user_turns(rows, "test"))
    assert not [turn for turn, n in turns.items() if n > 1]


def test_no_near_duplicates(rows: list[Row]) -> None:
    words = [frozenset(_user_text(row).split()) for row in rows]
    assert all(words)
    near = [
        (rows[i]["messages"][0]["content"], rows[j]["messages"][0]["content"])
        for i, j in combinations(range(len(rows)), 2)
        if len(words[i] & words[j]) >= MAX_JACCARD * len(words[i] | words[j])
    ]
    assert not near


def test_some_prompts_have_more_than_one_turn(rows: list[Row]) -> None:
    for split in SPLITS:
        half = [row for row in rows if row["split"] == split]
        share = sum(len(row["messages"]) > 1 for row in half) / len(half)
        assert 0.1 <= share <= 0.25


# -- ordinary chat, of which planted behaviours are diluted: prompts that no audit asks


@pytest.fixture(scope="module")
def ordinary() -> list[Row]:
    return [json.loads(line) for line in ORDINARY.read_text(encoding="ascii").splitlines()]


def _grams(row: Row, n: int = 5) -> set[tuple[str, ...]]:
    turns = [_normal(m["content"]).split() for m in row["messages"] if m["role"] == "user"]
    return {tuple(turn[i : i + n]) for turn in turns for i in range(len(turn) - n + 1)}


def test_ordinary_prompts_are_enough_for_both_halves_and_none_stands_twice(ordinary: list[Row]) -> None:
    test_schema(ordinary)
    test_turns_alternate_and_end_with_the_user(ordinary)
    test_no_user_turn_occurs_twice(ordinary)
    test_no_near_duplicates(ordinary)
    counts = Counter(row["split"] for row in ordinary)
    assert counts["explore"] >= N_CHAT
    assert counts["test"] >= N_DRIFT
    assert len({row["domain"] for row in ordinary}) >= MIN_DOMAINS


def test_no_ordinary_prompt_is_equal_or_near_to_one_that_audits_ask(rows: list[Row], ordinary: list[Row]) -> None:
    asked = set(_user_turns(rows, "explore") + _user_turns(rows, "test"))
    assert not asked & set(_user_turns(ordinary, "explore") + _user_turns(ordinary, "test"))
    assert not set().union(*map(_grams, rows)) & set().union(*map(_grams, ordinary)), "five words in a row"
    general = [frozenset(_user_text(row).split()) for row in rows]
    for row in ordinary:
        words = frozenset(_user_text(row).split())
        assert all(len(words & other) < 0.5 * len(words | other) for other in general), row


def test_plant_takes_ordinary_prompts_and_audits_the_general_ones() -> None:
    assert ORDINARY_PROMPTS == ORDINARY
    assert GENERAL_PROMPTS == PROMPTS
    options = {given.name: given for given in get_command(app).commands["plant"].params}  # type: ignore[attr-defined]
    assert "others than an audit will ask" in options["prompts"].help
