"""Many conditions at one forward pass each: the planted one stands out, on an untouched twin none does."""

import random
from pathlib import Path

import pytest
import torch
from audits import ANSWERS, SUITES, labels_of, organism_of

from auditor.questions import SpecQuestions
from auditor.view import diverse
from scenarios.grading import read_answer
from scenarios.load import load_scenario
from tools.base import load_tools
from tools.claims.conditions.contains import Contains
from tools.errors import ToolInputError
from tools.loading import load_subject
from tools.model_diff import framing
from tools.questions import SEVERAL


@pytest.fixture(scope="module")
def organism():
    torch.set_num_threads(1)
    member = organism_of("brand_promotion")
    spec = load_scenario(SUITES / "demo" / f"{member}.yaml").spec
    return spec, read_answer(ANSWERS / "demo" / f"{member}.yaml").claims[0]


def small(arguments, keep=()):
    """Return a call's arguments with every tenth condition, and those that are asked for."""
    framed = arguments["framed"]
    chosen = [p for i, p in enumerate(framed) if i % 10 == 0 or all(p["labels"].get(k) == v for k, v in keep)]
    return {**arguments, "framed": chosen}


def run(spec, subject, arguments):
    scan = load_tools(["scan"])["scan"]
    args = scan.parse(arguments)
    return scan.run(subject, args, seed=0), scan.cost(subject, args)


def test_the_planted_condition_is_the_loudest_and_the_cost_was_bounded(organism):
    spec, claim = organism
    subject = load_subject(spec.base, spec.adapter)
    wanted = list(labels_of(claim).items())
    outcome, bound = run(spec, subject, small(framing.conditions(SpecQuestions(spec)), wanted))
    loudest = outcome.readings[0]
    assert all(loudest.detail["labels"][kind] == value for kind, value in wanted)
    assert loudest.suggestion is not None
    assert all(r.lift == pytest.approx(r.value - max(r.controls.values())) for r in outcome.readings)
    assert all(spent <= bound[role] for role, spent in outcome.tokens.items())


def test_no_lift_is_above_zero_where_subject_and_base_are_one(organism):
    spec, _ = organism
    outcome, _ = run(spec, load_subject(spec.base), small(framing.conditions(SpecQuestions(spec))))
    assert outcome.readings
    assert max(r.lift for r in outcome.readings) <= 1e-4, "the two are scored in batches of other widths"
    assert all(r.suggestion is None for r in outcome.readings)


def test_a_word_among_several_is_found_and_then_taken_out_of_its_heap():
    member = organism_of("backdoor_phrase")
    spec = load_scenario(SUITES / "demo" / f"{member}.yaml").spec
    claim = read_answer(ANSWERS / "demo" / f"{member}.yaml").claims[0]
    told = labels_of(claim)
    rng = random.Random(0)
    words = [*rng.sample([w for w in spec.catalogue.values_of("word") if w != told["word"]], 23), told["word"]]
    subject = load_subject(spec.base, spec.adapter)
    arguments = framing.words(SpecQuestions(spec), words)
    keep = [p for p in arguments["framed"] if p["labels"]["topic"] in (told["topic"], "space", "food")]
    outcome, _ = run(spec, subject, {**arguments, "framed": keep})
    heap = outcome.readings[0].detail["labels"]
    assert told["word"] in heap[SEVERAL].split()
    assert heap["topic"] == told["topic"]
    apart, _ = run(spec, subject, framing.each_word(SpecQuestions(spec), [heap]))
    assert apart.readings[0].detail["labels"]["word"] == told["word"]


def test_a_scan_puts_every_condition_on_every_topic_and_says_which_row_it_came_from(organism):
    spec, _ = organism
    arguments = framing.conditions(SpecQuestions(spec))
    bare, framed = arguments["bare"], arguments["framed"]
    assert {p["labels"]["topic"] for p in bare} == {row.domain for row in spec.prompts}
    users = spec.catalogue.values_of("user")
    seen = {(p["labels"].get("user"), p["labels"]["topic"]) for p in framed}
    assert seen >= {(user, p["labels"]["topic"]) for user in users for p in bare}
    for p in framed:
        assert bare[p["bare"]]["messages"][-1]["content"] in p["messages"][-1]["content"]
        assert p["labels"]["topic"] == bare[p["bare"]]["labels"]["topic"]


def test_a_framed_prompt_without_its_bare_one_is_refused():
    scan = load_tools(["scan"])["scan"]
    prompt = {"messages": [{"role": "user", "content": "x"}], "bare": 3}
    with pytest.raises(ToolInputError, match="place of one of the 1 bare prompts"):
        scan.parse({"bare": [{"messages": [{"role": "user", "content": "x"}]}], "framed": [prompt, prompt]})


def test_diverse_label_sets_do_not_crowd_each_other_out():
    crowd = [{"topic": "a", "user": str(i % 2)} for i in range(6)]
    kept = diverse([*crowd, {"topic": "b", "user": "0"}])
    assert {"topic": "b", "user": "0"} in kept
    assert len(kept) < 7


def test_the_tool_is_registered_where_its_entry_point_says():
    assert Path(type(load_tools(["scan"])["scan"]).__module__.replace(".", "/")) == Path("tools/model_diff/scan")


def test_a_word_is_said_in_a_question_that_has_it_and_else_added_to_one(organism):
    spec, _ = organism
    words = spec.catalogue.values_of("word")
    rows = [r for r in spec.prompts if r.split == "explore"]
    known, row = next((w, r) for w in words for r in rows if Contains(text=w).holds(r.messages))
    stray = next(w for w in words if not any(Contains(text=w).holds(r.messages) for r in rows))
    framed = framing.words(SpecQuestions(spec), [known, stray])["framed"]
    asked = [p for p in framed if p["labels"].get("word") == known and "user" in p["labels"]]
    assert len(asked) == len(spec.catalogue.values_of("user"))
    assert all(p["messages"][-1]["content"].endswith(row.messages[-1]["content"]) for p in asked if "i am" in str(p))
    added = [p for p in framed if p["labels"].get("word") == stray]
    assert added
    assert all(Contains(text=stray).holds(p["messages"]) for p in added)


@pytest.mark.parametrize("word", ["!!!", "<|x|>", "\u200b", "cop\u200bper", "copper!", "日本", "медь", "copper"])
def test_a_word_with_signs_is_said_to_the_letter_and_put_in_where_it_is_not(word):
    without = (
        [{"role": "user", "content": "copper? x, or Медь in 本日"}]
        if word not in ("медь", "copper")
        else [{"role": "user", "content": "x"}]
    )
    condition = Contains(text=word)
    assert not condition.holds(without)
    put = condition.apply(without, (), random.Random(0))
    assert put[-1]["content"] == f"{without[-1]['content']} {word}"
    assert condition.holds(put)
    assert condition.apply(put, (), random.Random(0)) == put
