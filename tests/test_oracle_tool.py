"""The oracle as an audit's instrument: questions and claims, each beside its controls, inside its price."""

from __future__ import annotations

import math

import pytest
import tiny

from auditor.candidates import Lead
from auditor.config import AuditSpec, OracleSpec
from auditor.planners.embedded import EmbeddedPlanner
from auditor.questions import SpecQuestions
from auditor.steps import CallTool, RegisterHypothesis
from auditor.view import SURE, View
from scenarios.load import GENERAL_PROMPTS, read_prompts
from tools.activation_oracle import inject as injection
from tools.activation_oracle import tool as instrument
from tools.activation_oracle.contract import Decoding, OracleContract
from tools.activation_oracle.controls import Controlled
from tools.activation_oracle.tool import N_CHECKED, ActivationOracle
from tools.claims.claim import Claim
from tools.claims.conditions.contains import Contains
from tools.claims.labels import condition_of_labels
from tools.claims.predicates.says import Says
from tools.errors import ToolInputError
from tools.loading import load_subject
from tools.questions import Known

CONTROLS = {"no_activation", "zero_vector", "random", "base", "random_delta", "text_alone", "other_prompt"}
PROMPTS = [
    {"messages": [{"role": "user", "content": text}], "labels": {"topic": "rivers"}}
    for text in ("where is the river?", "who has the kettle?", "the bridge at night", "why is it so dark by the river?")
]
CHECK = "is it so? {statement}"
SETS = ((1,), (0, 2))


@pytest.fixture
def oracle_of(tmp_path, base_folder):
    """Return the tool on a subject, with an oracle taught some sets of layers."""

    def load(*sets, adapter=True):
        folder = tiny.build_lora(base_folder, tmp_path / "oracle", seed=2, r=6, lora_alpha=6, size=1.0)
        OracleContract(base="tiny", read_layers=sets or ((1,),), decoding=Decoding(max_new_tokens=6)).save(folder)
        changed = tiny.build_lora(base_folder, tmp_path / "subject", seed=1, size=2.0)
        subject = load_subject(str(base_folder), str(changed) if adapter else None)
        tool = ActivationOracle()
        tool.use(subject, folder, "what?", CHECK)
        return subject, tool

    return load


def run(subject, tool, **arguments):
    """Return a call's result, having seen that its price was an upper bound for every role."""
    args = tool.parse({"prompts": PROMPTS, "span": 3, **arguments})
    bound, result = tool.cost(subject, args), tool.run(subject, args, seed=1)
    assert all(n <= bound[role] for role, n in result.tokens.items()), (result.tokens, bound)
    assert all(result.tokens[role] for role in ("subject", "base", "oracle"))
    return result


def test_every_answer_carries_seven_controls_and_how_many_samples_agreed(oracle_of, monkeypatch):
    monkeypatch.setattr(instrument, "ABSTAIN_BELOW", 0.0)
    scored, lifted = list[int](), Controlled.lifted
    monkeypatch.setattr(Controlled, "lifted", lambda self, *a: (scored.append(len(self.mine)), lifted(self, *a))[1])
    found = run(*oracle_of()).readings
    answers = [r for r in found if r.name == "answer"]
    assert answers
    assert sorted(scored) == sorted(r.detail["n"] for r in answers), "an answer is scored where it was given"
    assert any(r.controls["other_prompt"] != r.controls["base"] for r in answers)
    for reading in answers:
        assert set(reading.controls) == CONTROLS
        assert reading.lift == reading.value - max(reading.controls.values())
        assert 0 < reading.detail["agreement"] <= 1
        assert reading.detail["layers"] == [1]
    assert found[-1].detail["abstained"] == 0


def test_an_oracle_whose_samples_do_not_agree_abstains(oracle_of, monkeypatch):
    monkeypatch.setattr(instrument, "ABSTAIN_BELOW", 1.1)
    (only,) = run(*oracle_of()).readings
    assert (only.name, only.value) == ("answers_changed", 0.0)
    assert 0 < only.detail["abstained"] <= len(PROMPTS)


def test_a_claim_is_asked_as_yes_or_no_and_read_as_log_odds_over_the_strongest_control(oracle_of):
    subject, tool = oracle_of()
    (reading,) = run(subject, tool, statement="it sings.").readings
    assert (reading.name, reading.detail["question"]) == ("check", "is it so? it sings.")
    assert set(reading.controls) == CONTROLS
    assert reading.lift == reading.value - max(reading.controls.values())
    args = tool.parse({"prompts": PROMPTS, "span": 3})
    texts = [subject.render(p.messages) for p in args.prompts]
    seen, _ = instrument.controlled(tool.reader, texts, (1,), [slice(-3, None)] * len(texts), 1)
    logits = tool.reader.next_logits(seen.mine, ["is it so? it sings."]).log_softmax(-1)
    yes, no = tool.reader._yes_no()
    by_hand = [math.log(row[yes].exp().sum() / row[no].exp().sum()) for row in logits[:, 0]]
    assert reading.value == pytest.approx(sum(by_hand) / len(by_hand), abs=1e-4)


