"""The oracle's protocol: its contract, its prompt, and how vectors go in, each against a plain re-implementation."""

import json

import pytest
import tiny
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from tools.activation_oracle import train
from tools.activation_oracle.contract import CONFIG_FILE, PREFIX_TEMPLATE, OracleContract, read_contract
from tools.activation_oracle.read import OracleReader, Question, inject, windows
from tools.errors import AdapterError, ToolInputError
from tools.loading import load_subject
from tools.residual import capture

LAYER, ANSWERS = 1, ("the river", "a kettle stands by the bridge", "no")
CONTRACT = OracleContract(model_name="tiny", read_layers=(LAYER,), max_new_tokens=8)


@pytest.fixture
def reader(subject, oracle_folder):
    subject.add_adapter("oracle", oracle_folder)
    return OracleReader(subject, CONTRACT)


@pytest.fixture(scope="module")
def oracle_alone(base_folder, oracle_folder):
    """Return the oracle as PEFT alone loads it, no subject beside it."""
    return PeftModel.from_pretrained(tiny.load_bare(base_folder), str(oracle_folder)).eval()


def vectors(n_slots, seed=0):
    return torch.randn(n_slots, 32, generator=torch.Generator().manual_seed(seed))


def questions():
    """Return questions of ragged number of slots and of ragged length, one with a placeholder in its words."""
    texts = ("what is it?", "where does the river run at night ? ? and why ?", "who?")
    return [Question(vectors(n, seed=n), LAYER, text) for n, text in zip((3, 10, 1), texts, strict=True)]


# -- a plain re-implementation, one row at a time, nothing cached


def prompt_ids(tokenizer, question):
    """Return the ids of the oracle's prompt and where its slots are, from the pieces of the text."""
    k = len(question.vectors)
    head = f"<|user|>Layer: {question.layer}\n"
    ids = tokenizer.encode(head + " ?" * k + f" \n{question.text}<|end|><|assistant|>", add_special_tokens=False)
    first = len(tokenizer.encode(head, add_special_tokens=False))
    assert ids[first : first + k] == tokenizer.encode(" ?", add_special_tokens=False) * k
    return ids, range(first, first + k)


def injected_one_by_one(resid, slots, given, coefficient):
    out = resid.clone()
    for row in range(resid.shape[0]):
        for place, v in zip(slots[row], given[row], strict=True):
            h = resid[row, place]
            unit = v / v.norm().clamp_min(1e-12)
            out[row, place] = h + coefficient * h.norm() * unit
    return out


@torch.no_grad()
def next_log_probs(model, ids, slots, given):
    """Return the log-probabilities of the next token after `ids`, the vectors put in after block 1."""

    def hook(module, inputs, output):
        resid = output if torch.is_tensor(output) else output[0]
        return injected_one_by_one(resid, [list(slots)], [given], 1.0)

    handle = model.get_base_model().model.layers[1].register_forward_hook(hook)
    try:
        return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].log_softmax(-1)
    finally:
        handle.remove()


def log_prob_by_hand(model, tokenizer, question, answer):
    ids, slots = prompt_ids(tokenizer, question)
    total = 0.0
    for token in [*tokenizer.encode(answer, add_special_tokens=False), tokenizer.eos_token_id]:
        total += float(next_log_probs(model, ids, slots, question.vectors)[token])
        ids = [*ids, token]
    return total


def answer_by_hand(model, tokenizer, question, n):
    ids, slots = prompt_ids(tokenizer, question)
    said = []
    while len(said) < n and (not said or said[-1] != tokenizer.eos_token_id):
        said.append(int(next_log_probs(model, ids + said, slots, question.vectors).argmax()))
    return tokenizer.decode(said, skip_special_tokens=True).strip()


# -- contract


def test_a_contract_that_was_saved_reads_back_the_same(tmp_path):
    contract = OracleContract(
        model_name="m", read_layers=(9, 18, 27), hook_onto_layer=2, steering_coefficient=2.5, window=7
    )
    contract.save(tmp_path)
    assert read_contract(tmp_path) == contract
    assert contract != OracleContract(model_name="m", read_layers=(9, 18, 27))


