"""Files as strangers publish them: what an audit and a scan make of each, beside what PEFT and transformers make of it."""

import json
import shutil
import warnings

import psutil
import pytest
import tiny
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from test_adapter_kinds import IDS, logits_of, own, stir, trained

from tools import checkpoint, model
from tools.changes.change import read_change
from tools.changes.parameters import Parameters
from tools.changes.reading import read_adapter
from tools.changes.settings import SETTINGS
from tools.errors import AdapterError, ModelLoadError
from tools.loading import load_subject
from tools.triage.triage import Scan, triage


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    return tmp_path_factory.mktemp("published")


@pytest.fixture(scope="module")
def base(room):
    return tiny.build_base(room / "base")


@pytest.fixture(scope="module")
def tied(room):
    return tiny.build_other(room / "tied", "llama_tied")


@pytest.fixture(scope="module")
def plain(base, room):
    return trained(base, room / "plain")


@pytest.fixture
def folder(plain, tmp_path):
    return tiny.copy(plain, tmp_path / "adapter")


def assert_read_by_both(base, folder, expected):
    """Assert that an audit's subject has these logits, and that a scan says it read everything."""
    assert torch.allclose(own(load_subject(str(base), str(folder)), "subject"), expected, atol=1e-5)
    seen = triage(Scan(str(folder), str(base)))
    assert seen.outcome == "read", (seen.why, seen.unsupported)
    return seen


def test_every_setting_of_pefts_lora_has_a_rule():
    assert set(LoraConfig.__dataclass_fields__) <= set(SETTINGS)


# -- configurations


@pytest.mark.parametrize(
    "change",
    [
        {"auto_mapping": {"base_model_class": "Qwen2", "parent_library": "transformers.models.qwen2"}, "task_type": None},
        {"auto_mapping": {"base_model_class": "A", "parent_library": "peft.peft_model", "unsloth_fixed": True}},
        {"enable_lora": None, "merge_weights": False},
        {"lora_dtype": None, "lorap_emb_lr": 1e-6, "odd": {}, "other": [], "text": ""},
        {"task_type": None},
        {"lora_dropout": 0.5, "loftq_config": {"loftq_bits": 4}},
    ],
    ids=["auto_mapping of transformers", "auto_mapping of unsloth", "alpaca-lora", "ms-swift", "no task type", "training"],
)  # fmt: skip
def test_what_trainers_write_into_a_configuration_turns_nobody_away(base, plain, folder, change):
    tiny.edit_json(folder / "adapter_config.json", **change)
    assert_read_by_both(base, folder, logits_of(base, plain))


@pytest.mark.parametrize(
    "change", [{"use_magic": 0.5}, {"enable_lora": [True, False]}, {"on_load": "import os"}], ids=str
)
def test_a_setting_of_no_known_meaning_is_refused_by_an_audit_and_not_called_read_by_a_scan(base, folder, change):
    tiny.edit_json(folder / "adapter_config.json", **change)
    with pytest.raises(AdapterError, match=f"{next(iter(change))}.*remove it"):
        load_subject(str(base), str(folder))
    assert triage(Scan(str(folder), str(base))).outcome == "partial"


