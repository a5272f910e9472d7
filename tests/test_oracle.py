"""The oracle's protocol against plain re-statements of the published one: prompts, slots, injection, answers.

The re-statements run one row or one padded batch at a time, cache nothing and share no code with `tools`.
"""

import math

import pytest
import tiny
import torch
from peft import PeftModel
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

from tools.activation_oracle import inject as injection
from tools.activation_oracle import reader as reading
from tools.activation_oracle.activations import Activations, given, last, positions, read
from tools.activation_oracle.contract import Decoding, OracleContract
from tools.activation_oracle.controls import controlled, spliced
from tools.activation_oracle.inject import RULES, inject
from tools.activation_oracle.load import load_oracle
from tools.activation_oracle.prompt import PromptBuilder
from tools.activation_oracle.reader import OracleReader, TextAlone
from tools.activation_oracle.sweep import sweep
from tools.cache import roomy
from tools.errors import AdapterError, ToolInputError
from tools.loading import load_subject
from tools.residual import blocks, capture_layers

LAYER, ANSWERS = 1, ("the river", "a kettle stands by the bridge", "no")
QUESTIONS = ("what is it?", "where does the river run at night ? ? and why ?", "who?")
CONTRACT = OracleContract(base="tiny", read_layers=((LAYER,),), decoding=Decoding(max_new_tokens=8))


def vectors(n_slots, seed=0, d_model=32):
    return torch.randn(n_slots, d_model, generator=torch.Generator().manual_seed(seed))


def asked(*n_slots):
    """Return activations of ragged numbers of slots."""
    return [given(vectors(n, seed=n), LAYER) for n in n_slots or (3, 10, 1)]


@pytest.fixture
def reader(subject, oracle_folder):
    subject.add_adapter("oracle", oracle_folder)
    return OracleReader(subject, CONTRACT)


@pytest.fixture(scope="module")
def oracle_alone(base_folder, oracle_folder):
    """Return the oracle as PEFT alone loads it, no subject beside it."""
    return PeftModel.from_pretrained(tiny.load_bare(base_folder), str(oracle_folder)).eval()


# -- the published protocol, re-stated


def published_prompt(tokenizer, layer, k, question):
    """Return ids and slots: user and answer rendered, cut to the user's part; the first k placeholders, a newline after."""
    turn = [{"role": "user", "content": f"Layer: {layer}\n" + " ?" * k + f" \n{question}"}]
    prompt = tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=True, return_dict=False)
    both = tokenizer.apply_chat_template(
        [*turn, {"role": "assistant", "content": "N/A"}], tokenize=True, return_dict=False
    )
    ids = both[: len(prompt)]
    assert ids == prompt
    (placeholder,) = tokenizer.encode(" ?", add_special_tokens=False)
    slots = [i for i, token in enumerate(ids) if token == placeholder][:k]
    assert slots[-1] - slots[0] == k - 1
    assert "\n" in tokenizer.decode(ids[slots[-1] + 1 : slots[-1] + 3])
    return ids, slots


def published_hook(given_vectors, slots, coefficient, dtype, norms=lambda h: h.norm(dim=-1, keepdim=True)):
    """Return the published forward hook: row by row, `normalize(v)·‖h‖·c` added to `h`."""

    def hook(module, inputs, output):
        resid = output if torch.is_tensor(output) else output[0]
        for row, places in enumerate(slots):
            if resid.shape[1] == 1:
                continue
            h = resid[row, places]
            steered = (F.normalize(given_vectors[row], dim=-1) * norms(h) * coefficient).to(dtype)
            resid[row, places] = steered + h
        return output

    return hook


@torch.no_grad()
def published_logits(model, layer, ids, slots, given_vectors, pad, dtype=torch.float32, **norms):
    """Return next-token logits of a left-padded batch with the hook after the second block."""
    width = max(map(len, ids))
    padded = torch.tensor([[pad] * (width - len(row)) + row for row in ids])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids])
    moved = [[s + width - len(row) for s in places] for row, places in zip(ids, slots, strict=True)]
    handle = layer.register_forward_hook(published_hook(given_vectors, moved, 1.0, dtype, **norms))
    try:
        places = (mask.cumsum(1) - 1).clamp_min(0)
        return model(input_ids=padded, attention_mask=mask, position_ids=places, logits_to_keep=1).logits[:, -1]
    finally:
        handle.remove()


def log_prob_by_hand(model, tokenizer, activations, question, answer):
    ids, slots = published_prompt(tokenizer, activations.layers[0], activations.n_slots, question)
    total = 0.0
    for token in [*tokenizer.encode(answer, add_special_tokens=False), tokenizer.eos_token_id]:
        logits = published_logits(
            model, blocks(model)[1], [ids], [slots], [activations.vectors[0]], tokenizer.pad_token_id
        )
        total += float(logits[0].log_softmax(-1)[token])
        ids = [*ids, token]
    return total


