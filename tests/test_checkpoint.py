"""What a folder must not be: every refusal names what is wrong, and the unbroken twin loads."""

import json
import pickle
import re
import shutil
from pathlib import Path

import pytest
import tiny
import torch

from tools.checkpoint import hash_files
from tools.errors import AdapterError, ModelLoadError
from tools.loading import load_subject

INDEX = "model.safetensors.index.json"
Q_0 = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


class Bomb:
    """Unpickled, it leaves a file behind."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (open, (str(self.mark), "w"))


@pytest.fixture
def model(base_folder, tmp_path):
    return shutil.copytree(base_folder, tmp_path / "model")


@pytest.fixture
def adapter(lora_folder, tmp_path):
    return shutil.copytree(lora_folder, tmp_path / "adapter")


def weights(folder):
    return next(folder.glob("*.safetensors"))


def flip_byte(file, place):
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)


# -- one way to break a folder each; each returns what the message has to name


def no_weights(folder):
    weights(folder).unlink()
    return "holds no .safetensors weights", folder.name


def pickle_only(folder):
    weights(folder).unlink()
    with (folder / "pytorch_model.bin").open("wb") as file:
        pickle.dump(Bomb(folder.parent / "exploded"), file)
    return "pytorch_model.bin", "convert to safetensors"


def damaged(folder):
    file = weights(folder)
    file.write_bytes(file.read_bytes()[:-100])
    return file.name, "not a readable safetensors file"


def not_safetensors(folder):
    weights(folder).write_text("no tensors at all")
    return weights(folder).name, "not a readable safetensors file"


def poison(folder, value):
    named = [weights(folder).name, "NaN or infinite"]

    def edit(tensors):
        name = sorted(tensors)[7]
        tensors[name].view(-1)[3] = value
        named.append(f"tensor {name} ")
        return tensors

    tiny.edit_tensors(weights(folder), edit)
    return named


def nan(folder):
    return poison(folder, float("nan"))


def infinite(folder):
    return poison(folder, float("-inf"))


def weights_link_out(folder):
    file = weights(folder)
    outside = folder.parent / "outside.safetensors"
    shutil.move(file, outside)
    file.symlink_to(outside)
    return file.name, "link out of its folder", "outside.safetensors"


def config_link_out(folder):
    file = next(f for f in (folder / "config.json", folder / "adapter_config.json") if f.exists())
    outside = folder.parent / "outside.json"
    shutil.move(file, outside)
    file.symlink_to(outside)
    return file.name, "link out of its folder", "outside.json"


def not_json(folder):
    file = next(f for f in (folder / "config.json", folder / "adapter_config.json") if f.exists())
    file.write_text("{")
    return file.name, "not readable JSON"


def a_list(folder):
    file = next(f for f in (folder / "config.json", folder / "adapter_config.json") if f.exists())
    file.write_text("[]")
    return file.name, "an object is needed"


BOTH = (
    no_weights,
    pickle_only,
    damaged,
    not_safetensors,
    nan,
    infinite,
    weights_link_out,
    config_link_out,
    not_json,
    a_list,
)


def no_config(folder):
    (folder / "config.json").unlink()
    return "config.json is missing", folder.name


def auto_map(folder):
    (folder / "modeling_evil.py").write_text("raise SystemExit")
    tiny.edit_json(folder / "config.json", model_type="evil", auto_map={"AutoModelForCausalLM": "modeling_evil.Evil"})
    return "config.json", "auto_map", "never run"


def tensor_missing(folder):
    tiny.edit_tensors(weights(folder), lambda t: {k: v for k, v in t.items() if k != "model.norm.weight"})
    return "model.norm.weight", "not whole"


def tensor_misshapen(folder):
    tiny.edit_tensors(weights(folder), lambda t: {**t, "model.norm.weight": torch.ones(31)})
    return ("model.norm.weight",)


def no_tokenizer(folder):
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    return ("no readable tokenizer",)


def index_naming_evil(folder):
    shutil.copy(weights(folder), folder.parent / "evil.safetensors")
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": {"lm_head.weight": "../evil.safetensors"}}))
    return INDEX, "'../evil.safetensors'"


def index_naming_an_absolute_path(folder):
    evil = shutil.copy(weights(folder), folder.parent / "evil.safetensors")
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": {"lm_head.weight": str(evil)}}))
    return INDEX, repr(str(evil))


def index_naming_what_is_not_there(folder):
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": {"lm_head.weight": "model-2.safetensors"}}))
    return INDEX, "'model-2.safetensors'"


def index_naming_a_pickle(folder):
    from safetensors.torch import load_file

    tensors = load_file(weights(folder))
    torch.save(tensors, folder / "shard.bin")
    weights(folder).rename(folder / "decoy.safetensors")
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(tensors, "shard.bin")}))
    return INDEX, "shard.bin"


def index_of_numbers(folder):
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": {"lm_head.weight": 3}}))
    return (INDEX,)


def index_without_a_map(folder):
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": ["lm_head.weight"]}))
    return (INDEX,)


def an_adapter_inside(folder):
    """Transformers would follow it to the base that its config names, and load both."""
    other = tiny.build_base(folder.parent / "other", seed=5)
    inside = tiny.build_lora(other, folder.parent / "inside")
    for name in ("adapter_config.json", tiny.ADAPTER):
        shutil.copy(inside / name, folder / name)
    return ("adapter_config.json",)


MODEL = (
    *BOTH, no_config, auto_map, tensor_missing, tensor_misshapen, no_tokenizer, index_naming_evil,
    index_naming_an_absolute_path, index_naming_what_is_not_there, index_naming_a_pickle, index_of_numbers,
    index_without_a_map, an_adapter_inside,
)  # fmt: skip


@pytest.mark.parametrize("break_it", MODEL, ids=lambda f: f.__name__)
def test_a_broken_model_folder_is_refused_by_name(model, break_it):
    named = break_it(model)
    with pytest.raises(ModelLoadError) as refused:
        load_subject(str(model))
    for part in named:
        assert part in str(refused.value)
    assert not (model.parent / "exploded").exists(), "a pickle was opened"


# -- adapters


def no_adapter_config(folder):
    (folder / "adapter_config.json").unlink()
    return "adapter_config.json is missing", folder.name


def weights_by_another_name(folder):
    weights(folder).rename(folder / "other.safetensors")
    return (tiny.ADAPTER,)


def another_kind(folder):
    tiny.edit_json(folder / "adapter_config.json", peft_type="PROMPT_TUNING")
    return "'PROMPT_TUNING'", "LORA"


def unknown_keys(folder):
    tiny.edit_json(folder / "adapter_config.json", on_load="import os", zeal=1)
    return "'on_load'", "'zeal'", "has no setting", "remove it"


def auto_mapping(folder):
    tiny.edit_json(folder / "adapter_config.json", auto_mapping={"base_model_class": "Evil", "parent_library": "evil"})
    return "auto_mapping", "never run"


def of_another_width(folder):
    wide = tiny.build_base(folder.parent / "wide", d_model=64)
    shutil.rmtree(folder)
    tiny.build_lora(wide, folder, target_modules=["q_proj"])
    return "another base", "layers.0.self_attn.q_proj", "[64, 64]", "[32, 32]"


def with_other_module_names(folder):
    tiny.edit_tensors(weights(folder), lambda t: {k.replace("self_attn.q_proj", "attn.query"): v for k, v in t.items()})
    return "another base", "model.layers.0.attn.query"


def of_a_deeper_base(folder):
    tiny.edit_tensors(weights(folder), lambda t: {**t, Q_0.replace("layers.0", "layers.9"): t[Q_0].clone()})
    return "another base", "model.layers.9.self_attn.q_proj"


def extra_tensors(folder):
    extra = "base_model.model.lm_head.lora_A.weight"
    tiny.edit_tensors(weights(folder), lambda t: {**t, extra: torch.ones(4, 32)})
    return "lm_head", "only A is there, both factors are needed"


def a_bias_beside(folder):
    extra = "base_model.model.model.layers.0.self_attn.q_proj.bias"
    tiny.edit_tensors(weights(folder), lambda t: {**t, extra: torch.ones(32)})
    return extra, "neither a factor of a LoRA nor a saved module of the base"


def tensor_lost(folder):
    tiny.edit_tensors(weights(folder), lambda t: {k: v for k, v in t.items() if k != Q_0})
    return "layers.0.self_attn.q_proj", "only B is there"


def module_lost(folder):
    tiny.edit_tensors(weights(folder), lambda t: {k: v for k, v in t.items() if "0.self_attn.q_proj" not in k})
    return "layers.0.self_attn.q_proj", "may be cut short"


def wrong_rank(folder):
    tiny.edit_tensors(weights(folder), lambda t: {**t, Q_0: torch.ones(9, 32)})
    return "layers.0.self_attn.q_proj", "do not fit"


def a_module_of_another_rank(folder):
    kv = {"lora_A": torch.ones(9, 32), "lora_B": torch.ones(32, 9)}
    tiny.edit_tensors(weights(folder), lambda t: {**t, **{Q_0.replace("lora_A", side): v for side, v in kv.items()}})
    return "layers.0.self_attn.q_proj", "says rank 4"


ADAPTER = (
    *BOTH, no_adapter_config, weights_by_another_name, another_kind, unknown_keys, auto_mapping, of_another_width,
    with_other_module_names, of_a_deeper_base, extra_tensors, a_bias_beside, tensor_lost, module_lost, wrong_rank, a_module_of_another_rank,
)  # fmt: skip


@pytest.mark.parametrize("break_it", ADAPTER, ids=lambda f: f.__name__)
def test_a_broken_adapter_folder_is_refused_by_name(base_folder, adapter, break_it):
    named = break_it(adapter)
    with pytest.raises(AdapterError) as refused:
        load_subject(str(base_folder), str(adapter))
    for part in named:
        assert part in str(refused.value)
    assert not (adapter.parent / "exploded").exists(), "a pickle was opened"


def test_the_unbroken_twins_load(model, adapter):
    assert load_subject(str(model), str(adapter)).changes_anything(tiny.TEXTS)


@pytest.mark.parametrize("given", ["nowhere/at/all", "./org/name", "../name"])
def test_what_is_no_folder_and_no_hub_id_is_refused_with_what_to_pass(given):
    with pytest.raises(ModelLoadError, match=re.escape(given) + ".*pass a folder with config.json, or a hub id"):
        load_subject(given)


def test_a_file_is_no_model_folder_and_no_adapter_folder(base_folder, lora_folder):
    with pytest.raises(ModelLoadError, match=r"config.json is not a model folder"):
        load_subject(str(base_folder / "config.json"))
    with pytest.raises(AdapterError, match=r"is not an adapter folder; pass a folder with adapter_config.json"):
        load_subject(str(base_folder), str(lora_folder / "adapter_config.json"))


# -- links


def hub_cache(folder: Path, source: Path) -> Path:
    """Lay `source` out as the hub's cache does: content in blobs, a snapshot of relative links."""
    blobs, snapshot = folder / "blobs", folder / "snapshots" / "0a1b2c"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for i, file in enumerate(sorted(source.iterdir())):
        shutil.copy(file, blobs / f"{i:040x}")
        (snapshot / file.name).symlink_to(Path("../../blobs") / f"{i:040x}")
    return snapshot