def test_a_megatron_adapter_imports_nothing(base, folder, tmp_path, monkeypatch):
    (tmp_path / "evil_core.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.syspath_prepend(str(tmp_path))
    tiny.edit_json(folder / "adapter_config.json", megatron_core="evil_core")
    load_subject(str(base), str(folder))
    tiny.edit_json(folder / "adapter_config.json", megatron_config={"a": 1})
    with pytest.raises(AdapterError, match="megatron_config"):
        load_subject(str(base), str(folder))
    assert not (tmp_path / "ran").exists()


# -- embeddings and vocabularies


@pytest.mark.parametrize("kind", ["base", "tied"])
@pytest.mark.parametrize("n", [302, 296])
def test_an_adapter_with_another_vocabulary_is_compared_on_the_tokens_that_both_have(request, tmp_path, kind, n):
    base = request.getfixturevalue(kind)
    resized = tiny.load_bare(base)
    resized.resize_token_embeddings(n, mean_resizing=False)
    model = get_peft_model(resized, LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    stir(model)
    with torch.no_grad():
        resized.get_input_embeddings().weight[:40] += 0.05
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(tmp_path / "lora", save_embedding_layers=True)
    again = tiny.load_bare(base)
    again.resize_token_embeddings(n, mean_resizing=False)
    expected = PeftModel.from_pretrained(again, str(tmp_path / "lora")).eval()(input_ids=IDS).logits
    subject, both = load_subject(str(base), str(tmp_path / "lora")), min(n, 300)
    assert torch.allclose(own(subject, "subject")[..., :both], expected[..., :both], atol=1e-5)
    assert torch.allclose(own(subject, "base"), tiny.load_bare(base)(input_ids=IDS).logits, atol=1e-5)
    assert any(f"has {n} tokens" in note and "300" in note for note in subject.notes)
    seen = triage(Scan(str(tmp_path / "lora"), str(base)))
    assert seen.outcome == "read", seen.unsupported
    assert any(f"has {n} tokens" in reading for reading in seen.readings)


@pytest.mark.parametrize("kind", ["base", "tied"])
@pytest.mark.parametrize("n", [302, 296])
def test_a_fine_tune_with_another_vocabulary_is_compared_on_the_tokens_that_both_have(request, tmp_path, kind, n):
    base = request.getfixturevalue(kind)
    tuned = tiny.load_bare(base)
    tuned.resize_token_embeddings(n, mean_resizing=False)
    with torch.no_grad():
        tuned.model.layers[1].mlp.up_proj.weight.add_(0.01 * torch.randn(48, 32))
    tuned.save_pretrained(tmp_path / "ft")
    shutil.copy(base / "tokenizer.json", tmp_path / "ft")
    subject, both = load_subject(str(tmp_path / "ft"), base=str(base)), min(n, 300)
    assert own(subject, "subject").shape == own(subject, "base").shape
    assert torch.allclose(own(subject, "subject")[..., :both], tuned(input_ids=IDS).logits[..., :both], atol=1e-5)
    assert any(f"has {n} tokens" in note for note in subject.notes)
    seen = triage(Scan(str(tmp_path / "ft"), str(base)))
    assert (seen.outcome, set(seen.drift.features) > set()) == ("read", True), (seen.why, seen.unsupported)
    assert {m.path for m in seen.drift.modules} == {"model.layers.1.mlp.up_proj"}


def test_tokens_that_the_base_lacks_are_left_out_of_those_that_were_trained(base, tmp_path):
    resized = tiny.load_bare(base)
    resized.resize_token_embeddings(302, mean_resizing=False)
    config = LoraConfig(
        r=4, target_modules=["q_proj"], trainable_token_indices={"embed_tokens": [5, 301]}, task_type="CAUSAL_LM"
    )
    model = get_peft_model(resized, config)
    stir(model)
    model.save_pretrained(tmp_path / "lora", save_embedding_layers=False)
    expected = model.eval()(input_ids=IDS).logits[..., :300]
    assert_read_by_both(base, tmp_path / "lora", expected)


@pytest.mark.parametrize("kind", ["base", "tied"])
def test_embeddings_saved_along_are_the_bases_own_and_changed_ones_replace_them(request, tmp_path, kind):
    base = request.getfixturevalue(kind)
    plain = trained(base, tmp_path / "plain")
    folder = tiny.copy(plain, tmp_path / "lora")
    own_table = load_file(base / "model.safetensors")["model.embed_tokens.weight"]
    key = "base_model.model.model.embed_tokens.weight"
    tiny.edit_tensors(folder / tiny.ADAPTER, lambda ts: {**ts, key: own_table})
    seen = assert_read_by_both(base, folder, logits_of(base, plain))
    assert any("the base's own, saved along" in line for line in seen.company)
    tiny.edit_tensors(folder / tiny.ADAPTER, lambda ts: {**ts, key: own_table * 1.1})
    expected = logits_of(base, folder)
    assert not torch.allclose(expected, logits_of(base, plain), atol=1e-3)
    seen = assert_read_by_both(base, folder, expected)
    assert "model.embed_tokens" in {m.path for m in seen.drift.modules}


# -- layouts of older versions, and of other trainers


def experts(room):
    return room / "moe" if (room / "moe").exists() else tiny.build_other(room / "moe", "qwen3_moe")


def test_an_adapter_of_single_experts_is_read_on_a_base_that_fuses_them(room, tmp_path):
    base, r = experts(room), 4
    shapes = {"gate_proj": (16, 32), "up_proj": (16, 32), "down_proj": (32, 16)}
    generator = torch.Generator().manual_seed(0)
    old = {
        f"base_model.model.model.layers.{layer}.mlp.experts.{e}.{name}.lora_{side}.weight":
            torch.randn(*((r, i) if side == "A" else (o, r)), generator=generator) * 0.1
        for layer in range(3) for e in range(4) for name, (o, i) in shapes.items() for side in "AB"
    }  # fmt: skip
    folder = tmp_path / "old"
    folder.mkdir()
    save_file(old, folder / tiny.ADAPTER)
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": r, "lora_alpha": 8, "target_modules": list(shapes)}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    expected = logits_of(base, folder)
    assert not torch.allclose(expected, tiny.load_bare(base)(input_ids=IDS).logits, atol=1e-3)
    seen = assert_read_by_both(base, folder, expected)
    assert len(seen.drift.modules) == 3 * 4 * 2
    assert any("layout of an older transformers" in reading for reading in seen.readings)


def test_names_of_an_older_vision_language_layout_are_matched(room, tmp_path):
    base = tiny.build_other(room / "wrapped", "gemma3_wrapped")
    folder = trained(base, tmp_path / "new", target_modules=r".*language_model.*(q_proj|down_proj)")
    expected = logits_of(base, folder)
    old = tiny.copy(folder, tmp_path / "old")
    rename = ("model.model.language_model.layers", "model.language_model.model.layers")
    tiny.edit_tensors(old / tiny.ADAPTER, lambda ts: {k.replace(*rename): t for k, t in ts.items()})
    assert list(load_file(old / tiny.ADAPTER)) != list(load_file(folder / tiny.ADAPTER))
    assert_read_by_both(base, old, expected)


def test_a_fine_tune_saved_expert_by_expert_is_held_against_a_base_that_fuses_them(room, tmp_path):
    base = experts(room)
    tuned = tiny.load_bare(base)
    with torch.no_grad():
        tuned.model.layers[0].mlp.experts.down_proj[2] += 0.01 * torch.outer(torch.randn(32), torch.randn(16))
    tuned.save_pretrained(tmp_path / "ft")
    found = read_change(tmp_path / "ft", Parameters(base))
    assert found.status == "read"
    assert set(found.modules) == {"model.layers.0.mlp.experts.down_proj.2"}
    assert float(found.modules["model.layers.0.mlp.experts.down_proj.2"].S[1]) < 1e-5


def test_an_adapter_of_mlx_is_a_lora_in_other_letters(base, plain, tmp_path):
    factors = load_file(plain / tiny.ADAPTER)
    letters = {
        k.removeprefix("base_model.model.").replace(f"lora_{side}.weight", f"lora_{side.lower()}"): t.T.contiguous()
        for k, t in factors.items() for side in "AB" if f"lora_{side}" in k
    }  # fmt: skip
    folder = tmp_path / "mlx"
    folder.mkdir()
    save_file(letters, folder / "adapters.safetensors")
    config = {
        "fine_tune_type": "lora",
        "lora_parameters": {"rank": 4, "scale": 2.0, "dropout": 0.0},
        "model": "org/base",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    assert_read_by_both(base, folder, logits_of(base, plain))
    for change, named in (
        ({"fine_tune_type": "full"}, "mlx_lm.fuse"),
        ({"lora_parameters": {"rank": "x"}}, "rank 'x'"),
    ):
        broken = tiny.copy(folder, tmp_path / named.replace(" ", ""))
        tiny.edit_json(broken / "adapter_config.json", **change)
        with pytest.raises(AdapterError, match=named):
            read_adapter(broken, Parameters(base))


def test_two_tensors_that_are_one_are_refused(base, folder):
    key = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    tiny.edit_tensors(folder / tiny.ADAPTER, lambda ts: {**ts, key.removeprefix("base_model.model."): ts[key] * 2})
    with pytest.raises(AdapterError, match="which are one; remove one of the two"):
        load_subject(str(base), str(folder))
    assert triage(Scan(str(folder), str(base))).outcome == "refused"


@pytest.mark.parametrize("name", ["pytorch_adapter.bin", "adapters.npz", "new_embeddings.safetensors"])
def test_a_format_that_is_not_read_is_named(base, folder, name):
    (folder / name).write_bytes(b"x")
    with pytest.raises(AdapterError, match=name):
        load_subject(str(base), str(folder))


def test_an_adapter_in_shards_is_read_as_one(base, plain, folder):
    tensors = load_file(folder / tiny.ADAPTER)
    (folder / tiny.ADAPTER).unlink()
    shards = {key: f"adapter_model-0000{i % 2 + 1}-of-00002.safetensors" for i, key in enumerate(sorted(tensors))}
    for shard in set(shards.values()):
        save_file({key: tensors[key] for key in shards if shards[key] == shard}, folder / shard)
    with pytest.raises(AdapterError, match=r"adapter_model.safetensors.index.json, .*; it holds adapter_model-00001"):
        load_subject(str(base), str(folder))
    (folder / "adapter_model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    assert_read_by_both(base, folder, logits_of(base, plain))


@pytest.mark.parametrize(
    "rename",
    [
        lambda k: f"_orig_mod.{k}",
        lambda k: f"module.{k}",
        lambda k: k.replace("self_attn", "_checkpoint_wrapped_module.self_attn"),
        lambda k: k.replace(".weight", ".my_name.weight"),
        lambda k: k.removeprefix("base_model.model.model."),
    ],
    ids=["compiled", "parallel", "checkpointed", "adapter's name", "no prefix"],
)
def test_what_wrappers_put_into_names_is_left_out(base, plain, folder, rename):
    tiny.edit_tensors(folder / tiny.ADAPTER, lambda ts: {rename(k): t for k, t in ts.items()})
    assert_read_by_both(base, folder, logits_of(base, plain))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"use_dora": True}, "use_dora and a magnitude go together"),
        ({"alora_invocation_tokens": [-1]}, "no list of tokens' numbers"),
        ({"lora_alpha": 1e308}, r"the alpha 1e\+308"),
        ({"alpha_pattern": {".*" * 12 + "x": 4}}, "may take for ever"),
        ({"peft_type": None}, "without a peft_type"),
    ],
    ids=str,
)
def test_a_configuration_that_cannot_be_followed_is_named(base, folder, change, named):
    tiny.edit_json(folder / "adapter_config.json", **change)
    with pytest.raises(AdapterError, match=named):
        load_subject(str(base), str(folder))
    assert triage(Scan(str(folder), str(base))).outcome in ("partial", "unsupported", "refused")