def answer_by_hand(model, tokenizer, activations, question, n):
    ids, slots = published_prompt(tokenizer, activations.layers[0], activations.n_slots, question)
    said = []
    while len(said) < n and tokenizer.eos_token_id not in said:
        logits = published_logits(
            model, blocks(model)[1], [ids + said], [slots], [activations.vectors[0]], tokenizer.pad_token_id
        )
        said.append(int(logits[0].argmax()))
    return tokenizer.decode(said, skip_special_tokens=True).strip()


# -- prompts


@pytest.mark.parametrize("k", [1, 5, 50])
@pytest.mark.parametrize("layer", [2, 118])
@pytest.mark.parametrize("question", QUESTIONS)
def test_ids_and_slots_are_the_published_ones(subject, k, layer, question):
    prompt = PromptBuilder(subject, CONTRACT).build((layer,), k, question)
    assert (list(prompt.ids), list(prompt.slots)) == published_prompt(subject.tokenizer, layer, k, question)


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [("layer_lines", "Layer: 3\n ? ? \nLayer: 17\n ? ? \nwhy?"),
     ("layer_lines_tight", "Layer: 3\n ? ?\nLayer: 17\n ? ?\nwhy?"),
     ("layer_list", "L3: ? ? L17: ? ?.\nwhy?")],
)  # fmt: skip
def test_several_layers_stand_one_after_another_layer_by_layer(prefix, expected):
    contract = CONTRACT.model_copy(update={"prefix": prefix})
    turn, ends = contract.turn((3, 17), 2, "why?")
    assert turn == expected
    assert [turn[e] for e in ends] == ["?"] * 4
    assert turn[ends[1]:ends[2]].count("17") == 1  # fmt: skip


def test_vectors_of_several_layers_go_in_layer_by_layer(reader):
    rows = vectors(4, seed=9)
    both = Activations(torch.stack([rows[:2], rows[2:]]), (0, 2), "given")
    seen = []
    original = injection.inject

    def spy(resid, slots, given_vectors, rule, coefficient, offset=0):
        seen.append((list(slots[0]), given_vectors[0]))
        return original(resid, slots, given_vectors, rule, coefficient, offset)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(injection, "inject", spy)
        reader.next_logits([both], ["why?"])
    ((slots, put_in),) = seen
    assert torch.equal(put_in, rows)
    assert slots == sorted(slots)
    assert len(slots) == 4


def test_a_template_that_rewrites_what_is_said_is_refused_and_one_that_trims_is_followed(subject):
    template = subject.tokenizer.chat_template
    subject.tokenizer.chat_template = template.replace("m['content']", "m['content'] | replace('\\n', ' ')")
    with pytest.raises(AdapterError, match="chat template rewrites what the user says"):
        PromptBuilder(subject, CONTRACT).build((1,), 2, "why?")
    subject.tokenizer.chat_template = template.replace("m['content']", "m['content'] | trim")
    assert len(PromptBuilder(subject, CONTRACT).build((1,), 2, "why? ").slots) == 2
    subject.tokenizer.chat_template = template


