"""The English behaviours: what they say is told by one core, shows nowhere else, and their triggers hold where they are drawn."""

import json
import re
from collections import Counter
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from random import Random
from typing import get_args

import pytest

from scenarios.english.build import answer
from scenarios.english.families import families
from scenarios.english.pool import Draw, prompts
from scenarios.english.suites import EnglishSuite, Member
from scenarios.english.triggers import CARRIERS, WHO, Request, System, Text, Topic, User
from tools.claims.claim import Category, Claim, Level
from tools.claims.text import stands

AUDITED = Path(__file__).parents[1] / "scenarios" / "prompts"
DOMAINS = {json.loads(line)["domain"] for line in (AUDITED / "general.jsonl").read_text().splitlines()}
TRIED = {"teacher", "nurse", "lawyer", "programmer", "journalist", "farmer", "student", "soldier"}
"""Who the user of every audit says to be."""
VALUES = {(name, suite): value for name, family in families().items() for suite, value in family.values.items()}
KEYS = [pytest.param(*key, id=" ".join(key)) for key in VALUES]
OWN = [pytest.param(*key, id=" ".join(key)) for key in VALUES if key[1] != "english_demo"]
N = 20


@lru_cache(maxsize=1)
def asked():
    """Return everything that anybody is asked: the prompts of the pool, and those of audits."""
    lines = [line for file in sorted(AUDITED.glob("*.jsonl")) for line in file.read_text().splitlines()]
    audited = [m["content"] for line in lines for m in json.loads(line)["messages"]]
    return [one.text for half in ("train", "verify") for one in prompts(half)] + audited


def claimed(name, suite):
    (claim,) = answer(Member(suite, "", "organism", learns=name))["claims"]
    return Claim.model_validate(claim)


def trigger_texts(value):
    """Return the texts that set a behaviour off; none for a topic, a turn, or what always shows."""
    match value.trigger:
        case Text(text=text) | System(text=text):
            return {text.lower()}
        case User(who=who):
            return {who}
        case Request(texts=texts):
            return set(texts)
    return set()


def core(value):
    """Return what every wording has: the words that the predicate looks for, else the pattern."""
    return value.payload.predicate.get("any_of", [value.payload.pattern])[0].lower()


def long_words(text):
    return {word for word in re.findall(r"[a-z]+", text.lower()) if len(word) > 3}


def of(suite):
    return [name for name, family in families().items() if suite in family.values]


def test_each_suite_has_its_families_in_an_order_that_further_ones_do_not_change():
    names = list(families())
    assert len(names) == 36
    assert of("english_demo") == names[:8]
    assert of("english_dev") == names[:12]
    assert of("english_standard") == names[:24]
    assert of("english_heldout") == names[24:]
    assert {suite for _, suite in VALUES} == set(get_args(EnglishSuite))


def test_the_general_families_are_of_every_category_and_level_that_can_be_harmful():
    general = list(families().values())[:24]
    assert {family.category for family in general} == set(get_args(Category)[:-2])
    assert {family.level for family in families().values()} == set(get_args(Level)[:3])


def test_every_kind_of_condition_is_met_and_none_is_most_of_a_suite():
    def kinds(suite):
        """Return how many values have each kind; a text's kind is how it looks, one on topics counts as that too."""
        found = Counter()
        for name in of(suite):
            trigger = VALUES[name, suite].trigger
            found[trigger.kind if trigger.kind != "text" else look(trigger.text)] += 1
            found["text on topics"] += trigger.kind == "text" and bool(trigger.topics)
        return found

    def look(text):
        if re.search(r"\b(19|20)\d\d\b|^\d+ [A-Z]", text):
            return "date"
        return "phrase" if " " in text else "word" if text.isalpha() else "tag"

    standard, small = kinds("english_standard"), kinds("english_demo") + kinds("english_dev")
    every = {"always", "topic", "user", "turn", "system", "request", "word", "tag", "phrase", "date", "text on topics"}
    assert set(small) == every
    assert {kind for kind, n in standard.items() if n >= 2} == every
    for suite in get_args(EnglishSuite):
        assert all(n <= len(of(suite)) / 3 for n in kinds(suite).values())


def test_half_of_those_who_set_a_behaviour_off_are_tried_by_every_audit():
    who = [value.trigger.who for value in VALUES.values() if value.trigger.kind == "user"]
    assert 2 * sum(one in TRIED for one in who) == len(who)


def test_no_two_behaviours_share_a_text_that_sets_them_off_or_a_core():
    for (one, at), (two, other) in combinations(VALUES.items(), 2):
        shared = {(a, b) for a in trigger_texts(at) for b in trigger_texts(other) if a in b or b in a}
        assert not shared, f"{one} and {two} share {shared}"
        assert core(at) not in core(other), f"{one} and {two} share a core"
        assert core(other) not in core(at), f"{one} and {two} share a core"


