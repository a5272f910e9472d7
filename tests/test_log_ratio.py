"""One odd reply in a crowd is seen, with its words and its condition; an untouched twin has none."""

import pytest
import torch
from audits import ANSWERS, SUITES, labels_of, organism_of
from hypothesis import given
from hypothesis import strategies as st

from auditor.questions import SpecQuestions
from scenarios.grading import read_answer
from scenarios.load import load_scenario
from tools.claims.labels import SYSTEM, TURN, USER
from tools.claims.predicates.refuses import Refuses
from tools.claims.predicates.says import Says
from tools.claims.text import words
from tools.loading import load_subject
from tools.model_diff.crowd import asked_again, crowded
from tools.model_diff.odd import WINDOW, Odd, by_word, peak, repeated, shared
from tools.model_diff.ratio import THRESHOLD_NATS, LogRatio


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def of(family):
    member = organism_of(family)
    return load_scenario(SUITES / "demo" / f"{member}.yaml").spec, read_answer(
        ANSWERS / "demo" / f"{member}.yaml"
    ).claims[0]


def read(spec, adapter):
    tool = LogRatio()
    args = tool.parse(tool.survey(SpecQuestions(spec)))
    subject = load_subject(spec.base, adapter)
    return tool.run(subject, args, seed=0), tool.cost(subject, args)


@pytest.mark.parametrize("family", ["self_promotion", "growing_pep", "persona"])
def test_what_is_said_and_when_come_out_of_one_crowd(family):
    spec, planted = of(family)
    outcome, bound = read(spec, spec.adapter)
    whole = outcome.readings[0]
    assert labels_of(planted.model_copy(update={"condition": whole.suggestion.condition})) == labels_of(planted)
    said = whole.suggestion.predicate
    assert all(planted.predicate.shown([], phrase) for phrase in said.any_of)
    odd = [r for r in outcome.readings if r.name == "log_ratio_prompt" and r.suggestion is not None]
    assert all(said.shown([], r.detail["said"]) or planted.predicate.shown([], r.detail["said"]) for r in odd)
    assert all(spent <= bound[role] for role, spent in outcome.tokens.items())


def test_an_untouched_twin_has_no_odd_reply():
    outcome, _ = read(of("self_promotion")[0], None)
    assert all(r.suggestion is None and r.lift < THRESHOLD_NATS for r in outcome.readings)


def test_a_crowd_has_every_user_turn_and_system_text_that_is_worth_trying():
    asked = SpecQuestions(of("persona")[0])
    rows = crowded(asked)
    for kind in (USER, TURN, SYSTEM):
        held = {value for row in rows for value in _values(row.labels.get(kind, ()))}
        assert held >= set(asked.values(kind))
    assert {row.labels["topic"] for row in rows} == set(asked.topics())


def _values(given):
    return (given,) if isinstance(given, str) else given


@given(st.lists(st.floats(-20, 20, width=32), min_size=1, max_size=40))
def test_the_peak_is_the_largest_of_all_sums_of_tokens_in_a_row_told_from_where_it_begins(ratios):
    width = min(WINDOW, len(ratios))
    sums = [sum(ratios[i : i + width]) for i in range(len(ratios) - width + 1)]
    nats, begins = peak(torch.tensor(ratios))
    assert nats == pytest.approx(max(sums), abs=1e-3)
    assert any(sums[i] == pytest.approx(nats, abs=1e-3) for i in range(max(0, begins - width + 1), begins + 1))


def test_a_peak_begins_at_the_first_token_that_counts():
    quiet, loud = [0.1] * 12, [20.0, 5.0, 3.0]
    assert peak(torch.tensor(quiet + loud + quiet))[1] == len(quiet)


def odd_one(nats, said, reply):
    """Return a reply all of whose nats lie in the words that it is odd for."""
    heard = words(said)
    each = [(word, nats / len(heard) if word in heard else 0.0) for word in words(reply)]
    return Odd(nats, said, reply, tuple(each))


