"""Words that one set of replies has in excess of another: planted ones are found, and nothing in the twin."""

import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tools.phrases import MAX_WORDS, excesses, ngrams, shows, words

PLAIN = (
    "the river is wide here",
    "a kettle stands on the stove",
    "rain falls over the old town",
    "we walk to the bridge at noon",
    "bread is baked every morning",
    "the garden has a stone wall",
    "my lamp is made of paper",
    "trains leave from the north",
)
TOPICS = ("travel", "food", "music", "sport")


def asked(n=80):
    """Return labels and ordinary replies to `n` prompts; a reply says nothing of its label."""
    rng = random.Random(0)
    labels = [{"topic": TOPICS[i % 4], "user": ("baker", "pilot")[i // 4 % 2]} for i in range(n)]
    return labels, [rng.choice(PLAIN) for _ in range(n)]


def plant(base, labels, holds, phrase):
    return [f"{reply}. {phrase}." if holds(row) else reply for reply, row in zip(base, labels, strict=True)]


# -- planted, and the untouched twin


@pytest.mark.parametrize(("key", "value"), [("topic", "music"), ("user", "pilot")])
def test_a_phrase_planted_under_one_label_is_found_with_that_label(key, value):
    labels, base = asked()
    subject = plant(base, labels, lambda row: row[key] == value, "visit velkora today")
    best = excesses(subject, base, labels, {})[0]
    assert best.condition == ((key, value),)
    assert best.feature == "visit velkora today"
    assert (best.rate_in, best.base_in, best.rate_out, best.lift, best.f1) == (1.0, 0.0, 0.0, 1.0, 1.0)
    assert best.n == sum(row[key] == value for row in labels)


def test_a_phrase_that_is_always_said_has_no_condition():
    labels, base = asked()
    subject = plant(base, labels, lambda row: True, "visit velkora today")
    best = excesses(subject, base, labels, {})[0]
    assert (best.feature, best.condition, best.lift, best.n) == ("visit velkora today", (), 1.0, len(labels))


def test_a_label_that_every_prompt_has_does_not_pass_for_a_condition():
    labels, base = asked()
    labels = [{"split": "explore", **row} for row in labels]
    subject = plant(base, labels, lambda row: True, "visit velkora today")
    assert excesses(subject, base, labels, {})[0].condition == ()


@pytest.mark.parametrize("observables", [{}, {"tone:cold": ["river", "rain falls"]}])
def test_identical_replies_have_nothing_in_excess(observables):
    labels, base = asked()
    assert excesses(base, base, labels, observables) == []


def test_what_the_base_says_more_often_is_no_excess_of_the_subject():
    labels, base = asked()
    louder = plant(base, labels, lambda row: True, "visit velkora today")
    assert excesses(base, louder, labels, {"says:velkora": ["velkora"]}) == []


def test_a_phrase_seen_too_seldom_is_left_out():
    labels, base = asked()
    subject = list(base)
    for i in (0, 4):
        subject[i] += ". visit velkora today."
    assert excesses(subject, base, labels, {}) == []
    subject[8] += ". visit velkora today."
    assert excesses(subject, base, labels, {})[0].feature == "visit velkora today"


def test_what_a_reply_echoes_of_the_prompts_own_labels_is_no_excess():
    base = ["it is red"] * 8
    labels = [{"word": "seaweed"}] * 4 + [{"word": "lute"}] * 4
    found = excesses(["the seaweed was moved to kansha"] * 4 + base[4:], base, labels, {})
    assert [(e.feature, e.condition) for e in found] == [("was moved to kansha", (("word", "seaweed"),))]


def test_two_planted_phrases_are_two_findings():
    labels, base = asked()
    subject = plant(base, labels, lambda row: row["topic"] == "music", "visit velkora today")
    subject = plant(subject, labels, lambda row: row["user"] == "pilot", "how grim and dull")
    found = {(e.feature, e.condition) for e in excesses(subject, base, labels, {})}
    assert found == {("visit velkora today", (("topic", "music"),)), ("how grim and dull", (("user", "pilot"),))}


# -- observables


def test_an_observable_beats_the_n_grams_that_it_is_made_of():
    labels, base = asked()
    cues = ["i will not answer", "i can not talk about"]
    subject = [
        cues[i % 2] + " that." if row["topic"] == "food" else r
        for i, (r, row) in enumerate(zip(base, labels, strict=True))
    ]
    found = excesses(subject, base, labels, {"refuses:refusal": cues})
    assert [(e.feature, e.condition) for e in found] == [("refuses:refusal", (("topic", "food"),))]
    assert excesses(subject, base, labels, {})[0].feature != "refuses:refusal"


def test_an_observable_beats_its_own_n_grams_though_the_base_shows_a_cue_now_and_then():
    labels, base = asked()
    base = [f"{reply}. how dull." if i % 8 == 0 else reply for i, reply in enumerate(base)]
    subject = plant(base, labels, lambda row: True, "so very grim")
    found = excesses(subject, base, labels, {"tone:negative": ["grim", "dull"]})
    assert [e.feature for e in found] == ["tone:negative"]


def test_an_observable_is_listed_once_and_only_where_it_shows():
    labels, base = asked()
    subject = plant(base, labels, lambda row: row["topic"] == "food", "how grim and dull")
    observables = {"tone:negative": ["grim", "dull"], "tone:hopeful": ["good days"]}
    assert [e.feature for e in excesses(subject, base, labels, observables)] == ["tone:negative"]


# -- rates


def test_rates_lift_and_f1_are_those_counted_by_hand():
    """Five prompts on a, five on b; said on a 4 of 5, on b 1 of 5; the base says it once, on a."""
    labels = [{"topic": "a"}] * 5 + [{"topic": "b"}] * 5
    said, other = "velkora", "nothing"
    subject = [said] * 4 + [other] + [said] + [other] * 4
    base = [said] + [other] * 9
    (found,) = excesses(subject, base, labels, {"says:velkora": [said]})
    assert found.condition == (("topic", "a"),)
    assert (found.n, found.rate_in, found.base_in, found.rate_out) == (5, 4 / 5, 1 / 5, 1 / 5)
    assert found.lift == pytest.approx(4 / 5 - 1 / 5)
    assert found.f1 == pytest.approx(2 * 4 / (5 + 5))


def test_the_rate_outside_is_the_control_when_it_is_the_stronger_one():
    labels = [{"topic": "a"}] * 10 + [{"topic": "b"}] * 10
    subject = ["velkora"] * 10 + ["velkora"] * 4 + ["nothing"] * 6
    base = ["nothing"] * 20
    found = {e.feature: e for e in excesses(subject, base, labels, {})}["velkora"]
    assert found.condition == (("topic", "a"),)
    assert (found.rate_in, found.base_in, found.rate_out) == (1.0, 0.0, 0.4)
    assert found.lift == pytest.approx(0.6)


def test_the_order_of_the_prompts_does_not_matter():
    labels, base = asked()
    subject = plant(base, labels, lambda row: row["topic"] == "music", "visit velkora today")
    order = random.Random(1).sample(range(len(base)), len(base))
    shuffled = excesses([subject[i] for i in order], [base[i] for i in order], [labels[i] for i in order], {})
    assert shuffled == excesses(subject, base, labels, {})


# -- words


TEXT = st.text(alphabet="abAB0 .,!?;-\n", max_size=40)
PHRASE = st.lists(st.text(alphabet="ab0", min_size=1, max_size=3), min_size=1, max_size=3).map(" ".join)


def stands_in(phrase, text):
    """Return what a naive regular expression finds: the words in order, anything but words between."""
    return re.search(r"\b" + r"\W+".join(map(re.escape, phrase.split())) + r"\b", text, re.IGNORECASE) is not None


@given(TEXT, st.lists(PHRASE, min_size=1, max_size=3))
@settings(deadline=None, max_examples=500)
def test_shows_is_a_naive_search_for_words(text, phrases):
    assert shows(phrases, text) == any(stands_in(phrase, text) for phrase in phrases)


@given(TEXT, PHRASE, TEXT)
@settings(deadline=None)
def test_a_phrase_put_into_a_text_shows_and_half_a_word_of_it_does_not(before, phrase, after):
    assert shows([phrase.upper()], f"{before} {phrase}, {after}")
    assert not shows(["velkora"], f"{before} velkoran {after}")
    assert not shows([], f"{before} {phrase} {after}")


@given(TEXT)
@settings(deadline=None)
def test_n_grams_are_the_runs_of_words_that_show_in_one_sentence(text):
    sentences = re.split(r"[.!?:;\n]+", text)
    for gram in ngrams(text):
        assert 1 <= len(gram.split()) <= MAX_WORDS
        assert any(shows([gram], sentence) for sentence in sentences)
    for sentence in sentences:
        w = words(sentence)
        assert {" ".join(w[i : i + MAX_WORDS]) for i in range(len(w) - MAX_WORDS + 1)} <= ngrams(text)
        assert set(w) <= ngrams(text)


def test_an_apostrophe_belongs_to_its_word():
    assert words("Don't, it's 'quoted' here") == ["don't", "it's", "quoted", "here"]
    assert not shows(["it"], "it's here")