def test_keys_that_published_checkpoints_add_are_let_be(tmp_path):
    CONTRACT.save(tmp_path)
    tiny.edit_json(tmp_path / CONFIG_FILE, training_git_sha="abc", wandb_project=None)
    assert read_contract(tmp_path) == CONTRACT


def test_an_unknown_prefix_is_refused_with_both_strings(tmp_path):
    CONTRACT.save(tmp_path)
    other = "L{layer}:{special_token} * {num_positions}"
    tiny.edit_json(tmp_path / CONFIG_FILE, prefix_template=other)
    with pytest.raises(AdapterError) as refused:
        read_contract(tmp_path)
    assert repr(other) in str(refused.value)
    assert repr(PREFIX_TEMPLATE) in str(refused.value)


def test_an_oracle_without_a_contract_is_refused_by_the_missing_file(oracle_folder):
    with pytest.raises(AdapterError, match="ao_config.json is missing"):
        read_contract(oracle_folder)


@pytest.mark.parametrize(
    "change", [{"read_layers": "all"}, {"model_name": None}, {"hook_onto_layer": "first"}], ids=str
)
def test_a_field_of_the_wrong_kind_is_refused_by_name(tmp_path, change):
    CONTRACT.save(tmp_path)
    tiny.edit_json(tmp_path / CONFIG_FILE, **change)
    with pytest.raises(AdapterError, match=rf"ao_config.json lacks or misspells: {next(iter(change))}"):
        read_contract(tmp_path)


def test_a_field_that_is_missing_is_refused_by_name(tmp_path):
    (tmp_path / CONFIG_FILE).write_text(json.dumps({"model_name": "m"}))
    with pytest.raises(AdapterError, match="lacks or misspells: read_layers"):
        read_contract(tmp_path)


# -- prompt


@pytest.mark.parametrize("k", [1, 5, 50])
def test_the_prompt_is_the_published_string(subject, k):
    turn = CONTRACT.prompt(2, k, "what is it?")
    assert turn == "Layer: 2\n" + " ?" * k + " \nwhat is it?"
    ids = subject.tokenizer.encode(turn)
    assert ids.count(subject.tokenizer.encode(" ?")[0]) == k


def test_a_placeholder_that_is_not_one_token_is_refused(subject):
    odd = CONTRACT.model_copy(update={"special_token": " zq"})
    n = len(subject.tokenizer.encode(" zq"))
    assert n > 1
    with pytest.raises(AdapterError, match=rf"placeholder ' zq' is {n} tokens for this base; it has to be one"):
        OracleReader(subject, odd)


@pytest.mark.parametrize("hook_onto_layer", [-1, 3])
def test_a_contract_that_hooks_a_block_the_base_lacks_is_refused(subject, oracle_folder, hook_onto_layer):
    subject.add_adapter("oracle", oracle_folder)
    contract = CONTRACT.model_copy(update={"hook_onto_layer": hook_onto_layer})
    with pytest.raises((AdapterError, ToolInputError), match=str(hook_onto_layer)):
        OracleReader(subject, contract).log_probs(questions(), ANSWERS)


def test_slots_are_the_placeholders_of_the_prefix_though_the_question_has_some_of_its_own(reader):
    asked = questions()
    batch, slots = reader._encode(asked, ANSWERS)
    width = batch.ids.shape[1]
    for row, question in enumerate(asked):
        ids, expected = prompt_ids(reader.subject.tokenizer, question)
        ids = [*ids, *reader.subject.tokenizer.encode(ANSWERS[row]), reader.subject.tokenizer.eos_token_id]
        pad = width - len(ids)
        assert slots[row].tolist() == [pad + place for place in expected]
        assert batch.ids[row, pad:].tolist() == ids
        assert batch.mask[row].tolist() == [0] * pad + [1] * len(ids)
    assert ids.count(reader.placeholder) == 1
    assert int((batch.ids[1] == reader.placeholder).sum()) > len(slots[1])