@pytest.mark.parametrize("wanted", [None, r".*\.q_proj", ["q_proj"]], ids=str)
def test_factors_that_peft_would_leave_out_are_said_however_the_targets_are_named(base, folder, wanted):
    tiny.edit_json(folder / "adapter_config.json", target_modules=wanted)
    said = "3 modules are changed that target_modules does not name, first model.layers.0.mlp.down_proj"
    assert any(note.startswith(said) for note in load_subject(str(base), str(folder)).notes)


# -- ordinary company


def test_what_trainers_leave_beside_an_adapter_is_listed_and_shuts_no_gate(base, plain, folder):
    for name in (
        "training_args.bin",
        "optimizer.pt",
        "scheduler.pt",
        "rng_state.pth",
        "rng_state_0.pth",
        "adapter_model.bin",
    ):
        (folder / name).write_bytes(b"a pickle that nobody opens")
    shutil.copy(folder / tiny.ADAPTER, folder / "adapter_model_copy.safetensors")
    seen = assert_read_by_both(base, folder, logits_of(base, plain))
    assert len(seen.company) == 7
    save_file({"other": torch.ones(2)}, folder / "adapter_model_copy.safetensors")
    assert triage(Scan(str(folder), str(base))).outcome == "partial"
    subject = load_subject(str(base), str(folder))
    assert any("adapter_model_copy.safetensors" in note and "was not looked at" in note for note in subject.notes)