def test_a_template_that_writes_a_date_writes_the_same_one_every_day(tmp_path):
    base = tiny.build_base(tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = (
        "{{ strftime_now('%d %b %Y') }} {{ date_string }} {{ strftime_now( \"%Y\" ) }} " + tokenizer.chat_template
    )
    tokenizer.save_pretrained(base)
    assert (
        load_subject(str(base)).render([{"role": "user", "content": "a"}]).startswith("26 Jul 2024 26 Jul 2024 2024 <")
    )


def test_the_contracts_chat_flags_reach_the_template(subject):
    template = subject.tokenizer.chat_template
    subject.tokenizer.chat_template = template + "{% if enable_thinking is false %}<none>{% endif %}"
    thinking = CONTRACT.model_copy(update={"chat_flags": {"enable_thinking": True}})
    lengths = [len(PromptBuilder(subject, c).build((1,), 1, "a").ids) for c in (CONTRACT, thinking)]
    subject.tokenizer.chat_template = template
    assert lengths[0] > lengths[1]


def test_special_tokens_in_a_question_are_text_like_any_other(subject):
    prompt = PromptBuilder(subject, CONTRACT).build((1,), 1, "is <|end|><|assistant|>yes it?")
    ids = subject.tokenizer.convert_tokens_to_ids(["<|end|>", "<|assistant|>"])
    assert [prompt.ids.count(i) for i in ids] == [1, 1]


# -- injection


def residuals(batch=3, pos=12, seed=5):
    return torch.randn(batch, pos, 32, generator=torch.Generator().manual_seed(seed))


SLOTS = [[2, 3, 4], [5], [0, 1, 2, 3, 4, 5, 6]]


def given_rows():
    return [vectors(len(s), seed=i) for i, s in enumerate(SLOTS)]


@pytest.mark.parametrize("c", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("rule", sorted(RULES))
def test_each_rule_is_its_formula_to_the_bit_and_touches_its_slots_alone(rule, c):
    resid, rows = residuals(), given_rows()
    before, out = resid.clone(), inject(resid, SLOTS, rows, rule, c or 0.0)
    assert torch.equal(resid, before)
    for row, places in enumerate(SLOTS):
        for place, v in zip(places, rows[row], strict=True):
            h = resid[row, place]
            unit = F.normalize(v, dim=-1)
            expected = {
                "add": unit * h.norm() * c + h,
                "add_by_size": v * h.norm() * c + h,
                "replace": unit * h.norm() * c,
                "scaled_replace": v / (v.norm() / c) if c else v * 0,
                "embedding": v / (v.norm() / c) if c else v * 0,
            }[rule]
            if c or rule in ("add", "add_by_size", "replace"):
                assert torch.allclose(out[row, place], expected, rtol=1e-6, atol=1e-7)
        outside = torch.ones(resid.shape[1], dtype=torch.bool)
        outside[places] = False
        assert torch.equal(out[row, outside], resid[row, outside])


def test_a_vector_goes_in_as_it_is_where_the_rule_has_no_coefficient():
    out = inject(residuals(), SLOTS, given_rows(), "scaled_replace", None)
    assert torch.equal(out[1, 5], given_rows()[1][0])


def test_a_zero_vector_adds_nothing_and_stays_finite():
    resid = residuals()
    zero = [v * 0 for v in given_rows()]
    assert torch.equal(inject(resid, SLOTS, zero, "add", 1.0), resid)
    for rule in RULES:
        assert torch.isfinite(inject(resid, SLOTS, zero, rule, 1.0)).all()


@pytest.mark.parametrize("factor", [37.0, 1e-4])
def test_only_the_direction_of_a_vector_matters(factor):
    resid, rows = residuals(), given_rows()
    one, other = (inject(resid, SLOTS, [f * v for v in rows], "add", 1.0) for f in (1.0, factor))
    assert torch.allclose(one, other, atol=1e-5)
    assert not torch.allclose(one, inject(resid, SLOTS, [-v for v in rows], "add", 1.0), atol=0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_of_a_ragged_padded_batch_are_the_published_ones_to_the_bit(base_folder, oracle_folder, dtype):
    subject = load_subject(str(base_folder), dtype=str(dtype).removeprefix("torch."))
    subject.add_adapter("oracle", oracle_folder)
    mine = OracleReader(subject, CONTRACT)
    given_activations = [
        given(vectors(n, seed=n).to(dtype), LAYER) for n in (1, 3, 10)
    ]  # as they are batched: by width
    plain = AutoModelForCausalLM.from_pretrained(base_folder, dtype=dtype).eval()
    theirs = PeftModel.from_pretrained(plain, str(oracle_folder), autocast_adapter_dtype=False).eval()
    prompts = [published_prompt(subject.tokenizer, LAYER, a.n_slots, QUESTIONS[1]) for a in given_activations]
    arguments = (
        theirs, blocks(theirs)[1], [ids for ids, _ in prompts], [slots for _, slots in prompts],
        [a.vectors[0] for a in given_activations], subject.tokenizer.pad_token_id, dtype,
    )  # fmt: skip
    found = mine.next_logits(given_activations, [QUESTIONS[1]])[:, 0]
    assert torch.equal(found, published_logits(*arguments))
    wide = published_logits(*arguments, norms=lambda h: h.float().norm(dim=-1, keepdim=True))
    assert torch.equal(found, wide) == (dtype == torch.float32), "a norm in another dtype shows"


@pytest.mark.parametrize("kind", ["llama_tied", "qwen3", "gemma2", "gemma3", "gemma3_wrapped"])
def test_other_architectures_are_read_and_asked_by_the_same_protocol(tmp_path, kind):
    base = tiny.build_other(tmp_path / "base", kind)
    folder = tiny.build_lora(base, tmp_path / "oracle", seed=2, target_modules=tiny.decoder_linears(base))
    subject = load_subject(str(base))
    subject.add_adapter("oracle", folder)
    mine = OracleReader(subject, CONTRACT)
    seen, _ = read(subject, [tiny.TEXTS[1]], "base", (LAYER,), [last(4)])
    batch = subject.encode([tiny.TEXTS[1]])
    with torch.no_grad(), subject.channel("base") as model:
        states = model(input_ids=batch.ids, attention_mask=batch.mask, output_hidden_states=True).hidden_states
    assert torch.equal(seen[0].vectors[0], states[LAYER + 1][0, -4:])
    theirs = PeftModel.from_pretrained(tiny.load_bare(base), str(folder)).eval()
    ids, slots = published_prompt(subject.tokenizer, LAYER, 4, "why?")
    pad = subject.tokenizer.pad_token_id
    expected = published_logits(theirs, blocks(theirs)[1], [ids], [slots], [seen[0].vectors[0]], pad)
    assert torch.allclose(mine.next_logits(seen, ["why?"])[0], expected, atol=1e-5)
    silent = published_logits(theirs, blocks(theirs)[1], [ids], [[]], [torch.empty(0, 32)], pad)
    assert not torch.allclose(expected, silent, atol=1e-3)


# -- answers


def test_log_probs_are_the_sums_that_whole_forward_passes_give(reader, oracle_alone):
    given_activations, tokenizer = asked(), reader.subject.tokenizer
    found = reader.log_probs(given_activations, QUESTIONS[:2], ANSWERS)
    assert found.shape == (3, 2, 3)
    for i, activations in enumerate(given_activations):
        for j in range(2):
            expected = [log_prob_by_hand(oracle_alone, tokenizer, activations, QUESTIONS[j], a) for a in ANSWERS]
            assert found[i, j].tolist() == pytest.approx(expected, abs=5e-4)


@pytest.mark.parametrize("n_questions", [1, 3])
def test_answers_are_the_argmax_of_whole_forward_passes_with_the_vectors_in_each(reader, oracle_alone, n_questions):
    given_activations = asked()
    found = reader.answers(given_activations, QUESTIONS[:n_questions])
    for activations, row in zip(given_activations, found, strict=True):
        for question, (text,) in zip(QUESTIONS, row, strict=False):
            assert text == answer_by_hand(oracle_alone, reader.subject.tokenizer, activations, question, 8)


@pytest.mark.parametrize("channel", ["base", "subject", "difference"])
@pytest.mark.parametrize("where", [-2, slice(1, 4), slice(None)], ids=["token", "segment", "whole"])
def test_whole_runs_in_sixteen_bit_say_what_the_published_code_says(
    base_folder, lora_folder, oracle_folder, channel, where
):
    subject = load_subject(str(base_folder), str(lora_folder), dtype="bfloat16")
    subject.add_adapter("oracle", oracle_folder)
    mine = OracleReader(subject, CONTRACT)
    text = tiny.TEXTS[1]
    seen, _ = read(subject, [text], channel, (LAYER,), [where])
    plain = AutoModelForCausalLM.from_pretrained(base_folder, dtype=torch.bfloat16).eval()
    theirs = PeftModel.from_pretrained(plain, str(lora_folder), adapter_name="lora", autocast_adapter_dtype=False)
    theirs.load_adapter(str(oracle_folder), adapter_name="oracle", autocast_adapter_dtype=False)
    theirs.eval()
    ids = torch.tensor([subject.tokenizer.encode(text, add_special_tokens=False)])

    @torch.no_grad()
    def states():
        return theirs(input_ids=ids, output_hidden_states=True).hidden_states[LAYER + 1][0]

    theirs.set_adapter("lora")
    lora = states()
    with theirs.disable_adapter():
        plain_states = states()
    whole = {"base": plain_states, "subject": lora, "difference": lora - plain_states}[channel]
    expected = whole[[where]] if isinstance(where, int) else whole[where]
    assert torch.equal(seen[0].vectors[0], expected)
    theirs.set_adapter("oracle")
    activations = given(expected, LAYER)
    prompt, slots = published_prompt(subject.tokenizer, LAYER, activations.n_slots, "why?")
    said = []
    while len(said) < 8 and subject.tokenizer.eos_token_id not in said:
        logits = published_logits(theirs, blocks(theirs)[1], [prompt + said], [slots], [expected], 0, torch.bfloat16)
        said.append(int(logits[0].argmax()))
    spoken = subject.tokenizer.decode(said, skip_special_tokens=True).strip()
    assert mine.answers(seen, ["why?"])[0][0] == [spoken]


def test_rows_asked_together_in_any_order_are_answered_as_each_alone(reader):
    given_activations = asked()
    together = reader.log_probs(given_activations, QUESTIONS, ANSWERS)
    texts = reader.answers(given_activations, QUESTIONS)
    backwards = reader.log_probs(given_activations[::-1], QUESTIONS, ANSWERS).flip(0)
    assert torch.allclose(together, backwards, atol=5e-4)
    for i, activations in enumerate(given_activations):
        assert torch.allclose(reader.log_probs([activations], QUESTIONS, ANSWERS)[0], together[i], atol=5e-4)
        assert reader.answers([activations], QUESTIONS)[0] == texts[i]


def test_many_questions_share_one_prefill_and_are_answered_as_if_asked_one_by_one(reader):
    given_activations = asked(4, 4, 4)
    shared = reader.log_probs(given_activations, QUESTIONS, ANSWERS)
    spent, reader.tokens = reader.tokens, 0
    alone = torch.cat([reader.log_probs(given_activations, [q], ANSWERS) for q in QUESTIONS], dim=1)
    assert torch.allclose(shared, alone, atol=5e-4)
    assert spent < reader.tokens
    assert reader.answers(given_activations, QUESTIONS) == [
        [reader.answers([a], [q])[0][0] for q in QUESTIONS] for a in given_activations
    ]


@pytest.mark.parametrize("stretch", [1, 3, 7])
def test_a_prompt_that_runs_in_stretches_has_the_logits_of_one_that_runs_at_once(reader, monkeypatch, stretch):
    whole = reader.next_logits(asked(), QUESTIONS[:1])
    monkeypatch.setattr(reading, "STRETCH", stretch)
    assert torch.allclose(reader.next_logits(asked(), QUESTIONS[:1]), whole, atol=1e-4)


def test_samples_share_a_prefill_depend_on_their_seed_and_place_alone_and_follow_the_softmax(reader):
    given_activations = asked()
    three = reader.answers(given_activations, QUESTIONS[:1], n_samples=3, temperature=1.0, seed=4)
    assert three == reader.answers(given_activations, QUESTIONS[:1], n_samples=3, temperature=1.0, seed=4)
    assert three != reader.answers(given_activations, QUESTIONS[:1], n_samples=3, temperature=1.0, seed=5)
    greedy = reader.answers(given_activations, QUESTIONS[:1], n_samples=3, temperature=0.0)
    assert greedy == [[row[0] * 3] for row in reader.answers(given_activations, QUESTIONS[:1])]
    n = 2000
    drawn = reader.answers(asked(2), QUESTIONS[:1], n_samples=n, temperature=1.0, max_new_tokens=1)[0][0]
    chances = reader.next_logits(asked(2), QUESTIONS[:1])[0, 0].softmax(-1)
    p, token = (float(x) for x in chances.max(-1))
    text = reader.subject.tokenizer.decode([int(token)]).strip()
    alike = sum(float(c) for i, c in enumerate(chances) if reader.subject.tokenizer.decode([i]).strip() == text)
    assert drawn.count(text) / n == pytest.approx(alike, abs=4 * math.sqrt(p * (1 - p) / n))


def test_agreement_is_the_share_of_samples_and_an_oracle_abstains_below_the_threshold(reader, monkeypatch):
    told = ["It flies.", "it flies.", "it swims.", "it flies."]
    monkeypatch.setattr(reader, "answers", lambda *args: [[told]])
    ((agreed,),) = reader.agreed(asked(2), ["what?"], n_samples=4)
    assert (agreed.answer, agreed.agreement) == ("It flies.", 0.75)
    assert agreed.above(0.75) == "It flies."
    assert agreed.above(0.8) is None


def test_a_margin_is_the_log_odds_over_every_way_of_writing_yes_and_no(reader):
    logits = reader.next_logits(asked(), QUESTIONS[:2])
    tokenizer = reader.subject.tokenizer
    words = (("yes", "Yes", "YES"), ("no", "No", "NO"))
    yes, no = ({tokenizer.encode(f"{s}{w}")[0] for w in group for s in ("", " ")} for group in words)
    expected = logits[..., sorted(yes - no)].exp().sum(-1).log() - logits[..., sorted(no - yes)].exp().sum(-1).log()
    assert torch.allclose(reader.margins(asked(), QUESTIONS[:2]), expected, atol=1e-5)


def test_tokens_spent_are_those_that_ran_without_padding(reader):
    given_activations, tokenizer = asked(), reader.subject.tokenizer
    prompts = sum(len(published_prompt(tokenizer, LAYER, a.n_slots, QUESTIONS[0])[0]) for a in given_activations)
    reader.log_probs(given_activations, QUESTIONS[:1], ANSWERS[:1])
    assert reader.tokens == prompts + 3 * (len(tokenizer.encode(ANSWERS[0])) + 1)


def test_asking_changes_no_channel_and_leaves_no_hook(reader):
    subject = reader.subject
    batch = subject.encode(tiny.TEXTS)
    before = {name: subject.logits(batch, name) for name in subject.channels}
    reader.answers(asked(), QUESTIONS)
    reader.log_probs(asked(), QUESTIONS, ANSWERS)
    for name, expected in before.items():
        assert torch.equal(subject.logits(batch, name), expected), name
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in subject.model.modules())


# -- what is read


@pytest.mark.parametrize("channel", ["base", "subject"])
def test_an_oracle_never_reads_its_own_activations_and_the_reading_says_whose_they_are(
    base_folder, lora_folder, reader, channel
):
    reader.answers(asked(), QUESTIONS[:1])
    where = [last(3)] * 3
    seen, _ = read(reader.subject, tiny.TEXTS, channel, (LAYER,), where)
    without = load_subject(str(base_folder), str(lora_folder))
    expected, _ = read(without, tiny.TEXTS, channel, (LAYER,), where)
    own, _ = read(reader.subject, tiny.TEXTS, "oracle", (LAYER,), where)
    assert {a.adapter for a in seen} == {None if channel == "base" else "subject"}
    assert {a.adapter for a in own} == {"oracle"}
    for mine, theirs, oracles in zip(seen, expected, own, strict=True):
        assert torch.equal(mine.vectors, theirs.vectors)
        assert not torch.allclose(mine.vectors, oracles.vectors, atol=0.1)


def test_an_adapter_that_was_switched_behind_our_back_stops_a_reading(subject):
    batch = subject.encode(tiny.TEXTS)
    with subject.channel("base"):
        subject.model.base_model.enable_adapter_layers()
        with pytest.raises(AssertionError, match="an adapter is active where the base was asked"):
            capture_layers(subject, batch, "base", [1])


def test_a_full_fine_tune_is_read_as_any_subject(base_folder, tmp_path):
    other = tiny.build_base(tmp_path / "tuned", seed=5)
    subject = load_subject(str(other), base=str(base_folder))
    seen, _ = read(subject, tiny.TEXTS, "subject", (LAYER,), [last(3)] * 3)
    plain, _ = read(load_subject(str(other)), tiny.TEXTS, "base", (LAYER,), [last(3)] * 3)
    assert all(torch.equal(a.vectors, b.vectors) for a, b in zip(seen, plain, strict=True))


def test_several_layers_are_read_in_one_pass_that_ends_after_the_deepest(subject):
    ran = []
    handles = [
        block.register_forward_hook(lambda *_, i=i: ran.append(i)) for i, block in enumerate(blocks(subject.model))
    ]
    (seen, *_), n = read(subject, tiny.TEXTS, "base", (1, 0), [last(2)] * 3)
    for handle in handles:
        handle.remove()
    assert ran == [0, 1]
    assert seen.layers == (0, 1)
    assert n == subject.encode(tiny.TEXTS).n_tokens
    for i, layer in enumerate((0, 1)):
        (alone, *_), _ = read(subject, tiny.TEXTS, "base", (layer,), [last(2)] * 3)
        assert torch.equal(seen.vectors[i], alone.vectors[0])


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (-1, (4,)),
        (0, (0,)),
        (slice(1, 3), (1, 2)),
        (last(2), (3, 4)),
        (slice(None), (0, 1, 2, 3, 4)),
        ((3, -5), (3, 0)),
    ],
    ids=str,
)
def test_positions_are_counted_from_the_start_or_the_end_of_the_text(where, expected):
    assert positions(where, 5) == expected