def test_snapshots_of_the_hub_cache_load_though_their_files_are_links(base_folder, lora_folder, tmp_path):
    model = hub_cache(tmp_path / "models--tiny--base", base_folder)
    adapter = hub_cache(tmp_path / "models--tiny--lora", lora_folder)
    subject = load_subject(str(model), str(adapter))
    plain = load_subject(str(base_folder), str(lora_folder))
    assert subject.changes_anything(tiny.TEXTS)
    assert subject.files == plain.files
    assert subject.weights_hash == plain.weights_hash


def test_a_link_to_a_snapshot_loads_as_the_snapshot_does(base_folder, lora_folder, tmp_path):
    (tmp_path / "model").symlink_to(hub_cache(tmp_path / "models--tiny--base", base_folder))
    (tmp_path / "adapter").symlink_to(hub_cache(tmp_path / "models--tiny--lora", lora_folder))
    assert load_subject(str(tmp_path / "model")).files
    assert load_subject(str(base_folder), str(tmp_path / "adapter")).changes_anything(tiny.TEXTS)


def test_a_snapshot_with_a_link_out_of_its_repository_is_refused(base_folder, tmp_path):
    snapshot = hub_cache(tmp_path / "models--tiny--base", base_folder)
    (tmp_path / "outside.json").write_text("{}")
    (snapshot / "generation_config.json").unlink(missing_ok=True)
    (snapshot / "generation_config.json").symlink_to(tmp_path / "outside.json")
    with pytest.raises(ModelLoadError, match=r"generation_config.json is a link out of its folder .*outside.json"):
        load_subject(str(snapshot))