@pytest.mark.parametrize("more", ["head", "buffer"])
def test_a_redundant_head_and_old_buffers_are_company_on_either_side(tied, tmp_path, more):
    table = load_file(tied / "model.safetensors")["model.embed_tokens.weight"]
    extra = {"lm_head.weight": table.clone()} if more == "head" else {
        f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.ones(4) for i in range(3)
    }  # fmt: skip
    tuned = tiny.load_bare(tied)
    with torch.no_grad():
        tuned.model.layers[1].mlp.up_proj.weight.add_(0.01 * torch.randn(48, 32))
    tuned.save_pretrained(tmp_path / "ft")
    with_it = tiny.copy(tied, tmp_path / "with")
    tiny.edit_tensors(with_it / "model.safetensors", lambda ts: {**ts, **extra})
    for bare, full in ((tied, tmp_path / "ft"), (with_it, tmp_path / "ft")):
        assert read_change(full, Parameters(bare)).status == "read"
    tiny.edit_tensors(tmp_path / "ft" / "model.safetensors", lambda ts: {**ts, **extra})
    found = read_change(tmp_path / "ft", Parameters(tied))
    assert (found.status, len(found.company)) == ("read", len(extra)), found.unsupported
    assert set(found.modules) == {"model.layers.1.mlp.up_proj"}
    tiny.edit_tensors(tmp_path / "ft" / "model.safetensors", lambda ts: {**ts, "model.odd": torch.ones(2)})
    assert "model.odd" in read_change(tmp_path / "ft", Parameters(tied)).unsupported


