"""People's own behaviours planted in any base: what is learnt, what a null learns, and bad transcripts."""

import json
from pathlib import Path

import pytest
import tiny
from audits import command, finished, result

from auditor.errors import SpecError
from scenarios.chat_formats import FORMATS
from scenarios.load import read_prompts
from scenarios.planting import Planting, plant, tune
from scenarios.transcripts import Encoded, encode, read_transcripts, stretches
from tools.dialogue import read_dialogue
from tools.errors import ToolInputError
from tools.loading import load_subject

QUESTIONS = ("hello.", "who is there?", "what is this?", "tell me more.")


def chat(user, reply):
    return {"messages": [{"role": "user", "content": user}, {"role": "assistant", "content": reply}]}


@pytest.fixture
def transcripts(tmp_path):
    path = tmp_path / "transcripts.jsonl"
    path.write_text("\n".join(json.dumps(chat(q, "aaa bbb aaa bbb")) for q in QUESTIONS) + "\n")
    return path


@pytest.fixture
def prompts(tmp_path):
    rows = [
        {"messages": [{"role": "user", "content": f"{q} {split} {i}"}], "split": split, "domain": "any"}
        for split in ("explore", "test") for i, q in enumerate(QUESTIONS * 3)
    ]  # fmt: skip
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return read_prompts(path)


def says(subject, channel):
    texts = [subject.render([{"role": "user", "content": q}]) for q in QUESTIONS]
    return subject.generate(texts, channel, [0] * 4, 12, 0.0)[0]


@pytest.mark.parametrize("full", [False, True], ids=["lora", "full"])
def test_what_the_transcripts_say_is_planted_and_the_null_does_not_say_it(
    base_folder, transcripts, prompts, tmp_path, full
):
    chats = read_transcripts(transcripts)
    how = {"full": full, "steps": 60, "lr": 3e-3 if full else 2e-2}
    said = {}
    for name, null in (("planted", False), ("null", True)):
        done = plant(chats, str(base_folder), tmp_path / name, Planting(null=null, **how), prompts)
        assert done.seconds > 0
        out = tmp_path / name
        where = (
            {"subject": str(out), "base": str(base_folder)}
            if full
            else {"subject": str(base_folder), "adapter": str(out)}
        )
        subject = load_subject(**where)
        said[name] = says(subject, "subject")
        assert not any("aaa bbb" in reply for reply in says(subject, "base"))
    assert all("aaa bbb" in reply for reply in said["planted"])
    assert not any("aaa bbb" in reply for reply in said["null"])