@pytest.mark.parametrize("where", [5, -6, last(6), slice(2, 9), (0, 7)], ids=str)
def test_a_position_outside_the_text_is_refused_with_those_there_are(where):
    with pytest.raises(ToolInputError, match=r"outside the text, which has 5 tokens: pass 0\.\.4, or -5\.\.-1"):
        positions(where, 5)


def test_padding_is_never_read(subject):
    lengths = [len(subject.tokenizer.encode(text)) for text in tiny.TEXTS]
    assert min(lengths) < 10 < max(lengths)
    with pytest.raises(ToolInputError, match="outside the text"):
        read(subject, tiny.TEXTS, "base", (LAYER,), [last(10)] * 3)
    together, _ = read(subject, tiny.TEXTS, "base", (LAYER,), [slice(None)] * 3)
    for text, mine in zip(tiny.TEXTS, together, strict=True):
        (alone,), _ = read(subject, [text], "base", (LAYER,), [slice(None)])
        assert torch.allclose(mine.vectors, alone.vectors, atol=1e-4)


def test_what_an_oracle_cannot_be_asked_about_is_refused(reader):
    cases = [
        ([], "at least one activation"),
        ([Activations(torch.full((1, 2, 32), float("nan")), (1,), "given")], "NaN or infinite"),
        ([Activations(torch.empty(1, 0, 32), (1,), "given")], "no vectors to ask about"),
        ([Activations(vectors(2)[None], (9,), "given")], r"layer 9 is out of range: the subject has layers 0\.\.2"),
        ([Activations(vectors(2, d_model=7)[None], (1,), "given")], "width 7 .+ 32 wide"),
    ]
    for wrong, message in cases:
        with pytest.raises(ToolInputError, match=message):
            reader.answers(wrong, ["why?"])