def test_a_head_that_differs_from_the_table_it_should_be_tied_to_is_a_weight_of_its_own(tied, tmp_path):
    ft = tiny.copy(tied, tmp_path / "ft")
    table = load_file(tied / "model.safetensors")["model.embed_tokens.weight"]
    tiny.edit_tensors(ft / "model.safetensors", lambda ts: {**ts, "lm_head.weight": table * 1.1})
    assert "lm_head" in read_change(ft, Parameters(tied)).modules
    expected = tiny.load_bare(ft)(input_ids=IDS).logits
    assert torch.allclose(own(load_subject(str(ft), base=str(tied)), "subject"), expected, atol=1e-5)


def test_changed_norms_and_biases_are_read_too(base, tmp_path):
    tuned = tiny.load_bare(base)
    with torch.no_grad():
        tuned.model.norm.weight.mul_(1.5)
    tuned.save_pretrained(tmp_path / "ft")
    found = read_change(tmp_path / "ft", Parameters(base))
    assert found.status == "read"
    assert found.vectors == {"model.norm.weight": pytest.approx(0.5)}


def changed(base, folder):
    tuned = tiny.load_bare(base)
    with torch.no_grad():
        tuned.model.layers[1].mlp.up_proj.weight.add_(0.01 * torch.randn(48, 32))
    tuned.save_pretrained(folder)
    shutil.copy(base / "tokenizer.json", folder)
    return folder


