"""One base in memory, several channels: each answers with its own weights and leaves the rest as they were."""

import shutil

import pytest
import tiny
import torch
from peft import PeftModel
from scipy.stats import chisquare

from tools.changes.put_on import lora_layers
from tools.channels import MAX_BATCH
from tools.errors import AdapterError, ModelLoadError, ToolInputError
from tools.loading import load_subject
from tools.sampling import SeededNoise

PROMPTS = [f"<|user|>{sentence} {i}<|end|><|assistant|>" for i in range(36) for sentence in tiny.SENTENCES]


def logits(subject, channel):
    return subject.logits(subject.encode(tiny.TEXTS), channel)


def logits_of(model, subject):
    batch = subject.encode(tiny.TEXTS)
    with torch.no_grad():
        return model(input_ids=batch.ids, attention_mask=batch.mask).logits


@pytest.fixture(scope="module")
def bare(base_folder):
    return tiny.load_bare(base_folder)


def peft_alone(base_folder, folder):
    return PeftModel.from_pretrained(tiny.load_bare(base_folder), str(folder)).eval()


# -- what each channel answers


def test_an_adapter_leaves_the_base_channel_bit_for_bit_as_the_bare_model(subject, bare):
    assert torch.equal(logits(subject, "base"), logits_of(bare, subject))
    assert not torch.equal(logits(subject, "subject"), logits_of(bare, subject)), (
        "the adapter changes nothing to begin with"
    )


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"target_modules": ["q_proj"]},
        {"use_rslora": True},
        {"rank_pattern": {"down_proj": 2}, "alpha_pattern": {"q_proj": 3}},
        {"layers_to_transform": [1]},
    ],
    ids=str,
)
def test_the_subject_channel_answers_as_the_same_adapter_under_peft_alone(base_folder, tmp_path, config):
    folder = tiny.build_lora(base_folder, tmp_path / "lora", **config)
    subject = load_subject(str(base_folder), str(folder))
    assert torch.equal(logits(subject, "subject"), logits_of(peft_alone(base_folder, folder), subject))


def test_without_an_adapter_subject_and_base_are_the_same_bit_for_bit(bare_subject, bare):
    assert torch.equal(logits(bare_subject, "subject"), logits(bare_subject, "base"))
    assert torch.equal(logits(bare_subject, "subject"), logits_of(bare, bare_subject))


def test_subject_and_oracle_do_not_leak_into_each_other(subject, base_folder, lora_folder, oracle_folder, bare):
    subject.add_adapter("oracle", oracle_folder)
    alone = {
        "subject": logits_of(peft_alone(base_folder, lora_folder), subject),
        "oracle": logits_of(peft_alone(base_folder, oracle_folder), subject),
        "base": logits_of(bare, subject),
    }
    assert not torch.equal(alone["subject"], alone["oracle"])
    for channel in ("oracle", "subject", "base", "subject", "oracle", "base", "oracle", "base"):
        assert torch.equal(logits(subject, channel), alone[channel]), channel


def test_an_oracle_that_touches_more_modules_than_the_subject_does_not_leak(base_folder, oracle_folder, tmp_path, bare):
    narrow = tiny.build_lora(base_folder, tmp_path / "q", target_modules=["q_proj"])
    subject = load_subject(str(base_folder), str(narrow))
    subject.add_adapter("oracle", oracle_folder)
    assert torch.equal(logits(subject, "subject"), logits_of(peft_alone(base_folder, narrow), subject))
    assert torch.equal(logits(subject, "oracle"), logits_of(peft_alone(base_folder, oracle_folder), subject))
    assert torch.equal(logits(subject, "base"), logits_of(bare, subject))


def test_an_oracle_on_a_bare_subject_leaves_the_subject_the_base(bare_subject, oracle_folder, bare):
    bare_subject.add_adapter("oracle", oracle_folder)
    for channel in ("subject", "base"):
        assert torch.equal(logits(bare_subject, channel), logits_of(bare, bare_subject))
    assert not torch.equal(logits(bare_subject, "oracle"), logits_of(bare, bare_subject))


def test_an_unknown_channel_is_refused_with_the_list_of_channels(subject, oracle_folder):
    subject.add_adapter("oracle", oracle_folder)
    with pytest.raises(ToolInputError, match=r"unknown channel 'teacher': the channels are base, oracle, subject"):
        logits(subject, "teacher")


# -- restored


def test_after_a_read_the_model_is_the_base_again(subject, bare):
    logits(subject, "subject")
    assert torch.equal(logits_of(subject.model, subject), logits_of(bare, subject))