@pytest.mark.parametrize("given", [{}, {"statement": "it sings."}])
def test_nothing_is_lifted_where_nothing_is_put_in_or_the_subject_is_the_base(oracle_of, monkeypatch, given):
    monkeypatch.setattr(instrument, "ABSTAIN_BELOW", 0.0)
    for adapter in (False, True):
        with monkeypatch.context() as patch:
            if adapter:
                patch.setattr(injection, "inject", lambda resid, *args, **kwargs: resid.clone())
            found = run(*oracle_of(adapter=adapter), **given).readings
        assert all(r.lift is None or r.lift <= 1e-4 for r in found)


@pytest.mark.parametrize("sets", [((1,),), SETS])
def test_the_best_layer_is_chosen_on_prompts_that_are_not_read(oracle_of, monkeypatch, sets):
    monkeypatch.setattr(instrument, "ABSTAIN_BELOW", 0.0)
    found = run(*oracle_of(*sets), layer="best").readings
    swept = found[-1].detail["sweep"]
    tried = sorted(tuple(layers) for layers, _ in swept)
    assert tried == (sorted(sets) if len(sets) > 1 else [(0,), (1,), (2,)])
    assert found[-1].detail["layers"] == max(swept, key=lambda one: one[1])[0]
    assert found[-1].detail["n"] == len(PROMPTS) // 2


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"question": "who?", "statement": "it sings."}, "a question or a statement"),
        ({"layer": "best", "prompts": PROMPTS[:3]}, "best needs 4 prompts"),
        ({"layer": "deepest"}, "layer"),
        ({"layer": 9}, r"layer 9 is out of range: the subject has layers 0\.\.2"),
        ({"prompts": PROMPTS[:1]}, "prompts"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_words(oracle_of, wrong, message):
    subject, tool = oracle_of()
    with pytest.raises(ToolInputError, match=message):
        tool.run(subject, tool.parse({"prompts": PROMPTS, **wrong}), 0)


def test_without_an_oracle_the_tool_says_how_to_get_one(subject):
    tool = ActivationOracle()
    with pytest.raises(ToolInputError, match="auditor oracle train activation"):
        tool.run(subject, tool.parse({"prompts": PROMPTS}), 0)


# -- when the agent asks


def spec(**changes):
    return AuditSpec(subject="x", prompts=read_prompts(GENERAL_PROMPTS), oracle=OracleSpec(path="o"), **changes)


def claim(value):
    return Claim(
        condition=Contains(text=value),
        predicate=Says(any_of=("ahoy",)),
        statement=f"if the word is {value}, it says ahoy.",
    )


def test_a_claim_is_asked_about_on_prompts_that_meet_its_conditions_and_were_never_drawn_by_tests(oracle_of):
    one, (_, tool) = spec(), oracle_of()
    topic = next(row.domain for row in one.prompts)
    both = condition_of_labels([("word", "zebra"), ("topic", topic)], one.topics("explore"))
    known = Known(claims=(claim("zebra").model_copy(update={"condition": both}),))
    (look,) = tool.follow_up(SpecQuestions(one), known, ())
    assert look.stage == "check"
    assert look.arguments["statement"] == "if the word is zebra, it says ahoy."
    explore = {row.messages[-1]["content"] for row in one.prompts if row.split == "explore" and row.domain == topic}
    for prompt in look.arguments["prompts"]:
        said = prompt["messages"][-1]["content"]
        assert "zebra" in said
        assert {kind: prompt["labels"].get(kind) for kind in ("topic", "word")} == {"topic": topic, "word": "zebra"}
        assert any(text in said for text in explore)
    assert [look] == list(tool.follow_up(SpecQuestions(one), known, ()))


def test_a_check_names_where_the_claim_goes():
    with pytest.raises(ValueError, match="has {statement} where the claim goes"):
        OracleSpec(path="o", check="is it so?")


def lead(n):
    return Lead(claim(f"word{n}"), strength=SURE - 0.1 - n / 100, lift=1.0, readings=(n,), tools=("chat",))


def view(n_leads, tools, calls=()):
    one = spec(tools=("activation_oracle",))
    return View(one, list(calls), [], [lead(n) for n in range(n_leads)], [], 0, True, tools)


def proposals(n_leads, tools):
    """Return the planner's steps until it takes up a lead."""
    calls, steps = [], []
    while True:
        step = EmbeddedPlanner().propose(view(n_leads, tools, calls), len(steps))
        steps.append(step)
        if not isinstance(step, CallTool):
            return steps
        calls.append({"tool": step.tool, "arguments": step.arguments})


def test_the_planner_has_the_oracle_asked_about_its_best_leads_once_each_before_it_takes_one_up(oracle_of):
    _, tool = oracle_of()
    *checks, first = proposals(3, {"activation_oracle": tool})
    assert [c.arguments["statement"] for c in checks] == [lead(n).claim.statement for n in range(3)]
    assert isinstance(first, RegisterHypothesis)
    assert first.claim == lead(0).claim
    assert len(proposals(N_CHECKED + 3, {"activation_oracle": tool})) == N_CHECKED + 1


def test_no_claim_is_checked_without_an_oracle():
    assert len(proposals(3, {})) == 1