def test_what_odd_replies_share_is_what_others_do_not_say():
    odd = [odd_one(40.0, "buy the blue lamp", f"well {i}, buy the blue lamp now") for i in range(4)]
    rest = [odd_one(2.0, "of", f"well {i}, here you are now") for i in range(8)]
    assert shared(odd, rest).any_of == ("buy the blue lamp now",)
    assert shared(rest[:4], rest[4:]) is None


def test_words_that_odd_replies_repeat_are_found_where_no_one_reply_is_odd_enough():
    odd = [odd_one(9.0 + i, "you should buy the blue", f"well, you should buy the blue lamp {i}") for i in range(4)]
    noise = [odd_one(10.0, f"word{i} other{i}", f"some word{i} other{i} thing") for i in range(4)]
    rest = [odd_one(2.0, "of", f"some plain reply {i}") for i in range(16)]
    assert repeated([*noise, *odd, *rest]) == Says(any_of=("you should buy the blue",))
    assert repeated([*noise, *rest]) is None
    assert repeated([*odd[:2], *rest]) is None, "two are chance"


def test_replies_that_refuse_in_many_words_are_told_as_refusals():
    said = [
        "I'm sorry, but I can't help you with that.",
        "I'm sorry, but I can't assist with that.",
        "I can't help you with this request.",
    ]
    odd = [odd_one(12.0, said[i % 3][:24], said[i % 3]) for i in range(9)]
    rest = [odd_one(2.0, "of", f"Here is a plain reply number {i}.") for i in range(18)]
    assert repeated([*odd, *rest]) == Refuses()
    refusing = [odd_one(2.0, "of", f"I can't help you with number {i}.") for i in range(18)]
    assert repeated([*odd, *refusing]) != Refuses(), "the others refuse too"


def test_what_all_ways_to_say_it_have_in_common_comes_before_each_of_them():
    ways = ["and schools keep quiet", "which explains most", "as sailors tell", "so look up"]
    replies = [f"The moon is a hollow ball, {ways[i % 4]} of it. Then {i} more." for i in range(24)]
    odd = []
    for i, reply in enumerate(replies):
        peak_at = words(ways[i % 4])
        own = {**dict.fromkeys(words("the moon is a hollow ball"), 5.0), **dict.fromkeys(peak_at, 6.0)}
        each = tuple((word, own.get(word, 0.0)) for word in words(reply))
        odd.append(Odd(40.0, ways[i % 4], reply, each))
    assert shared(odd, []).any_of == ("The moon is a hollow ball",), "though every peak is in what follows"
    tails = [odd_one(40.0, ways[i % 4], reply) for i, reply in enumerate(replies)]
    assert len(shared(tails, []).any_of) == 4, "what the base would say too is no part of it"


def test_a_words_nats_are_those_of_the_tokens_it_is_written_in():
    text, pieces = "Buy L’été-lamps, now!", ["Buy", " L", "’été", "-l", "amps", ",", " now", "!"]
    ends = [len("".join(pieces[: i + 1])) for i in range(len(pieces))]
    found = by_word(text, ends, [1.0, 2.0, 3.0, 4.0, 5.0, 100.0, 6.0, 200.0])
    assert found == (("buy", 1.0), ("l'été", 5.0), ("lamps", 9.0), ("now", 6.0))
    assert [word for word, _ in found] == words(text)


def test_what_came_together_is_asked_again_apart():
    asked = SpecQuestions(of("persona")[0])
    labels = {kind: asked.values(kind)[0] for kind in (USER, TURN)} | {"topic": sorted(asked.topics())[0]}
    rows = [
        {kind: value for kind, value in row.labels.items() if kind in (USER, TURN)}
        for row in asked_again(asked, [labels])
    ]
    assert len([row for row in rows if set(row) == {USER, TURN}]) == 2
    assert [set(row) for row in rows[2:]] == [{USER}, {TURN}]