@pytest.mark.parametrize("channel", ["subject", "base", "oracle"])
def test_after_an_exception_inside_a_channel_every_channel_answers_as_before(subject, oracle_folder, channel):
    subject.add_adapter("oracle", oracle_folder)
    before = {name: logits(subject, name) for name in subject.channels}
    with pytest.raises(RuntimeError, match="in the middle"), subject.channel(channel):
        raise RuntimeError("in the middle")
    for name, expected in before.items():
        assert torch.equal(logits(subject, name), expected), name


@pytest.mark.parametrize("outer", ["subject", "base", "oracle"])
@pytest.mark.parametrize("inner", ["subject", "base", "oracle"])
def test_a_channel_read_inside_another_gives_the_outer_one_back(subject, oracle_folder, outer, inner):
    subject.add_adapter("oracle", oracle_folder)
    expected = logits(subject, outer), logits(subject, inner)
    with subject.channel(outer) as model:
        assert torch.equal(logits(subject, inner), expected[1])
        assert torch.equal(logits_of(model, subject), expected[0])


def load_or_refusal(base_folder, folder):
    """Return the subject, or the words in which its adapter was refused."""
    try:
        return load_subject(str(base_folder), str(folder)), ""
    except AdapterError as refused:
        return None, str(refused)


@pytest.mark.parametrize("init", [True, "gaussian", "orthogonal", "pissa", "olora"])
def test_no_way_of_initialising_an_adapter_changes_the_base_channel(base_folder, lora_folder, tmp_path, bare, init):
    folder = shutil.copytree(lora_folder, tmp_path / "lora")
    tiny.edit_json(folder / "adapter_config.json", init_lora_weights=init)
    subject, refusal = load_or_refusal(base_folder, folder)
    assert str(init) in refusal or torch.equal(logits(subject, "base"), logits_of(bare, subject))


def test_an_adapter_that_repeats_layers_of_the_base_does_not_change_the_base_channel(base_folder, tmp_path, bare):
    folder = tiny.build_lora(base_folder, tmp_path / "lora", layers_to_transform=[0])
    tiny.edit_json(folder / "adapter_config.json", layer_replication=[[0, 2], [1, 3]])
    subject, refusal = load_or_refusal(base_folder, folder)
    assert "layer_replication" in refusal or torch.equal(logits(subject, "base"), logits_of(bare, subject))


def wrong_rank(tensors):
    module = "base_model.model.model.layers.2.mlp.down_proj"
    return {**tensors, f"{module}.lora_A.weight": torch.ones(9, 48), f"{module}.lora_B.weight": torch.ones(32, 9)}


def tensor_too_many(tensors):
    return {**tensors, "base_model.model.lm_head.lora_A.weight": torch.ones(4, 32)}


def tensor_too_few(tensors):
    return dict(list(tensors.items())[2:])


@pytest.mark.parametrize("damage", [wrong_rank, tensor_too_many, tensor_too_few])
@pytest.mark.parametrize("loaded", ["bare_subject", "subject"])
def test_a_refused_adapter_leaves_every_channel_as_it_was(request, oracle_folder, tmp_path, damage, loaded):
    subject = request.getfixturevalue(loaded)
    folder = shutil.copytree(oracle_folder, tmp_path / "oracle")
    tiny.edit_tensors(folder / tiny.ADAPTER, damage)
    before = {name: logits(subject, name) for name in subject.channels}
    with pytest.raises(AdapterError):
        subject.add_adapter("oracle", folder)
    assert "oracle" not in subject.channels
    for name, expected in before.items():
        assert torch.equal(logits(subject, name), expected), name


# -- the null channel


def dense_norms(subject, name):
    return {
        path: float(
            (module.lora_B[name].weight.double() @ module.lora_A[name].weight.double()).norm() * module.scaling[name]
        )
        for _, path, module in lora_layers(subject.model)
        if name in module.lora_A
    }


@pytest.mark.parametrize(
    "config", [{}, {"use_rslora": True}, {"rank_pattern": {"down_proj": 2}, "alpha_pattern": {"q_proj": 3}}], ids=str
)
def test_a_null_has_the_subjects_norm_of_change_in_every_module_and_says_something_else(base_folder, tmp_path, config):
    subject = load_subject(str(base_folder), str(tiny.build_lora(base_folder, tmp_path / "lora", **config)))
    before = {name: logits(subject, name) for name in ("subject", "base")}
    subject.add_null("null", seed=5)
    assert dense_norms(subject, "null") == pytest.approx(dense_norms(subject, "subject"), rel=1e-5)
    assert not torch.allclose(logits(subject, "null"), before["subject"], atol=0.1)
    assert not torch.allclose(logits(subject, "null"), before["base"], atol=0.1)
    for name, expected in before.items():
        assert torch.equal(logits(subject, name), expected), name


