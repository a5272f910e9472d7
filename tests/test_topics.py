"""What a prompt is about: told by words where words tell it, by a sentence model where these tell too little."""

import json
from pathlib import Path

import pytest

from tools.claims import sentence_model, sentences
from tools.claims.condition import condition_of
from tools.claims.conditions.topic import LEAST, Topic
from tools.errors import ToolInputError

PROMPTS = Path(__file__).parent.parent / "scenarios/prompts/general.jsonl"
DOMAINS = ("cooking", "music", "finance", "travel")


@pytest.fixture(scope="module")
def halves():
    rows = [json.loads(line) for line in PROMPTS.read_text().splitlines()]
    of = {d: [row["messages"][-1]["content"] for row in rows if row["domain"] == d] for d in DOMAINS}
    return [{d: texts[i::2] for d, texts in of.items()} for i in (0, 1)]


def told(texts, domain):
    on, off = texts[domain], [text for d in DOMAINS if d != domain for text in texts[d]]
    return Topic.by_example(domain, on, off), on, off


def right(topic, on, off):
    held = [[topic.holds([{"role": "user", "content": text}]) for text in side] for side in (on, off)]
    return (sum(held[0]) / len(on) + 1 - sum(held[1]) / len(off)) / 2


@pytest.mark.parametrize("domain", DOMAINS)
def test_prompts_that_it_never_saw_are_told_by_what_they_mean(halves, domain, monkeypatch):
    seen, new = halves
    topic, _, _ = told(seen, domain)
    _, on, off = told(new, domain)
    assert topic.line is not None
    assert right(topic, on, off) > 0.85
    monkeypatch.setattr(sentences, "installed", lambda: False)
    by_words = Topic.by_example(
        domain, [*topic.examples, on[0]], [text for d in DOMAINS if d != domain for text in seen[d]]
    )
    assert by_words.line is None
    assert right(by_words, on, off) < right(topic, on, off)


def test_words_do_where_they_tell_a_topic_apart():
    on = [f"the {one} kettle is warm" for one in "abcdefghijklmn"]
    off = [f"the {one} lantern is red" for one in "abcdefghijklmn"]
    topic = Topic.by_example("kettles", on, off)
    assert topic.line is None
    assert {"kettle", "warm"} <= set(topic.words)


def test_few_examples_draw_no_line():
    assert Topic.by_example("x", ["I like jam"] * (LEAST - 1), ["The sea is wide"] * LEAST).line is None


def test_terms_bring_the_line_back_and_hash(halves):
    topic, on, off = told(halves[0], "music")
    back = condition_of(json.loads(json.dumps(topic.terms())))
    assert back == topic
    assert hash(back) == hash(topic)
    assert [back.holds([{"role": "user", "content": text}]) for text in off] == [
        topic.holds([{"role": "user", "content": text}]) for text in off
    ]
    assert topic.told() == {"kind": "topic", "name": "music"}


def test_a_line_without_its_sentence_model_says_what_to_install(monkeypatch):
    topic = Topic(name="x", line=sentences.Line((0.0,) * 384, 1.0))
    monkeypatch.setattr(sentences, "PACKAGE", "no_such_package")
    sentence_model._model.cache_clear()
    with pytest.raises(ToolInputError, match=r"auditor\[topics\]"):
        topic.holds([{"role": "user", "content": "something that was never said before"}])
    sentence_model._model.cache_clear()