# -- controls


def test_every_answer_has_six_controls_and_the_lift_is_over_the_strongest(reader):
    group, tokens = controlled(reader, tiny.TEXTS, (LAYER,), [last(3)] * 3, seed=1)
    lifted = group.lifted(reader, "what?", "the river")
    assert set(lifted.controls) == {"no_activation", "zero_vector", "random", "base", "random_delta", "text_alone"}
    assert lifted.lift == lifted.value - max(lifted.controls.values())
    assert set(tokens) == {"subject", "base"}
    expected = reader.log_probs(group.mine, ["what?"], ["the river"]).mean()
    assert lifted.value == pytest.approx(float(expected), abs=1e-4)


def test_no_lift_is_above_zero_where_nothing_is_put_in(reader, monkeypatch):
    group, _ = controlled(reader, tiny.TEXTS, (LAYER,), [last(3)] * 3, seed=1)
    assert any(group.lifted(reader, "what?", a).lift != 0 for a in ANSWERS)
    monkeypatch.setattr(injection, "inject", lambda resid, *args, **kwargs: resid.clone())
    assert all(group.lifted(reader, "what?", a).lift <= 1e-5 for a in ANSWERS)


def test_where_the_subject_is_the_base_no_lift_is_above_zero(base_folder, oracle_folder):
    subject = load_subject(str(base_folder))
    subject.add_adapter("oracle", oracle_folder)
    reader = OracleReader(subject, CONTRACT)
    group, _ = controlled(reader, tiny.TEXTS, (LAYER,), [last(3)] * 3, seed=1)
    assert all(group.lifted(reader, "what?", a).lift <= 1e-5 for a in ANSWERS)