# -- injection


def residuals(batch=3, pos=12, seed=5):
    return torch.randn(batch, pos, 32, generator=torch.Generator().manual_seed(seed))


SLOTS = [torch.tensor([2, 3, 4]), torch.tensor([5]), torch.tensor([0, 1, 2, 3, 4, 5, 6])]


@pytest.mark.parametrize("coefficient", [1.0, 0.5, 4.0])
def test_the_injection_is_its_formula_bit_for_bit(coefficient):
    resid, given = residuals(), [vectors(len(s), seed=i) for i, s in enumerate(SLOTS)]
    expected = injected_one_by_one(resid, [s.tolist() for s in SLOTS], given, coefficient)
    assert torch.equal(inject(resid, SLOTS, given, coefficient), expected)
    assert not torch.allclose(expected, resid, atol=0.1)


def test_vectors_go_in_at_their_slots_and_nowhere_else():
    resid, given = residuals(), [vectors(len(s), seed=i) for i, s in enumerate(SLOTS)]
    before = resid.clone()
    out = inject(resid, SLOTS, given, 1.0)
    assert torch.equal(resid, before), "the residual stream given is left alone"
    for row, where in enumerate(SLOTS):
        inside = torch.zeros(resid.shape[1], dtype=torch.bool)
        inside[where] = True
        assert torch.equal(out[row, ~inside], resid[row, ~inside])
        assert not torch.isclose(out[row, inside], resid[row, inside]).all(dim=-1).any()
        added = out[row, inside] - resid[row, inside]
        assert torch.allclose(added.norm(dim=-1), resid[row, inside].norm(dim=-1), rtol=1e-5)


def test_a_zero_vector_adds_nothing():
    resid = residuals()
    assert torch.equal(inject(resid, SLOTS, [vectors(len(s)) * 0 for s in SLOTS], 1.0), resid)
    given = [vectors(len(s), seed=i) for i, s in enumerate(SLOTS)]
    given[0][1] = 0.0
    out = inject(resid, SLOTS, given, 1.0)
    assert torch.equal(out[0, 3], resid[0, 3])
    assert not torch.equal(out[0, 2], resid[0, 2])


@pytest.mark.parametrize("factor", [37.0, 1e-4])
def test_only_the_direction_of_a_vector_matters(factor):
    resid, given = residuals(), [vectors(len(s), seed=i) for i, s in enumerate(SLOTS)]
    one, other = inject(resid, SLOTS, given, 1.0), inject(resid, SLOTS, [factor * v for v in given], 1.0)
    assert torch.allclose(one, other, atol=1e-5)
    assert not torch.allclose(one, inject(resid, SLOTS, [-v for v in given], 1.0), atol=0.1)


def test_the_scale_of_what_was_read_does_not_change_what_the_oracle_says(reader):
    asked = questions()
    louder = [Question(37.0 * q.vectors, q.layer, q.text) for q in asked]
    other = [Question(-q.vectors, q.layer, q.text) for q in asked]
    one, _ = reader.log_probs(asked, ANSWERS)
    assert reader.log_probs(louder, ANSWERS)[0] == pytest.approx(one, abs=1e-3)
    assert reader.log_probs(other, ANSWERS)[0] != pytest.approx(one, abs=0.1)


# -- answers and their log-probabilities


def test_log_probs_are_the_sums_that_whole_forward_passes_give(reader, oracle_alone):
    asked, tokenizer = questions(), reader.subject.tokenizer
    expected = [log_prob_by_hand(oracle_alone, tokenizer, q, a) for q, a in zip(asked, ANSWERS, strict=True)]
    assert reader.log_probs(asked, ANSWERS)[0] == pytest.approx(expected, abs=5e-4)
    silent = [Question(q.vectors * 0, q.layer, q.text) for q in asked]
    for mine, without in zip(expected, reader.log_probs(silent, ANSWERS)[0], strict=True):
        assert abs(mine - without) > 0.02, "the vectors make no difference"


