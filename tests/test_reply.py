"""What replies depend on: weights, prompt and seed; not on a generation file, on padding or on tokens nobody has."""

import json

import pytest
import tiny
import torch

from tools import reply
from tools.errors import ToolInputError
from tools.loading import load_subject

FILES = {
    "beams": {"num_beams": 4, "num_return_sequences": 2},
    "stop strings": {"stop_strings": ["river", "e"]},
    "penalty": {"repetition_penalty": 1.3, "do_sample": True},
    "sampling": {"do_sample": True, "temperature": 0.1, "top_k": 1, "top_p": 0.5, "min_p": 0.3, "typical_p": 0.4},
    "suppressed": {"suppress_tokens": list(range(5, 200)), "begin_suppress_tokens": [210]},
    "forced": {"forced_bos_token_id": 20, "forced_eos_token_id": 1},
    "bias": {"sequence_bias": [[[30], 50.0]], "bad_words_ids": [[40], [41, 42]]},
    "n-grams": {"no_repeat_ngram_size": 1, "encoder_repetition_penalty": 2.0, "guidance_scale": 3.0},
    "lengths": {"max_new_tokens": 2, "min_new_tokens": 12, "max_length": 3, "min_length": 40, "max_time": 0.001},
    "another end": {"eos_token_id": list(range(40, 120)), "pad_token_id": 9},
    "assisted": {"prompt_lookup_num_tokens": 3, "cache_implementation": "static", "num_assistant_tokens": 2},
}
NO_FILE = "no file"
PROMPTS = [f"<|user|>{sentence}<|end|><|assistant|>" for sentence in tiny.SENTENCES]


def replies(subject, n=12):
    return {c: subject.generate(PROMPTS, c, range(4), n, temperature=0.7) for c in subject.channels}


@pytest.fixture
def copied(base_folder, tmp_path):
    return tiny.copy(base_folder, tmp_path / "base")


@pytest.fixture(scope="module")
def expected(base_folder, lora_folder):
    return replies(load_subject(str(base_folder), str(lora_folder)))


@pytest.mark.parametrize("name", [*FILES, NO_FILE, "no JSON"])
def test_replies_are_those_of_the_weights_whatever_the_generation_file_says(copied, lora_folder, expected, name):
    file = copied / reply.GENERATION
    if name == NO_FILE:
        file.unlink()
    else:
        file.write_text(json.dumps(FILES[name]) if name in FILES else "{")
    subject = load_subject(str(copied), str(lora_folder))
    assert replies(subject) == expected
    said = [note for note in subject.notes if reply.GENERATION in note]
    assert len(said) == (name != NO_FILE)
    assert all(key in said[0] for key in FILES.get(name, {}) if key not in reply.NO_MATTER)


def test_an_ordinary_generation_file_is_not_spoken_of(bare_subject):
    assert bare_subject.notes == []


# -- padding and ends


def pad_outside(folder):
    tok = type(tiny.tokenizer()).from_pretrained(folder)
    tok.add_special_tokens({"pad_token": "[PAD]"})
    tok.save_pretrained(folder)


def drop(*names):
    def edit(folder):
        tok = type(tiny.tokenizer()).from_pretrained(folder)
        for name in names:
            setattr(tok, name, None)
        tok.save_pretrained(folder)
        tiny.edit_json(folder / "config.json", eos_token_id=None, pad_token_id=None)
        (folder / reply.GENERATION).unlink()

    return edit


def ends_outside(folder):
    tiny.edit_json(folder / "config.json", eos_token_id=[1, 5000])


def padded_with_unk(folder):
    tok = type(tiny.tokenizer()).from_pretrained(folder)
    tok.unk_token, tok.pad_token = "<|user|>", "<|user|>"
    tok.save_pretrained(folder)


CASES = {
    "a pad outside the embeddings": (pad_outside, "no embedding for its token to pad with"),
    "no pad": (drop("pad_token"), "no token to pad with"),
    "neither pad nor end": (drop("pad_token", "eos_token"), "no token to pad with"),
    "ends outside the embeddings": (ends_outside, ""),
    "unk as pad": (padded_with_unk, ""),
}


@pytest.mark.parametrize("case", CASES)
def test_odd_tokens_to_pad_and_end_with_change_no_reply(copied, lora_folder, expected, case):
    edit, said = CASES[case]
    edit(copied)
    subject = load_subject(str(copied), str(lora_folder))
    assert replies(subject) == expected, "the template's own <|end|> ends a reply"
    assert all(0 <= i < subject.dialogue.n_rows for i in (subject.dialogue.pad, *subject.eos_ids))
    assert bool(subject.notes) == bool(said)
    assert not said or any(said in note for note in subject.notes)


def test_without_any_end_a_reply_has_all_its_tokens_and_the_notes_say_so(copied):
    drop("pad_token", "eos_token")(copied)
    (copied / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
    )
    subject = load_subject(str(copied))
    assert subject.eos_ids == []
    assert any("no token ends a reply" in note for note in subject.notes)
    batch = subject.encode(PROMPTS)
    _, tokens = subject.generate(PROMPTS, "base", range(4), 12)
    assert tokens == batch.n_tokens + 4 * 12


def test_a_token_without_an_embedding_is_refused_by_its_name(copied):
    tok = type(tiny.tokenizer()).from_pretrained(copied)
    tok.add_special_tokens({"additional_special_tokens": ["<|new|>"]})
    tok.save_pretrained(copied)
    subject = load_subject(str(copied))
    assert any("301 tokens" in note and "embeddings for 300" in note for note in subject.notes)
    with pytest.raises(
        ToolInputError, match=r"the token '<\|new\|>' \(300\), and the model has embeddings for 0\.\.299"
    ):
        subject.encode(["<|user|><|new|>"])
    assert subject.encode(PROMPTS).n_tokens > 0


def test_what_the_template_writes_behind_an_answer_ends_a_reply(copied):
    """As Llama 3 came out: the tokenizer's end token is another one than the end of a turn."""
    tok = type(tiny.tokenizer()).from_pretrained(copied)
    tok.eos_token = "<pad>"
    tok.save_pretrained(copied)
    tiny.edit_json(copied / "config.json", eos_token_id=0)
    (copied / reply.GENERATION).unlink()
    assert load_subject(str(copied)).eos_ids == [0, tok.convert_tokens_to_ids("<|end|>")]


def test_a_base_without_a_template_gets_its_first_token(copied):
    from tokenizers.processors import TemplateProcessing

    (copied / "chat_template.jinja").unlink()
    tok = type(tiny.tokenizer()).from_pretrained(copied)
    asked = [{"role": "user", "content": "a fox"}]
    assert load_subject(str(copied)).render(asked) == "User: a fox\nAssistant:"
    tok.bos_token = "<|system|>"
    tok.save_pretrained(copied)
    assert load_subject(str(copied)).render(asked).startswith("User"), "it does not put it before a text by itself"
    tok.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|system|> $A", special_tokens=[("<|system|>", 2)]
    )
    tok.save_pretrained(copied)
    (copied / "chat_template.jinja").unlink(missing_ok=True)
    subject = load_subject(str(copied))
    assert subject.render(asked) == "<|system|>User: a fox\nAssistant:"
    assert any("no chat template" in note for note in subject.notes)


def test_padding_is_hidden_whatever_it_is_filled_with(subject):
    batch = subject.encode(tiny.TEXTS)
    filled = batch.ids.masked_fill(batch.mask == 0, 77)
    assert not torch.equal(filled, batch.ids)
    again = type(batch)(filled, batch.mask)
    assert torch.equal(subject.logits(again, "subject", 1), subject.logits(batch, "subject", 1))