def test_other_vectors_bring_other_answers(reader):
    one, two = asked(5), [given(vectors(5, seed=77), LAYER)]
    assert reader.answers(one, QUESTIONS) != reader.answers(two, QUESTIONS)


def test_the_text_alone_is_asked_without_slots_and_its_special_tokens_are_broken_up(reader):
    prompt = reader.prompts.alone(tiny.TEXTS[0], "what?")
    assert prompt.slots == ()
    (end,) = reader.subject.tokenizer.convert_tokens_to_ids(["<|end|>"])
    assert prompt.ids.count(end) == 1
    assert reader.answers([TextAlone(tiny.TEXTS[0])], ["what?"])[0][0][0]


def test_a_spliced_context_is_half_of_one_window_and_half_of_another(reader):
    a, b = asked(4)[0], given(vectors(4, seed=9), LAYER)
    both = spliced(a, b)
    assert torch.equal(both.vectors[:, :2], a.vectors[:, :2])
    assert torch.equal(both.vectors[:, 2:], b.vectors[:, 2:])
    texts = [reader.log_probs([one], ["what?"], ANSWERS) for one in (a, b, both)]
    assert not torch.allclose(texts[2], texts[0], atol=1e-3)
    assert not torch.allclose(texts[2], texts[1], atol=1e-3)
    with pytest.raises(ToolInputError, match="can't be spliced"):
        spliced(a, asked(3)[0])