def test_answers_are_the_argmax_of_whole_forward_passes_with_the_vectors_in_each(reader, oracle_alone):
    asked, tokenizer = questions(), reader.subject.tokenizer
    expected = [answer_by_hand(oracle_alone, tokenizer, q, CONTRACT.max_new_tokens) for q in asked]
    assert reader.answer(asked)[0] == expected
    silent = [Question(q.vectors * 0, q.layer, q.text) for q in asked]
    assert reader.answer(silent)[0] != expected


def test_rows_asked_together_are_answered_as_each_alone(reader):
    asked = questions()
    together, answers = reader.log_probs(asked, ANSWERS)[0], reader.answer(asked)[0]
    for row, question in enumerate(asked):
        assert reader.log_probs([question], [ANSWERS[row]])[0] == pytest.approx([together[row]], abs=5e-4)
        assert reader.answer([question])[0] == [answers[row]]
    backwards = reader.log_probs(asked[::-1], ANSWERS[::-1])[0]
    assert backwards[::-1] == pytest.approx(together, abs=5e-4)


def test_tokens_spent_are_prompts_and_answers_without_padding(reader):
    asked, tokenizer = questions(), reader.subject.tokenizer
    prompts = sum(len(prompt_ids(tokenizer, q)[0]) for q in asked)
    answers = sum(len(tokenizer.encode(a)) + 1 for a in ANSWERS)
    assert reader.log_probs(asked, ANSWERS)[1] == prompts + answers
    assert prompts < reader.answer(asked)[1] <= prompts + len(asked) * CONTRACT.max_new_tokens


def test_asking_the_oracle_changes_no_channel_and_leaves_no_hook(reader):
    subject = reader.subject
    batch = subject.encode(tiny.TEXTS)
    before = {name: subject.logits(batch, name) for name in subject.channels}
    reader.answer(questions())
    reader.log_probs(questions(), ANSWERS)
    for name, expected in before.items():
        assert torch.equal(subject.logits(batch, name), expected), name
    assert not any(module._forward_hooks for module in subject.model.modules())


# -- what is read


@pytest.mark.parametrize("channel", ["base", "subject"])
def test_an_oracle_never_reads_its_own_activations(base_folder, lora_folder, reader, channel):
    reader.answer(questions())
    seen = windows(reader.subject, tiny.TEXTS, channel, LAYER, 4)
    without = load_subject(str(base_folder), str(lora_folder))
    expected = windows(without, tiny.TEXTS, channel, LAYER, 4)
    own = windows(reader.subject, tiny.TEXTS, "oracle", LAYER, 4)
    for mine, theirs, oracles in zip(seen, expected, own, strict=True):
        assert torch.equal(mine, theirs)
        assert not torch.allclose(mine, oracles, atol=0.1)


def test_a_window_is_the_last_tokens_of_its_own_text_padding_left_out(subject):
    lengths = [len(subject.tokenizer.encode(text)) for text in tiny.TEXTS]
    assert min(lengths) < 10 < max(lengths), "one text is shorter than the window, another longer"
    for text, window, n in zip(tiny.TEXTS, windows(subject, tiny.TEXTS, "base", LAYER, 10), lengths, strict=True):
        alone = capture(subject, subject.encode([text]), "base", LAYER)[0]
        assert window.shape == (min(10, n), 32)
        assert torch.allclose(window, alone[-10:], atol=1e-4)


def test_a_saved_oracle_names_its_base_and_no_folder_of_this_machine(base_folder, tmp_path):
    config = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    trained = get_peft_model(tiny.load_bare(base_folder), config, adapter_name="oracle")
    train._save(trained, CONTRACT, tmp_path / "oracle")
    files = sorted(file.name for file in (tmp_path / "oracle").iterdir())
    assert files == ["adapter_config.json", "adapter_model.safetensors", CONFIG_FILE]
    assert json.loads((tmp_path / "oracle" / "adapter_config.json").read_text())["base_model_name_or_path"] == "tiny"
    load_subject(str(base_folder)).add_adapter("oracle", tmp_path / "oracle")