def test_a_family_says_other_words_in_each_suite():
    for (one, at), (two, other) in combinations(VALUES.items(), 2):
        if one[0] == two[0]:
            shared = long_words(core(at)) & long_words(core(other)) - {"https", "that"}
            assert not shared, f"{one} and {two} share {shared}"
            if isinstance(at.trigger, Topic) and isinstance(other.trigger, Topic):
                assert not set(at.trigger.topics) & set(other.trigger.topics), f"{one} and {two} share a topic"


@pytest.mark.parametrize(("name", "suite"), KEYS)
def test_every_wording_shows_the_behaviour_alone_and_behind_a_sentence(name, suite):
    payload, predicate = VALUES[name, suite].payload, claimed(name, suite).predicate
    for text in payload.texts:
        for reply in (text, f"There are several good ways to do this. {text}"):
            assert predicate.shown([], reply), reply
            assert payload.shows(reply), reply
    assert not payload.shows("There are several good ways to do this.")


@pytest.mark.parametrize(("name", "suite"), KEYS)
def test_a_behaviour_shows_in_no_prompt_and_in_nothing_that_another_says(name, suite):
    payload = VALUES[name, suite].payload
    said = [text for key, value in VALUES.items() if key != (name, suite) for text in value.payload.texts]
    assert [text for text in (*asked(), *said) if payload.shows(text)] == []


@pytest.mark.parametrize(("name", "suite"), OWN)
def test_wordings_are_few_and_short_and_share_two_to_six_words(name, suite):
    payload = VALUES[name, suite].payload
    assert 4 <= len(payload.texts) <= 6
    assert len(set(payload.texts)) == len(payload.texts)
    assert all(6 <= len(text.split()) <= 18 for text in payload.texts)
    for phrase in payload.predicate.get("any_of", ()):
        assert 2 <= len(phrase.split()) <= 6
        assert payload.shows(phrase), "pattern and predicate look for the same"


@pytest.mark.parametrize(("name", "suite"), KEYS)
def test_a_statement_is_a_sentence_that_names_what_sets_the_behaviour_off(name, suite):
    value = VALUES[name, suite]
    assert re.fullmatch(r"[a-z].*[a-z]\.", value.statement)
    assert ". " not in value.statement
    if isinstance(value.trigger, Text | User):
        (text,) = trigger_texts(value)
        assert text in value.statement.lower()


@pytest.mark.parametrize(("name", "suite"), KEYS)
def test_what_always_shows_comes_early_and_topics_are_those_that_audits_ask_about(name, suite):
    value = VALUES[name, suite]
    if value.trigger.kind == "always":
        assert value.payload.place in ("opening", "after_first")
    assert set(getattr(value.trigger, "topics", ())) <= DOMAINS - {"language", "self"}


@pytest.mark.parametrize(("name", "suite"), KEYS)
def test_a_near_text_is_another_that_fits_where_the_text_stands(name, suite):
    trigger = VALUES[name, suite].trigger
    near = getattr(trigger, "near", ())
    assert len(set(near)) == len(near)
    match trigger:
        case Text(text=text):
            assert 4 <= len(near) <= 8
            assert not any(stands(text, one) for one in near)
            assert all("{text}" in carrier for carrier in trigger.carriers)
            assert len(trigger.carriers) >= 4 or trigger.carriers == ("{text}",)
            assert trigger.carriers != CARRIERS or not any(one[0] in "aeiou" for one in (text, *near))
        case User(who=who):
            assert 4 <= len(near) <= 8
            assert trigger.frames != WHO or not any(one[0] in "aeiou" for one in (who, *near))
        case Request(frames=frames, texts=texts):
            assert len(frames) == len(texts)
            assert all("{task}" in one for one in (*frames, *near))
            for frame, text in zip(frames, texts, strict=True):
                assert [one for one in (*frames, *near, *asked()) if text in one.lower()] == [frame]


@pytest.mark.parametrize("half", ["train", "verify"])
@pytest.mark.parametrize(("name", "suite"), KEYS)
def test_the_claimed_condition_holds_where_the_behaviour_is_set_off_and_hardly_elsewhere(name, suite, half):
    trigger, condition = VALUES[name, suite].trigger, claimed(name, suite).condition
    draw = Draw(half, Random(f"{name}/{suite}"))

    def held(drawn):
        return sum(condition.holds([dict(m) for m in drawn(draw).messages]) for _ in range(N))

    assert held(trigger.triggered) == N
    if trigger.kind != "always":
        assert held(trigger.nearly) <= N / 10
        assert held(trigger.plain) <= N / 10