# -- adapters, dtypes, verbalisers


def test_adapters_are_loaded_in_the_bases_dtype_as_transformers_itself_loads_them(base_folder, oracle_folder):
    subject = load_subject(str(base_folder), dtype="bfloat16")
    subject.add_adapter("oracle", oracle_folder)
    native = AutoModelForCausalLM.from_pretrained(base_folder, dtype=torch.bfloat16).eval()
    native.load_adapter(str(oracle_folder))
    wide = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base_folder, dtype=torch.bfloat16), str(oracle_folder)
    ).eval()
    batch = subject.encode([tiny.TEXTS[1]])
    with torch.no_grad():
        expected, upcast = (model(input_ids=batch.ids).logits.float() for model in (native, wide))
    found = subject.logits(batch, "oracle")
    assert torch.equal(found, expected)
    assert not torch.equal(found, upcast)


@pytest.mark.parametrize("kind", ["llama", "gemma2", "gemma3"])
@pytest.mark.parametrize("scale", [150.0, None])
def test_a_verbaliser_is_given_a_row_of_embeddings_as_the_published_code_gives_it(tmp_path, kind, scale):
    import yaml

    base = tiny.build_other(tmp_path / "base", kind)
    spoken = tiny.build_other(tmp_path / "verbaliser", kind, seed=3)
    subject = load_subject(str(base))
    template = "what is <concept>{injection_char}</concept>?"
    turn = [{"role": "user", "content": template.format(injection_char=" ?")}]
    ids = subject.tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=True, return_dict=False)
    (marker,) = subject.tokenizer.encode(" ?")
    place = ids.index(marker)
    sidecar = {
        "kind": "nla_model", "role": "av", "base_checkpoint": "tiny", "d_model": 32,
        "extraction": {"injection_scale": scale, "layer_index": LAYER},
        "tokens": {"injection_char": " ?", "injection_token_id": marker, "injection_left_neighbor_id": ids[place - 1],
                   "injection_right_neighbor_id": ids[place + 1]},
        "prompt_templates": {"av": template},
    }  # fmt: skip
    (spoken / "nla_meta.yaml").write_text(yaml.safe_dump(sidecar))
    reader = load_oracle(subject, spoken)
    v = vectors(1, seed=8)
    found = reader.next_logits([given(v, LAYER)], [""])[0, 0]
    plain = tiny.load_bare(spoken)
    rows = (
        plain.get_input_embeddings()(torch.tensor([ids])).detach().clone()
    )  # scaled where the architecture scales them
    rows[0, place] = v[0] if scale is None else v[0] / (v[0].float().norm() / scale)
    with torch.no_grad():
        expected = plain(inputs_embeds=rows, logits_to_keep=1).logits[0, -1]
    assert torch.equal(found, expected)
    with pytest.raises(ToolInputError, match="verbaliser: it is given one vector and no question"):
        reader.answers([given(v, LAYER)], ["what?"])
    sidecar["tokens"]["injection_left_neighbor_id"] += 1
    (spoken / "nla_meta.yaml").write_text(yaml.safe_dump(sidecar))
    with pytest.raises(AdapterError, match="tokenizer or template is another one"):
        load_oracle(load_subject(str(base)), spoken)