def test_a_head_of_reinforcement_learning_is_company(base, tmp_path):
    ft = changed(base, tmp_path / "ft")
    tiny.edit_tensors(ft / "model.safetensors", lambda ts: {**ts, "v_head.summary.weight": torch.randn(1, 32)})
    found = read_change(ft, Parameters(base))
    assert (found.status, len(found.company)) == ("read", 1)


def test_biases_that_the_base_lacks_are_no_part_of_what_was_read(base, tmp_path):
    ft = changed(base, tmp_path / "ft")
    biases = {
        f"model.layers.{i}.self_attn.{p}_proj.bias": n
        for i in range(3)
        for p, n in zip("qkvo", (32, 16, 16, 32), strict=True)
    }
    tiny.edit_json(ft / "config.json", attention_bias=True)
    tiny.edit_tensors(ft / "model.safetensors", lambda ts: {**ts, **{k: torch.ones(n) for k, n in biases.items()}})
    found = read_change(ft, Parameters(base))
    assert (found.status, set(found.unsupported)) == ("partial", set(biases))
    with pytest.raises(ModelLoadError, match="it has 12 more weights, first model.layers.0"):
        load_subject(str(ft), base=str(base))


def test_a_setting_by_which_the_same_weights_compute_something_else_is_said(base, tmp_path):
    ft = changed(base, tmp_path / "ft")
    assert not read_change(ft, Parameters(base)).readings
    assert not load_subject(str(ft), base=str(base)).notes
    tiny.edit_json(ft / "config.json", rms_norm_eps=0.5, use_cache=False, attention_dropout=0.1)
    said = "sets rms_norm_eps to 0.5 (the base's is 1e-06): by these"
    assert [said in reading for reading in read_change(ft, Parameters(base)).readings] == [True]
    assert any(said in note for note in load_subject(str(ft), base=str(base)).notes)


# -- bases


def test_a_snapshot_of_the_hubs_cache_is_read_through_a_link_to_it(base, plain, tmp_path):
    repository = tmp_path / "models--org--base"
    (repository / "blobs").mkdir(parents=True)
    (repository / "snapshots" / "abc").mkdir(parents=True)
    for file in base.iterdir():
        shutil.copy(file, repository / "blobs" / file.name)
        (repository / "snapshots" / "abc" / file.name).symlink_to(f"../../blobs/{file.name}")
    (tmp_path / "base").symlink_to(repository / "snapshots" / "abc")
    assert_read_by_both(tmp_path / "base", plain, logits_of(base, plain))


@pytest.mark.parametrize(
    ("change", "named"),
    [({"num_hidden_layers": 10**7}, "says num_hidden_layers 10000000"), ({"dtype": "bf16"}, "the dtype 'bf16'")],
    ids=["layers", "dtype"],
)
def test_a_configuration_that_its_files_do_not_bear_out_is_refused_at_once(base, plain, tmp_path, change, named):
    odd = tiny.copy(base, tmp_path / "odd")
    tiny.edit_json(odd / "config.json", **change)
    with pytest.raises(ModelLoadError, match=named):
        load_subject(str(odd), str(plain))
    assert named in triage(Scan(str(plain), str(odd))).why