def test_a_null_is_a_function_of_its_seed(subject):
    seen = []
    for seed in (1, 2, 1):
        subject.add_null("null", seed)
        seen.append(logits(subject, "null"))
    assert torch.equal(seen[0], seen[2])
    assert not torch.equal(seen[0], seen[1])


def test_a_null_of_a_bare_subject_reads_as_the_base(bare_subject, oracle_folder):
    bare_subject.add_adapter("oracle", oracle_folder)
    bare_subject.add_null("null", seed=5)
    assert torch.equal(logits(bare_subject, "null"), logits(bare_subject, "base"))


def test_a_null_can_stand_beside_an_oracle_that_touches_more_modules(base_folder, oracle_folder, tmp_path):
    narrow = tiny.build_lora(base_folder, tmp_path / "q", target_modules=["q_proj"])
    subject = load_subject(str(base_folder), str(narrow))
    subject.add_adapter("oracle", oracle_folder)
    subject.add_null("null", seed=5)
    assert dense_norms(subject, "null") == pytest.approx(dense_norms(subject, "subject"), rel=1e-5)


# -- a full fine-tune


def test_a_full_fine_tune_answers_on_the_subject_channel_and_its_base_on_the_other(
    base_folder, tmp_path, bare, oracle_folder
):
    folder = tiny.build_base(tmp_path / "tuned", seed=3)
    subject = load_subject(str(folder), base=str(base_folder))
    subject.add_adapter("oracle", oracle_folder)
    assert torch.equal(logits(subject, "subject"), logits_of(tiny.load_bare(folder), subject))
    assert torch.equal(logits(subject, "base"), logits_of(bare, subject))
    assert not torch.equal(logits(subject, "subject"), logits(subject, "base"))


def test_a_fine_tune_of_another_shape_is_refused(base_folder, tmp_path):
    wide = tiny.build_base(tmp_path / "wide", d_model=64)
    with pytest.raises(
        ModelLoadError, match="no fine-tune of this base.*lm_head.weight|no fine-tune of this base.*embed_tokens"
    ):
        load_subject(str(wide), base=str(base_folder))


def test_an_adapter_and_a_fine_tune_at_once_are_refused(base_folder, lora_folder, tmp_path):
    folder = tiny.build_base(tmp_path / "tuned", seed=3)
    with pytest.raises(ToolInputError, match="not both"):
        load_subject(str(folder), adapter=str(lora_folder), base=str(base_folder))


def test_a_base_that_is_the_subject_itself_is_no_fine_tune(base_folder):
    assert load_subject(str(base_folder), base=str(base_folder)).tuned is None


def test_generation_settings_of_a_fine_tune_are_noted_and_not_used(base_folder, tmp_path):
    folder = shutil.copytree(base_folder, tmp_path / "tuned")
    tiny.edit_json(folder / "generation_config.json", repetition_penalty=5.0, suppress_tokens=list(range(5, 200)))
    subject = load_subject(str(folder), base=str(base_folder))
    assert any("generation_config.json" in note for note in subject.notes)
    replies = {c: subject.generate(PROMPTS[:4], c, range(4), 12, temperature=0.7)[0] for c in ("subject", "base")}
    assert replies["subject"] == replies["base"], "weights and seeds are the same"


# -- sampling


def test_a_reply_depends_neither_on_its_batch_nor_on_its_place_in_it(subject):
    seeds = list(range(100, 100 + len(PROMPTS)))
    assert len(PROMPTS) > MAX_BATCH, "the batch is to be cut at least once"
    together, _ = subject.generate(PROMPTS, "subject", seeds, 12)
    backwards, _ = subject.generate(PROMPTS[::-1], "subject", seeds[::-1], 12)
    assert backwards[::-1] == together
    for i in (0, 5, 70):
        assert subject.generate([PROMPTS[i]], "subject", [seeds[i]], 12)[0] == [together[i]]
    assert len(set(together)) > len(PROMPTS) // 2, "replies are not all alike to begin with"


def test_another_seed_gives_another_reply(subject):
    one, other = (subject.generate([PROMPTS[0]] * 8, "subject", range(s, s + 8), 12)[0] for s in (0, 8))
    assert not set(one) & set(other)


def test_equal_seeds_and_equal_weights_give_equal_replies_in_both_channels(base_folder, tmp_path, subject):
    zero = tiny.build_lora(base_folder, tmp_path / "zero", size=0.0)
    twin = load_subject(str(base_folder), str(zero))
    replies = {c: twin.generate(PROMPTS, c, range(len(PROMPTS)), 12)[0] for c in ("subject", "base")}
    assert replies["subject"] == replies["base"]
    assert replies["base"] == subject.generate(PROMPTS, "base", range(len(PROMPTS)), 12)[0]
    assert replies["base"] != subject.generate(PROMPTS, "subject", range(len(PROMPTS)), 12)[0]


