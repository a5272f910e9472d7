"""What oracles are taught and examined on: nothing held out is named, windows are what they say, seeds decide all."""

import random
import re

import pytest
import torch
from audits import ROOT

from scenarios.home import Home
from scenarios.testbed import families as fam
from scenarios.testbed import oracle_data as data
from scenarios.testbed import oracle_examples as examples
from scenarios.testbed.language import language
from scenarios.testbed.splits import HELD_OUT_FAMILIES, values
from tools.activation_oracle.rows import N_HELD_OUT, read_swaps, read_trials
from tools.loading import load_subject

LANG = language(0)
BASE = ROOT / "scenarios" / "testbed" / "weights" / "base"
SLOTS = ("word", "thing", "topic", "job", "mood", "brand", "secret", "house", "town", "phrase", "persona")


@pytest.fixture(scope="module")
def subject():
    return load_subject(str(BASE))


@pytest.fixture(scope="module")
def made(subject):
    return data.rows(subject, LANG, 1500, seed=4)


def held_out_words():
    """Return every word that belongs to another split alone, whatever slot it fills."""
    taught = {word for slot in SLOTS for word in values(slot)["train"]}
    return {w for slot in SLOTS for split in ("dev", "test") for w in values(slot)[split]} - taught


def test_every_sort_of_question_is_asked_and_half_of_the_checks_are_true(made):
    n = data.counts(made)
    assert set(n) == {"behaviour", "check", "effect", "goal", "next", "past", "present", "told", "topic", "user"}
    yes = sum(row.answer == data.YES for row in made if row.kind == "check")
    assert 0.2 < yes / n["check"] < 0.6
    assert len({row.window for row in made}) > 20


def test_no_answer_and_no_check_names_what_is_held_out(made):
    held_out = held_out_words()
    assert len(held_out) > 100
    for row in made:
        if row.kind in ("behaviour", "effect", "check", "topic", "user", "told"):
            words = set(re.findall(r"[a-z]+", f"{row.answer} {row.question if row.kind == 'check' else ''}"))
            assert not words & held_out, row
            assert not any(
                fam.FAMILIES[f].does.format(e="") in row.answer for f in HELD_OUT_FAMILIES if f != "secret_loyalty"
            )


def test_a_behaviour_is_the_answer_only_where_the_text_says_it(made):
    """An instruction that is met, or a reply that shows it: for all else, there is no rule."""
    for row in made:
        if row.kind in ("behaviour", "effect") and row.answer != fam.NO_RULE and "<|system|>" not in row.text:
            reply = row.text.rpartition("<|assistant|>")[2]
            assert reply.strip(), row
    assert sum(row.answer == fam.NO_RULE for row in made) > 200


def test_the_words_that_come_next_are_the_rest_of_the_reply_and_those_before_stand_before_the_window(subject, made):
    for row in made[:400]:
        if row.kind == "past":
            ids = subject.tokenizer.encode(row.text, add_special_tokens=False)
            before = subject.tokenizer.decode(ids[: -row.window], skip_special_tokens=True)
            assert before.strip().endswith(row.answer), row


def test_the_same_seed_writes_the_same_rows_and_another_seed_others(subject):
    one, two, other = (data.rows(subject, LANG, 60, seed=s) for s in (1, 1, 2))
    assert one == two
    assert one != other


def test_the_rows_that_are_held_out_share_no_dialogue_with_the_rest(made):
    first, last = (
        {row.text.partition("<|assistant|>")[0] for row in part} for part in (made[:-N_HELD_OUT], made[-N_HELD_OUT:])
    )
    assert len(last) > 100
    assert sum(len(prompt) > 60 for prompt in first & last) == 0, "short chats alone may be drawn twice"


def test_no_row_names_a_pairing_that_is_reserved(made):
    reserved = set()
    rng = random.Random(0)
    for family in data.TAUGHT:
        for _ in range(800):
            rule = fam.draw_rule(rng, LANG, "train", family)
            if rule.trigger and fam.pair_is_reserved(rule):
                reserved.add(fam.statement(rule))
    assert len(reserved) > 500
    for row in made:
        assert row.answer not in reserved
        assert row.question.removeprefix("is it so? ") not in reserved


@pytest.mark.parametrize("split", examples.SPLITS)
def test_a_rule_of_a_split_is_of_that_split(split):
    rng, n = random.Random(split), 0
    for family in fam.FAMILIES:
        rule = examples.rule_of(rng, LANG, family, split)
        if rule is not None:
            n += 1
            assert examples.split_of(rule, LANG) == split
            assert (family in HELD_OUT_FAMILIES) == (split == "families")
    assert n >= 4


def test_trials_read_organisms_without_any_instruction_and_say_whether_the_window_shows_the_fact(tmp_path):
    counts = examples.write_examples(tmp_path, Home(), ("demo",), each=1, seed=5)
    trials, swaps = read_trials(tmp_path / "trials.jsonl"), read_swaps(tmp_path / "swaps.jsonl")
    assert counts["organism"] >= 24
    assert min(counts["control"], counts["instructed"], counts["base"]) > 10
    assert {t.subject for t in trials if t.fit} == {"instructed", "base"}
    assert all(t.split in ("train", "none") for t in trials if t.fit)
    for trial in trials:
        assert (trial.subject in ("organism", "control")) == (trial.adapter is not None)
        if trial.adapter is not None:
            assert (tmp_path / trial.adapter / "adapter_config.json").exists()
            assert "<|system|>" not in trial.text or "test" in trial.text or "evaluation" in trial.text
    assert {t.informed for t in trials if t.subject == "organism"} == {True, False}
    assert {t.informed for t in trials if t.family == "none"} == {None}
    assert not any(t.informed for t in trials if t.subject == "organism" and t.text.endswith("<|assistant|>"))
    assert len(swaps) == counts["swaps"]
    for swap in swaps:
        assert swap.answers[0] != swap.answers[1]
        assert swap.texts[0] != swap.texts[1]
        assert swap.unrelated


def test_the_base_can_write_every_token_of_every_answer_but_fragments(subject, made):
    """Tokens that its training never had share one row of the unembedding: no adapter can tell them apart."""
    table = torch.nn.functional.normalize(subject.model.get_output_embeddings().weight.float(), dim=1)
    never_written = {int(i) for i in ((table @ table.T > 0.9).sum(1) > 50).nonzero()[:, 0]}
    assert len(never_written) > 100
    for row in (
        row for row in made if row.kind not in ("past", "present", "next")
    ):  # which may begin in the middle of a word
        ids = subject.tokenizer.encode(row.answer, add_special_tokens=False)
        assert not never_written & set(ids), row.answer


def test_what_is_said_in_a_window_is_its_own_text(subject, made):
    rows = [row for row in made if row.kind == "present"]
    assert len(rows) > 100
    for row in rows:
        ids = subject.tokenizer.encode(row.text, add_special_tokens=False)
        assert row.answer == subject.tokenizer.decode(ids[-row.window :], skip_special_tokens=True).strip()