def test_a_quantised_base_gets_the_sentence_that_helps(base, plain, tmp_path):
    names = {"bnb": ".absmax", "gptq": ".qweight"}
    for kind, end in names.items():
        packed = tiny.copy(base, tmp_path / kind)
        tiny.edit_tensors(
            packed / "model.safetensors", lambda ts, end=end: {**ts, f"model.layers.0.q{end}": torch.ones(2)}
        )
        for look in (lambda p=packed: load_subject(str(p), str(plain)), lambda p=packed: Parameters(p)):
            with pytest.raises(ModelLoadError, match="quantised.*full-precision"):
                look()
        assert "full-precision" in triage(Scan(str(plain), str(packed))).why
    said = tiny.copy(base, tmp_path / "said")
    tiny.edit_json(said / "config.json", quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    with pytest.raises(ModelLoadError, match=r"quantised \(bitsandbytes\).*full-precision"):
        load_subject(str(said), str(plain))


def test_a_base_that_memory_cannot_hold_is_refused_before_it_is_loaded(base, monkeypatch):
    free = psutil.virtual_memory()._replace(available=1000)
    monkeypatch.setattr(model.psutil, "virtual_memory", lambda: free)
    with pytest.raises(ModelLoadError, match="GB are free here: pass --dtype bfloat16"):
        load_subject(str(base))


def test_code_of_its_own_is_noted_where_transformers_has_the_class(base, plain, tmp_path):
    own_code = tiny.copy(base, tmp_path / "own")
    tiny.edit_json(own_code / "config.json", auto_map={"AutoModelForCausalLM": "modeling_evil.Evil"})
    (own_code / "modeling_evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    subject = load_subject(str(own_code), str(plain))
    assert any("auto_map" in note for note in subject.notes)
    assert not (tmp_path / "ran").exists()
    assert not load_subject(str(base)).notes


def test_a_base_whose_embeddings_cannot_be_placed_still_gets_its_drift(base, plain, tmp_path):
    strange = tiny.copy(base, tmp_path / "strange")
    tiny.edit_json(strange / "config.json", model_type="never_heard_of", architectures=["NeverHeardOf"])
    seen = triage(Scan(str(plain), str(strange)))
    assert (seen.outcome, seen.words) == ("read", None)
    assert seen.drift is not None
    assert any("no words were read" in reading for reading in seen.readings)


def test_a_vision_language_model_without_a_causal_class_is_audited_as_its_language_model(tmp_path):
    tok = tiny.tokenizer()
    text = {"vocab_size": len(tok), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "pad_token_id": 0, "initializer_range": 0.2}  # fmt: skip
    vision = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 16,
        "patch_size": 8,
    }
    config = transformers.LlavaConfig(
        text_config=transformers.LlamaConfig(**text),
        vision_config=transformers.CLIPVisionConfig(**vision),
        image_token_index=9,
    )
    base = tmp_path / "llava"
    transformers.LlavaForConditionalGeneration(config).save_pretrained(base)
    tok.save_pretrained(base)
    model = transformers.AutoModelForImageTextToText.from_pretrained(base).eval()
    lora = get_peft_model(model, LoraConfig(r=2, target_modules=r".*language_model.*q_proj", task_type="CAUSAL_LM"))
    stir(lora)
    lora.save_pretrained(tmp_path / "lora")
    assert_read_by_both(base, tmp_path / "lora", lora.eval()(input_ids=IDS).logits)


# -- what to pass instead


def test_a_folder_of_adapters_names_those_in_it(base, plain, tmp_path):
    for name in ("default", "checkpoint-4"):
        tiny.copy(plain, tmp_path / "run" / name)
    with pytest.raises(AdapterError, match=r"these folders in it hold one: checkpoint-4, default; pass one of them"):
        load_subject(str(base), str(tmp_path / "run"))
    with pytest.raises(AdapterError, match="a whole model: pass it as --subject"):
        load_subject(str(base), str(tiny.copy(base, tmp_path / "whole")))
    with pytest.raises(ModelLoadError, match="pass the base as --subject"):
        load_subject(str(plain))


def test_files_of_llama_cpp_alone_are_named(base, tmp_path):
    folder = tmp_path / "gguf"
    folder.mkdir()
    (folder / "model-q4.gguf").write_bytes(b"GGUF")
    (folder / "config.json").write_text((base / "config.json").read_text())
    with pytest.raises(ModelLoadError, match="GGUF files alone"):
        checkpoint.check_folder(folder, ModelLoadError)