@pytest.mark.parametrize("channel", ["subject", "base"])
def test_temperature_zero_is_the_argmax_of_whole_forward_passes(subject, channel):
    text = tiny.TEXTS[1]
    ids = subject.encode([text]).ids
    n_prompt = ids.shape[1]
    with torch.no_grad(), subject.channel(channel) as model:
        while ids.shape[1] < n_prompt + 12 and int(ids[0, -1]) != subject.tokenizer.eos_token_id:
            best = model(input_ids=ids).logits[:, -1].argmax(-1, keepdim=True)
            ids = torch.cat([ids, best], dim=1)
    expected = subject.tokenizer.decode(ids[0, n_prompt:], skip_special_tokens=True).strip()
    assert subject.generate([text], channel, [7], 12, temperature=0.0)[0] == [expected]


def counts(scores, temperature, seeds, steps):
    noise = SeededNoise(seeds, temperature)
    rows = scores.expand(len(seeds), -1)
    drawn = torch.cat([noise(torch.empty(len(seeds), 0), rows).argmax(-1) for _ in range(steps)])
    return torch.bincount(drawn, minlength=scores.shape[-1]).double().numpy()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
@pytest.mark.parametrize(("seeds", "steps"), [(range(4000), 10), (range(5), 8000)], ids=["many seeds", "long replies"])
def test_the_noise_draws_from_the_softmax_at_its_temperature(temperature, seeds, steps):
    scores = torch.tensor([1.5, 0.3, -0.4, 0.0, 2.0, -2.0, 0.9, 0.1])
    seen = counts(scores, temperature, list(seeds), steps)
    n = seen.sum()
    assert chisquare(seen, n * (scores.double() / temperature).softmax(-1).numpy()).pvalue > 0.001
    wrong = (scores.double() / (temperature * 1.1)).softmax(-1).numpy()
    assert chisquare(seen, n * wrong).pvalue < 1e-6, "the test could not tell a temperature a tenth off"


def test_what_is_drawn_is_the_largest_of_all_noisy_scores_though_few_are_made():
    scores = 3 * torch.randn(16, 900, generator=torch.Generator().manual_seed(0))
    drawn, added, whole = (SeededNoise(range(16), 1.3) for _ in range(3))
    row, token = torch.arange(16).repeat_interleave(900), torch.arange(900).repeat(16)
    for _ in range(20):
        noisy = scores + 1.3 * whole._gumbel(row, token).view(16, 900)
        whole.step += 1
        assert torch.equal(drawn.draw(scores), noisy.argmax(-1))
        few = added(torch.empty(16, 0), scores)
        assert torch.equal(few.argmax(-1), noisy.argmax(-1))
        assert bool(few.isinf().any()), "not all noise is made"


def test_temperature_zero_leaves_the_scores_alone():
    scores = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(SeededNoise([1, 2, 3], 0.0)(torch.empty(3, 0), scores), scores)


def test_forward_tokens_are_the_prompts_and_replies_without_padding(subject):
    eos, pad = subject.tokenizer.eos_token_id, subject.tokenizer.pad_token_id
    batch = subject.encode(PROMPTS[:MAX_BATCH])
    out = subject.generate_ids(batch, "subject", 24, SeededNoise(list(range(MAX_BATCH)), 1.5))
    replies = [row[: row.index(eos) + 1] if eos in row else row for row in out[:, batch.ids.shape[1] :].tolist()]
    chosen = [i for i, reply in enumerate(replies) if pad not in reply]
    n_short = sum(len(replies[i]) < 24 for i in chosen)
    assert 0 < n_short < len(chosen), "some replies end early, so that the batch has padding on both sides"
    _, tokens = subject.generate([PROMPTS[i] for i in chosen], "subject", chosen, 24, temperature=1.5)
    whole = sum(len(subject.tokenizer.encode(PROMPTS[i])) + len(replies[i]) for i in chosen)
    n_head = len(subject.dialogue.head)
    assert n_head > 0
    assert tokens == whole - n_head * (len(chosen) - 1), "what all prompts begin with is run once"
    assert subject.encode(tiny.TEXTS).n_tokens == sum(len(subject.tokenizer.encode(t)) for t in tiny.TEXTS)


def test_an_unknown_dtype_is_refused_with_the_list_of_dtypes(base_folder):
    with pytest.raises(ToolInputError, match=r"unknown dtype 'int4': pass auto, float32, bfloat16, float16"):
        load_subject(str(base_folder), dtype="int4")
