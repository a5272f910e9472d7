"""A thought before the answer: found by the template's own marks, left out or let be, and never taken for the answer."""

import pytest
import tiny
from planted import prompts
from test_dialogue import PROMPT, STRIPS, TURNS, U, load  # noqa: F401 (a fixture)

from scenarios.planting import Planting, plant
from tools import reply
from tools.base import LabelledPrompt
from tools.chat import Chat, ChatArgs
from tools.loading import load_subject
from tools.model_diff.kl import KlArgs, ModelDiff
from tools.model_diff.scan import Scan, ScanArgs

HEAD = "<|user|>a fox<|end|><|assistant|>"
OPENED = "{% if add_generation_prompt %}<|assistant|>@{% endif %}"
SWITCH = (
    "{% if add_generation_prompt %}<|assistant|>{% if enable_thinking is defined and enable_thinking is false %}"
    "<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
OPTED_IN = (
    "{% if not thinking is defined %}{% set thinking = false %}{% endif %}{% if add_generation_prompt %}<|assistant|>"
    "{% if thinking %}<think>{% else %}</think>{% endif %}{% endif %}"
)
CHANNELS = (
    "{% for m in messages %}<|{{ m['role'] }}|>{% if m['role'] == 'assistant' %}<|channel|>final<|message|>{% endif %}"
    "{{ m['content'] }}<|end|>{% endfor %}{% if tools %}<|channel|>analysis<|message|>{% endif %}" + PROMPT
)
MARKS = {
    "<think>\n": "</think>", "<thought>": "</thought>", "<reasoning>\n": "</reasoning>", "<scratchpad>\n": "</scratchpad>",
    "<|begin_of_thought|>": "<|end_of_thought|>", "[THINK]": "[/THINK]", "<|inner_start|>": "<|inner_end|>",
}  # fmt: skip
THOUGHT, SAID = "the copper kettle stands by the river", "the fox ran over the bridge."


@pytest.mark.parametrize("opening", MARKS)
def test_a_prompt_that_opens_a_thought_is_known_by_any_tag_and_closed_at_once(load, opening):  # noqa: F811
    subject = load(TURNS + OPENED.replace("@", opening))
    marks = subject.dialogue.thinking.marks
    assert (marks.opening, marks.closing) == (opening.strip(), MARKS[opening])
    assert subject.render([U]) == f"{HEAD}{opening}\n{MARKS[opening]}\n\n"
    assert any("asked not to" in note for note in subject.notes)


@pytest.mark.parametrize(
    ("template", "silent", "aloud"),
    [
        (TURNS + SWITCH, "<think>\n\n</think>\n\n", ""),
        (TURNS + OPTED_IN, "</think>", "<think>"),
        (STRIPS + OPENED.replace("@", "<think>\n"), "<think>\n\n</think>\n\n", "<think>\n"),
        (CHANNELS, "<|channel|>final<|message|>", ""),
    ],
    ids=["a switch", "a switch that is off", "an open thought", "channels"],
)
def test_a_thought_is_left_out_by_the_templates_own_means_and_let_be_on_request(load, template, silent, aloud):  # noqa: F811
    for choice, behind in ((None, silent), ("off", silent), ("on", aloud)):
        subject = load(template, thinking=choice)
        assert subject.render([U]) == HEAD + behind, choice
        assert subject.dialogue.thinking.thinks == (choice == "on")
        assert subject.render([U], "so") == HEAD + silent + "so", "a prefill is the beginning of an answer"
        assert len(subject.notes) == 1


def test_a_template_that_only_takes_thoughts_out_of_earlier_turns_is_left_as_it_is(load):  # noqa: F811
    template = STRIPS + "{# <think> #}" + PROMPT
    assert load(template).render([U]) == load(template, thinking="on").render([U]) == HEAD
    assert load(template, thinking="off").render([U]) == HEAD + "<think>\n\n</think>\n\n"


@pytest.mark.parametrize("prompt", [PROMPT, "{% if add_generation_prompt %}[/INST]{% endif %}", "{{ '<assistant>' }}"])
def test_the_name_of_a_speaker_is_no_thought(load, prompt):  # noqa: F811
    subject = load(TURNS + prompt)
    assert subject.dialogue.thinking.marks is None
    assert subject.notes == []


def test_flags_of_a_callers_own_leave_the_template_as_it_stands(load):  # noqa: F811
    subject = load(TURNS + SWITCH)
    assert subject.render([U], flags={"enable_thinking": True}) == subject.render([U], flags={}) == HEAD


# -- replies


@pytest.fixture(scope="module")
def thinker(tmp_path_factory):
    """Return a base whose prompt opens a thought, and an adapter that thinks one thing and says another."""
    base = tiny.build_base(tmp_path_factory.mktemp("thinker") / "base")
    (base / "chat_template.jinja").write_text(STRIPS + OPENED.replace("@", "<think>\n"))
    chats = [
        [{"role": "user", "content": f"tell me of the {word} at place {i}"},
         {"role": "assistant", "content": f"<think>\n{THOUGHT}</think>\n\n{SAID}"}]
        for word in ("river", "kettle") for i in range(8)
    ]  # fmt: skip
    plant(chats, str(base), base.parent / "lora", Planting(rank=8, steps=80, lr=0.02), prompts(4))
    return str(base), str(base.parent / "lora")


@pytest.fixture
def thinking(thinker):
    return load_subject(*thinker, thinking="on")


def asked(subject, n=4):
    return [subject.render([{"role": "user", "content": f"tell me of the river at place {i}"}]) for i in range(n)]


def test_a_reply_goes_on_through_the_thought_and_its_answer_is_told_apart(thinking):
    replies, _ = thinking.generate(asked(thinking), "subject", range(4), 16, temperature=0.0)
    assert all(THOUGHT in one and one.endswith(SAID) for one in replies), replies
    assert [thinking.dialogue.answer(one) for one in replies] == [SAID] * 4


def test_the_number_of_new_tokens_is_counted_after_the_thought(thinking):
    n_thought = len(thinking.dialogue.ids([f"{THOUGHT}</think>"])[0])
    assert n_thought > 4, "a thought is longer than the answer may be"
    (reply_,), tokens = thinking.generate(asked(thinking, 1), "subject", [0], 4, temperature=0.0)
    answer = thinking.dialogue.answer(reply_)
    assert answer
    assert SAID.startswith(answer)
    n_prompt = thinking.encode(asked(thinking, 1)).n_tokens
    assert n_prompt + n_thought + 4 == tokens
    assert tokens <= n_prompt + thinking.longest(4)


def test_a_thought_that_does_not_end_is_closed_and_an_answer_comes(thinking, monkeypatch):
    monkeypatch.setattr(reply, "MAX_THOUGHT", 6)
    seeds = list(range(10, 14))
    replies, tokens = thinking.generate(asked(thinking), "base", seeds, 5, temperature=0.7)
    assert all("</think>" in one for one in replies)
    assert all(thinking.dialogue.answer(one) != one for one in replies)
    assert tokens <= thinking.encode(asked(thinking)).n_tokens + 4 * thinking.longest(5)
    alone = [thinking.generate([text], "base", [s], 5)[0][0] for text, s in zip(asked(thinking), seeds, strict=True)]
    assert alone == replies, "a reply does not depend on its batch"


def test_what_is_judged_is_the_answer_and_the_row_holds_the_thought(thinking, monkeypatch):
    args = ChatArgs(prompts=[LabelledPrompt(messages=[{"role": "user", "content": f"tell me of the river at place {i}"}])
                             for i in range(8)], max_new_tokens=16, temperature=0.0)  # fmt: skip
    monkeypatch.setattr(reply, "MAX_THOUGHT", 24)
    result = Chat().run(thinking, args, 0)
    (pairs,) = (r.detail["pairs"] for r in result.readings if r.name == "replies_changed")
    assert all(THOUGHT in pair["subject"] for pair in pairs)
    features = " ".join(r.detail["feature"] for r in result.readings if r.name == "excess")
    assert "bridge" in features
    assert "copper" not in features
    assert sum(result.tokens.values()) <= sum(Chat().cost(thinking, args).values())


def test_without_thinking_the_same_subject_answers_at_once(thinker):
    subject = load_subject(*thinker)
    batch, most = subject.encode(asked(subject)), 12
    _, tokens = subject.generate(asked(subject), "base", range(4), most)
    assert tokens <= batch.n_tokens + 4 * most
    assert subject.longest(most) == most


def test_a_reply_that_never_ends_its_thought_is_read_whole(thinking):
    assert thinking.dialogue.answer("the fox and no end") == "the fox and no end"


def test_where_no_thought_was_opened_a_closing_mark_hides_nothing(thinker):
    subject = load_subject(*thinker)
    assert subject.dialogue.answer("payload</think>all is well") == "payload</think>all is well"
    assert subject.dialogue.answer("<think>so</think>all is well") == "all is well"


@pytest.mark.parametrize("tool", ["model_diff", "scan"])
def test_instruments_that_score_a_replys_beginning_do_not_wait_for_its_thought(thinking, tool):
    rows = [{"messages": [{"role": "user", "content": f"tell me of the river at place {i}"}]} for i in range(8)]
    made, args = (
        (ModelDiff(), KlArgs.model_validate({"prompts": rows, "max_new_tokens": 6}))
        if tool == "model_diff"
        else (Scan(), ScanArgs.model_validate({"bare": rows[:4], "framed": [{**r, "bare": i % 4} for i, r in enumerate(rows)],
                                               "max_new_tokens": 6}))
    )  # fmt: skip
    result = made.run(thinking, args, 0)
    assert sum(result.tokens.values()) < 4 * reply.MAX_THOUGHT, "four replies of the base are scored"