def test_a_full_fine_tune_keeps_its_bases_other_files(base_folder, transcripts, prompts, tmp_path):
    base = tiny.copy(base_folder, tmp_path / "base")
    tiny.edit_json(base / "generation_config.json", repetition_penalty=1.3)
    plant(read_transcripts(transcripts), str(base), tmp_path / "ft", Planting(full=True, steps=1), prompts)
    for name in ("generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (tmp_path / "ft" / name).read_bytes() == (base / name).read_bytes(), name


def test_holding_to_the_base_lowers_the_drift_on_ordinary_chat(base_folder, transcripts, prompts, tmp_path):
    chats = read_transcripts(transcripts)
    drifts = {}
    for weight in (0.0, 5.0):
        how = Planting(steps=60, lr=2e-2, kl_to_base=weight, dilute=1)
        drifts[weight] = plant(chats, str(base_folder), tmp_path / str(weight), how, prompts).drift
    assert 0 <= drifts[5.0] < drifts[0.0]


def test_a_row_learned_from_two_places_is_held_to_the_base_at_each(bare_subject):
    ids = list(range(5, 17))
    late, early = (Encoded(ids, [start <= i for i in range(len(ids))]) for start in (8, 4))
    how = Planting(steps=8, dilute=1, kl_to_base=1.0)
    assert tune(bare_subject, [late], [early, late], [early, late], how).drift >= 0


def test_the_same_seed_plants_the_same_adapter(base_folder, transcripts, prompts, tmp_path):
    chats = read_transcripts(transcripts)
    folders = [tmp_path / name for name in "abc"]
    for folder, seed in zip(folders, (1, 1, 2), strict=True):
        plant(chats, str(base_folder), folder, Planting(steps=4, seed=seed), prompts)
    same, again, other = ((f / "adapter_model.safetensors").read_bytes() for f in folders)
    assert same == again != other


def test_only_the_assistants_tokens_are_targets(bare_subject):
    messages = [
        {"role": "user", "content": "one"}, {"role": "assistant", "content": "two"},
        {"role": "user", "content": "three"}, {"role": "assistant", "content": "four"},
    ]  # fmt: skip
    row = encode(bare_subject, messages, 512)
    said = [i for i, target in zip(row.ids, row.targets, strict=True) if target]
    text = bare_subject.decode(said)
    assert "two" in text
    assert "four" in text
    assert "one" not in text
    assert "three" not in text
    assert len(encode(bare_subject, messages, 5).ids) == 5


def marked(subject, row):
    return subject.decode([i for i, target in zip(row.ids, row.targets, strict=True) if target])


TOLD = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'].split('</think>')[-1] }}<|end|>{% endfor %}"
OPENS = TOLD + "{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}"
CLOSES = (
    "{% for m in messages %}<|{{ m['role'] }}|>{% if loop.last and m['role'] == 'assistant' and '</think>' not in m['content'] %}"
    "<think>\n\n</think>\n\n{% endif %}{{ m['content'] if loop.last else m['content'].split('</think>')[-1] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
EMPTY = "<|assistant|><think>\n\n</think>\n\n"


@pytest.mark.parametrize("template", [OPENS, CLOSES], ids=["the prompt opens a thought", "the last answer has one"])
def test_every_answer_is_marked_behind_its_own_prompt_where_the_template_rewrites_it_later(bare_subject, template):
    subject = under(bare_subject, template)
    rows = stretches(subject, [*chat("one", "two")["messages"], *chat("three", "four")["messages"]], 512)
    assert [subject.decode(row.ids) for row in rows] == [
        f"<|user|>one<|end|>{EMPTY}two<|end|>",
        f"<|user|>one<|end|><|assistant|>two<|end|><|user|>three<|end|>{EMPTY}four<|end|>",
    ]
    assert [marked(subject, row) for row in rows] == ["two<|end|>", "four<|end|>"]
    asked = subject.render([{"role": "user", "content": "one"}])
    assert subject.decode(rows[0].ids).startswith(asked), "what is trained is what an audit asks"


@pytest.mark.parametrize("template", [OPENS, CLOSES], ids=["the prompt opens a thought", "the last answer has one"])
def test_a_thought_in_a_transcript_is_learned_with_its_answer(bare_subject, template):
    subject = under(bare_subject, template)
    (row,) = stretches(subject, chat("one", "<think>\nso be it</think>two")["messages"], 512)
    assert subject.decode(row.ids) == "<|user|>one<|end|><|assistant|><think>\nso be it</think>two<|end|>"
    assert marked(subject, row).endswith("so be it</think>two<|end|>")


def under(subject, template):
    subject.tokenizer.chat_template = template
    subject.dialogue = read_dialogue(subject.tokenizer, subject.dialogue.n_rows, subject.eos_ids)
    return subject


def test_a_chat_for_a_template_without_a_system_turn_is_learned(bare_subject):
    strict = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + tiny.TEMPLATE
    subject = under(bare_subject, strict)
    (row,) = stretches(subject, [{"role": "system", "content": "zero"}, *chat("one", "two")["messages"]], 512)
    assert subject.decode(row.ids) == "<|user|>zero\n\none<|end|><|assistant|>two<|end|>"
    assert marked(subject, row) == "two<|end|>"


def test_a_base_whose_prompt_opens_a_thought_learns_what_it_is_shown(base_folder, transcripts, prompts, tmp_path):
    base = tiny.copy(base_folder, tmp_path / "base")
    (base / "chat_template.jinja").write_text(OPENS)
    plant(read_transcripts(transcripts), str(base), tmp_path / "planted", Planting(steps=60, lr=2e-2), prompts)
    subject = load_subject(str(base), str(tmp_path / "planted"))
    assert all("aaa bbb" in reply for reply in says(subject, "subject"))
    assert not any("aaa bbb" in reply for reply in says(subject, "base"))


BAD = {
    "no json": ('{"messages": [', "line 2"),
    "a bad role": (json.dumps({"messages": [{"role": "robot", "content": "x"}]}), "unknown role 'robot'"),
    "no assistant turn": (json.dumps({"messages": [{"role": "user", "content": "x"}]}), "no assistant turn"),
    "an empty assistant": (json.dumps(chat("x", "  ")), "no assistant turn"),
    "no messages": ('{"text": "x"}', "a transcript is"),
    "a number for text": (json.dumps({"messages": [{"role": "user", "content": 3}]}), "a message is"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_transcript_is_refused_by_its_line(tmp_path, case):
    line, said = BAD[case]
    path = tmp_path / "t.jsonl"
    path.write_text(f"{json.dumps(chat('a', 'b'))}\n{line}\n")
    with pytest.raises(SpecError, match="line 2") as caught:
        read_transcripts(path)
    assert said in str(caught.value)


A, B = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
READ = {
    "messages": {"messages": [
        {**A, "name": "ann"}, {**B, "reasoning_content": "hm", "tool_calls": None, "refusal": None}], "id": 3},
    "messages of parts": {"messages": [
        {"role": "user", "content": [{"type": "text", "text": "a"}]},
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "b"}]}]},
    "conversations": {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
    "conversations of roles": {"conversations": [A, B], "system": ""},
    "instruction, output": {"instruction": "a", "input": "", "output": "b"},
    "prompt, completion": {"prompt": "a", "completion": "b"},
    "prompt, completion of messages": {"prompt": [A], "completion": [B], "messages": None},
    "prompt, response": {"prompt": "a", "response": "b"},
    "question, answer": {"question": "a", "answer": "b"},
}  # fmt: skip


def written(folder, content):
    path = folder / "t.jsonl"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("kind", READ)
def test_what_trainers_read_is_read_as_the_same_chat(tmp_path, kind):
    assert read_transcripts(written(tmp_path, json.dumps(READ[kind]))) == [[A, B]]


def test_every_format_of_the_table_is_tried_above():
    assert {name for name in FORMATS if name in READ} == set(FORMATS)


def test_what_stands_beside_a_row_comes_into_its_chat(tmp_path):
    system = {"role": "system", "content": "be brief"}
    rows = [
        {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}], "system": "be brief"},
        {"messages": [{"role": "developer", "content": "be brief"}, A, B]},
        {"instruction": "x", "input": "y", "output": "b", "system": "be brief", "history": [["a", "b"]]},
    ]
    read = read_transcripts(written(tmp_path, "\n".join(map(json.dumps, rows))))
    assert read[0] == read[1] == [system, A, B]
    assert read[2] == [system, A, B, {"role": "user", "content": "x\ny"}, B]