def test_a_link_within_the_folder_is_no_reason_to_refuse(model):
    (model / "config.json").rename(model / "config-v1.json")
    (model / "config.json").symlink_to("config-v1.json")
    assert load_subject(str(model)).n_layers == 3


# -- whether an adapter does anything


def test_an_adapter_of_zeros_loads_and_changes_nothing(base_folder, tmp_path):
    folder = tiny.build_lora(base_folder, tmp_path / "zero", size=0.0)
    subject = load_subject(str(base_folder), str(folder))
    assert subject.adapter_given
    assert not subject.changes_anything(tiny.TEXTS)


@pytest.mark.parametrize("size", [0.3, 1e-3])
def test_a_random_adapter_changes_something(base_folder, tmp_path, size):
    folder = tiny.build_lora(base_folder, tmp_path / "lora", size=size)
    assert load_subject(str(base_folder), str(folder)).changes_anything(tiny.TEXTS)


# -- hashes


def test_one_changed_byte_of_any_file_changes_that_files_hash_and_no_other(model, adapter):
    for folder in (model, adapter):
        before = hash_files(folder)
        assert set(before) >= {weights(folder).name}
        for name in before:
            flip_byte(folder / name, -1)
            after = hash_files(folder)
            assert {n for n in before if before[n] != after[n]} == {name}
            flip_byte(folder / name, -1)
        assert hash_files(folder) == before


@pytest.mark.parametrize("which", ["model", "adapter"])
def test_one_changed_byte_of_the_weights_changes_the_hash_of_the_subject(model, adapter, which):
    before = load_subject(str(model), str(adapter)).weights_hash
    assert load_subject(str(model), str(adapter)).weights_hash == before
    flip_byte(weights({"model": model, "adapter": adapter}[which]), -4)
    assert load_subject(str(model), str(adapter)).weights_hash != before


def test_every_file_that_was_loaded_is_hashed(base_folder, lora_folder):
    files = load_subject(str(base_folder), str(lora_folder)).files
    assert {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    } <= set(files["base"])
    assert {"adapter_config.json", tiny.ADAPTER} <= set(files["subject"])