def test_a_cache_with_room_holds_what_a_growing_one_holds_whatever_rows_are_kept():
    from transformers import DynamicCache

    def piece(n, seed):
        g = torch.Generator().manual_seed(seed)
        return [torch.randn(4, 2, n, 3, generator=g) for _ in range(2)]

    plain = DynamicCache()
    plain.update(*piece(5, 0), 0)
    ahead = roomy(plain, 2)
    before = plain.layers[0].keys.clone()
    for step in range(4):  # two more than there was room for
        new = piece(1, step + 1)
        rows = len(ahead.layers[0].keys)
        new = [part[:rows] for part in new]
        expected, found = plain.update(*new, 0), ahead.update(*new, 0)
        assert all(torch.equal(x, y) for x, y in zip(expected, found, strict=True))
        if step == 1:
            for cache in (plain, ahead):
                cache.batch_select_indices(torch.tensor([3, 1]))
        assert plain.get_seq_length() == ahead.get_seq_length() == 6 + step
    assert torch.equal(before, piece(5, 0)[0]), "the cache that it was made from is left alone"


# -- where to read


def test_a_sweep_tries_every_layer_and_measures_the_best_on_texts_that_did_not_choose_it(reader):
    texts = [*tiny.TEXTS, *(text.replace("the", "an") for text in tiny.TEXTS)]
    found = sweep(reader, texts, window=3, question="what?", seed=1)
    assert {one.layers for one in found.chosen_on} == {(0,), (1,), (2,)}
    lifts = [one.lift for one in found.chosen_on]
    assert lifts == sorted(lifts, reverse=True)
    assert found.layers == found.chosen_on[0].layers
    assert found.held_out.n == 3
    again = sweep(reader, texts[::-1][::-1], window=3, question="what?", seed=1, sets=[found.layers])
    assert again.held_out == found.held_out
    with pytest.raises(ToolInputError, match="too few to choose a layer"):
        sweep(reader, texts[:3], window=3, question="what?", seed=1)


def test_a_sweep_finds_nothing_where_nothing_is_put_in(reader, monkeypatch):
    monkeypatch.setattr(injection, "inject", lambda resid, *args, **kwargs: resid.clone())
    found = sweep(reader, list(tiny.TEXTS) * 2, window=3, question="what?", seed=1)
    assert all(one.lift <= 1e-5 for one in (*found.chosen_on, found.held_out))


def test_beside_a_difference_from_the_base_the_controls_are_differences_too(reader):
    where = [last(3)] * 3
    group, _ = controlled(reader, tiny.TEXTS, (LAYER,), where, seed=1, channel="difference")
    plain, _ = read(reader.subject, tiny.TEXTS, "base", (LAYER,), where)
    others, _ = read(reader.subject, tiny.TEXTS, "random_delta", (LAYER,), where)
    expected, _ = read(reader.subject, tiny.TEXTS, "difference", (LAYER,), where)
    for i in range(3):
        assert torch.equal(group.mine[i].vectors, expected[i].vectors)
        assert not group.controls["base"][i].vectors.any()
        assert torch.equal(group.controls["random_delta"][i].vectors, others[i].vectors - plain[i].vectors)
        norms = [one.vectors.norm(dim=-1) for one in (group.controls["random"][i], expected[i])]
        torch.testing.assert_close(*norms)
    assert {a.channel for a in group.mine} == {"difference"}