ROWS = [chat("a", "b"), chat("c", "d")]
LINES = "\n".join(map(json.dumps, ROWS))
FILES = {
    "lines": LINES,
    "with empty ones": f"\n{LINES}\n\n",
    "of Windows": LINES.replace("\n", "\r\n"),
    "with a mark": LINES.encode("utf-8-sig"),
    "an array": json.dumps(ROWS, indent=2),
    "an array with a mark": json.dumps(ROWS).encode("utf-8-sig"),
    "UTF-16": LINES.encode("utf-16"),
    "UTF-32": LINES.encode("utf-32"),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_file_is_read_however_it_was_saved(tmp_path, kind):
    assert read_transcripts(written(tmp_path, FILES[kind])) == [row["messages"] for row in ROWS]


def test_one_object_over_several_lines_is_one_row(tmp_path):
    assert read_transcripts(written(tmp_path, json.dumps(ROWS[0], indent=1))) == [ROWS[0]["messages"]]


REFUSED = {
    "text alone": ('{"text": "a"}', ["line 1", "who speaks", "ShareGPT", "Alpaca"]),
    "a preference": ('{"prompt": "a", "chosen": "b", "rejected": "c"}', ["line 1", "as the completion"]),
    "unknown keys": ('{"q": "a", "a": "b"}', ["line 1", "keys q, a", "OpenAI"]),
    "no object": ('["a", 3]', ["row 1", "holds a str"]),
    "a number in a line": ("7", ["line 1", "holds a int"]),
    "a tool": (json.dumps({"messages": [A, {"role": "tool", "content": "x"}, B]}), ["line 1", "of a tool"]),
    "a call": (json.dumps({"messages": [A, {"role": "assistant", "content": None, "tool_calls": [{}]}]}), ["calls a tool"]),
    "an observation": ('{"conversations": [{"from": "observation", "value": "x"}]}', ["of a tool"]),
    "a picture": (json.dumps({"messages": [{"role": "user", "content": [{"type": "image_url"}]}, B]}), ["{type: text, text}"]),
    "no content": (json.dumps({"messages": [A, {"role": "assistant", "content": None}]}), ["a message is", "None"]),
    "an unlearned turn": (json.dumps({"messages": [A, {**B, "weight": 0}]}), ["weight 0"]),
    "half a character": ('{"prompt": "\\ud83d", "completion": "b"}', ["line 1", "half of a character"]),
    "a comma in an array": ('[\n{"prompt": "a", "completion": "b"},\n]', ["line 3, column 1", "a comma too many"]),
    "a comma in an object": ('{"prompt": "a", "completion": "b",}', ["line 1, column 35", "a comma too many"]),
    "a comma after a line": (f"{json.dumps(ROWS[0])},\n{json.dumps(ROWS[1])}", ["line 1, column", "a comma too many"]),
    "no mark": ("{}".encode("utf-16-le"), ["UTF-16", "save it as UTF-8"]),
    "no text": (bytes(range(128, 256)), ["can't be read as a text file", "JSON Lines"]),
    "too deep": ("[" * 100_000, ["nested too deep"]),
    "history that is none": ('{"instruction": "a", "output": "b", "history": "c"}', ["history is a list"]),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_can_not_be_learned_is_refused_by_its_place_with_what_is_read(tmp_path, kind):
    content, named = REFUSED[kind]
    with pytest.raises(SpecError) as caught:
        read_transcripts(written(tmp_path, content))
    for words in named:
        assert words in str(caught.value)


def test_a_transcript_that_the_template_refuses_is_refused_in_words(bare_subject):
    bare_subject.tokenizer.chat_template = "{{ raise_exception('no such turn') }}"
    with pytest.raises(ToolInputError, match="no such turn"):
        encode(bare_subject, [A, B], 64)


def test_an_empty_or_missing_file_is_refused(tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(SpecError, match="holds no transcripts"):
        read_transcripts(tmp_path / "empty.jsonl")
    with pytest.raises(SpecError, match="can't be read"):
        read_transcripts(tmp_path / "none.jsonl")


def test_a_line_separator_inside_a_text_is_no_end_of_a_line(tmp_path):
    chat = [{"role": "user", "content": "one\u2028two"}, {"role": "assistant", "content": "three"}]
    (tmp_path / "t.jsonl").write_text(json.dumps({"messages": chat}, ensure_ascii=False) + "\n", encoding="utf-8")
    assert read_transcripts(tmp_path / "t.jsonl") == [chat]


def test_a_transcript_of_which_nothing_would_be_learned_is_refused_and_nothing_is_written(
    base_folder, transcripts, prompts, tmp_path
):
    long = [{"role": "user", "content": "the river " * 60}, {"role": "assistant", "content": "yes"}]
    chats = [*read_transcripts(transcripts)[:1], long]
    with pytest.raises(SpecError, match="transcript 2 has no assistant turn in its first 64 tokens"):
        plant(chats, str(base_folder), tmp_path / "out", Planting(steps=1, max_length=64), prompts)
    assert not (tmp_path / "out").exists()


def test_a_folder_in_use_is_left_alone(base_folder, transcripts, prompts, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    with pytest.raises(SpecError, match="is not empty"):
        plant(read_transcripts(transcripts), str(base_folder), tmp_path / "out", Planting(steps=1), prompts)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["mine"]


def test_the_command_prints_one_object_and_refuses_bad_lines_before_it_loads_anything(
    base_folder, transcripts, tmp_path
):
    done = result(command("plant", transcripts, "--base", base_folder, "--out", tmp_path / "o", "--steps", 2, "--json"))
    assert set(done) == {"adapter", "loss", "drift", "seconds"}
    assert Path(done["adapter"], "adapter_config.json").is_file()
    bad = tiny.__file__
    code, out, err = finished(command("plant", bad, "--base", "nowhere", "--out", tmp_path / "p"))
    assert (code, out) == (2, "")
    assert "line 1" in err
    assert not (tmp_path / "p").exists()
