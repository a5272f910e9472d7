"""Contracts: every published way of saying how an oracle is asked is read, and nothing is guessed."""

import json

import pytest
import tiny
import yaml
from typer.testing import CliRunner

from auditor.cli import app
from tools.activation_oracle.contract import (
    AO_CONFIG,
    EMBEDDING,
    NLA_META,
    PREFIX_TEMPLATES,
    TRAINING_CONFIG,
    Decoding,
    OracleContract,
    read_contract,
)
from tools.activation_oracle.load import load_oracle
from tools.errors import AdapterError

PUBLISHED = {
    "schema_version": 1,
    "model_name": "Qwen/Qwen3-8B",
    "hook_onto_layer": 1,
    "layer_combinations": [[25], [50], [75]],
    "act_layer_combinations": [[9], [18], [27]],
    "special_token": " ?",
    "prefix_template": "Layer: {layer}\\n{special_token} * {num_positions} \\n",
    "steering_coefficient": 1.0,
    "generation_kwargs": {"do_sample": False, "max_new_tokens": 20},
    "lora_r": 64,
    "wandb_project": "sae_introspection",
}
SIDECAR = {
    "kind": "nla_model",
    "role": "av",
    "schema_version": 2,
    "base_checkpoint": "Qwen/Qwen2.5-7B-Instruct",
    "d_model": 64,
    "extraction": {"injection_scale": 150, "layer_index": 20},
    "tokens": {
        "injection_char": " ?", "injection_token_id": 5, "injection_left_neighbor_id": 6, "injection_right_neighbor_id": 7,
    },
    "prompt_templates": {"av": "what is <concept>{injection_char}</concept>?"},
    "training": {"anything": 1},
}  # fmt: skip


def write(folder, name, data):
    text = json.dumps(data) if name.endswith("json") else yaml.safe_dump(data)
    (folder / name).write_text(text)
    return folder


def without(data, *keys):
    return {key: value for key, value in data.items() if key not in keys}


def test_a_contract_that_was_saved_reads_back_the_same(tmp_path):
    contract = OracleContract(
        base="m", base_sha256="abc", read_layers=((9,), (9, 18, 27)), site=2, rule="replace", coefficient=2.5,
        prefix="layer_list", placeholder=" @", chat_flags={"enable_thinking": True},
        decoding=Decoding(max_new_tokens=7, temperature=0.7, top_p=0.9),
    )  # fmt: skip
    contract.save(tmp_path)
    assert read_contract(tmp_path, 36) == contract


def test_a_published_file_is_read_and_keys_that_say_nothing_of_the_protocol_are_let_be(tmp_path):
    contract = read_contract(write(tmp_path, AO_CONFIG, PUBLISHED), 36)
    assert contract.read_layers == ((9,), (18,), (27,))
    assert (contract.base, contract.site, contract.rule, contract.coefficient) == ("Qwen/Qwen3-8B", 1, "add", 1.0)
    assert contract.chat_flags == {"enable_thinking": False}
    assert contract.decoding == Decoding(max_new_tokens=20, temperature=0.0)


@pytest.mark.parametrize(("n_layers", "expected"), [(36, (9, 18, 27)), (42, (10, 21, 31)), (62, (15, 31, 46))])
def test_layers_in_percent_are_counted_as_their_trainer_counted(tmp_path, n_layers, expected):
    data = without(PUBLISHED, "act_layer_combinations")
    assert read_contract(write(tmp_path, AO_CONFIG, data), n_layers).read_layers == tuple((e,) for e in expected)
    (tmp_path / AO_CONFIG).unlink()
    assert read_contract(write(tmp_path, TRAINING_CONFIG, data), n_layers).read_layers[0] == (expected[0],)


@pytest.mark.parametrize(
    "key", ["model_name", "hook_onto_layer", "steering_coefficient", "special_token", "prefix_template"]
)
def test_a_part_of_the_protocol_that_is_left_out_is_named_and_never_guessed(tmp_path, key):
    with pytest.raises(AdapterError, match=rf"lacks {key}; write ao_config.json beside the adapter"):
        read_contract(write(tmp_path, AO_CONFIG, without(PUBLISHED, key)), 36)


def test_layers_that_are_left_out_are_named(tmp_path):
    data = without(PUBLISHED, "act_layer_combinations", "layer_combinations")
    with pytest.raises(AdapterError, match="lacks act_layer_combinations"):
        read_contract(write(tmp_path, AO_CONFIG, data), 36)


@pytest.mark.parametrize(
    "change",
    [{"act_layer_combinations": "all"}, {"model_name": None}, {"hook_onto_layer": "first"}, {"injection_rule": "mix"},
     {"act_layer_combinations": [[18, 9]]}, {"generation_kwargs": {"max_new_tokens": 0}}],
    ids=str,
)  # fmt: skip
def test_a_part_of_the_wrong_kind_is_refused(tmp_path, change):
    with pytest.raises(AdapterError, match=AO_CONFIG):
        read_contract(write(tmp_path, AO_CONFIG, PUBLISHED | change), 36)


def test_percents_that_are_no_sets_are_named_as_missing(tmp_path):
    data = without(PUBLISHED, "act_layer_combinations") | {"layer_combinations": [25, 50]}
    with pytest.raises(AdapterError, match="lacks act_layer_combinations"):
        read_contract(write(tmp_path, AO_CONFIG, data), 36)


def test_a_scale_by_the_width_needs_the_width(tmp_path):
    data = without(SIDECAR, "d_model") | {"extraction": {"injection_scale": "sqrt_d_model", "layer_index": 1}}
    with pytest.raises(AdapterError, match="lacks d_model: add the base's width"):
        read_contract(write(tmp_path, NLA_META, data), 28)


@pytest.mark.parametrize(
    ("command", "layers", "message"),
    [("train", "18,9", "the blocks of a set ascend, each once, and 18,9 do not"), ("train", "all", "is no list of blocks"),
     ("evaluate", "1;2", "has 2 sets: an evaluation reads one")],
)  # fmt: skip
def test_layers_that_make_no_sense_are_the_users_mistake(tmp_path, base_folder, command, layers, message):
    row = {"text": "a", "window": 1, "question": "q", "answer": "b"}
    more = {"family": "f", "split": "s", "subject": "base"} if command == "evaluate" else {}
    (tmp_path / "rows").write_text(json.dumps(row | more) + "\n")
    given = ["--trials" if command == "evaluate" else "--data", str(tmp_path / "rows"), "--base", str(base_folder)]
    given += ["--oracle" if command == "evaluate" else "--out", str(tmp_path / "oracle"), "--layers", layers]
    done = CliRunner().invoke(app, ["oracle", command, "activation", *given])
    assert done.exit_code == 2
    assert message in done.stderr


def test_every_pseudo_template_has_its_builder_and_another_is_refused_with_those_known(tmp_path):
    for text, prefix in PREFIX_TEMPLATES.items():
        write(tmp_path, AO_CONFIG, PUBLISHED | {"prefix_template": text})
        assert read_contract(tmp_path, 36).prefix == prefix
    other = "Layer {layer}: {special_token} * {num_positions}"
    with pytest.raises(AdapterError) as refused:
        read_contract(write(tmp_path, AO_CONFIG, PUBLISHED | {"prefix_template": other}), 36)
    assert repr(other) in str(refused.value)
    assert all(repr(text) in str(refused.value) for text in PREFIX_TEMPLATES)


def test_a_verbalisers_sidecar_is_read(tmp_path):
    contract = read_contract(write(tmp_path, NLA_META, SIDECAR), 28)
    assert (contract.site, contract.rule, contract.coefficient) == (EMBEDDING, "embedding", 150)
    assert contract.read_layers == ((20,),)
    assert contract.marker_ids == (5, 6, 7)
    assert not contract.asks


@pytest.mark.parametrize(("scale", "expected"), [("sqrt_d_model", 8.0), ("raw", None), (None, None), (30, 30.0)])
def test_a_verbalisers_scale_is_a_number_the_root_of_the_width_or_none(tmp_path, scale, expected):
    data = SIDECAR | {"extraction": {"injection_scale": scale, "layer_index": 1}}
    assert read_contract(write(tmp_path, NLA_META, data), 28).coefficient == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [({"role": "critic"}, "role 'critic'"), ({"extraction": {"layer_index": 3}}, "injection_scale"),
     ({"extraction": {"injection_scale": 3}}, "layer_index"), ({"prompt_templates": {}}, "prompt_templates.av"),
     ({"tokens": {}}, "tokens.injection_char"), ({"prompt_templates": {"av": "no marker"}}, "injection_char")],
    ids=str,
)  # fmt: skip
def test_a_sidecar_that_leaves_something_out_is_refused_by_what_it_lacks(tmp_path, change, message):
    with pytest.raises(AdapterError, match=message):
        read_contract(write(tmp_path, NLA_META, SIDECAR | change), 28)


def test_a_bare_adapter_is_refused_with_what_was_found_and_how_to_write_a_contract(oracle_folder):
    with pytest.raises(AdapterError) as refused:
        read_contract(oracle_folder, 3)
    for part in ("adapter_model.safetensors", "none of ao_config.json", "hook_onto_layer", "prefix_template"):
        assert part in str(refused.value)


@pytest.mark.parametrize(
    ("name", "rule"),
    [("checkpoints_latentqa_cls_past_lens_addition_Qwen3-8B", "add"),
     ("checkpoints_act_cls_latentqa_pretrain_mix_adding_Llama-3_3-70B-Instruct", "add"),
     ("checkpoints_cls_latentqa_only_addition_Qwen3-8B", "add"),
     ("checkpoints_latentqa_only_gemma-2-9b-it_lr_3e-5", "replace")],
)  # fmt: skip
def test_known_bare_adapters_are_recognised_by_the_hub_cache_they_lie_in(tmp_path, name, rule):
    folder = tmp_path / f"models--adamkarvonen--{name}" / "snapshots" / "abc"
    folder.mkdir(parents=True)
    write(folder, "adapter_config.json", {"base_model_name_or_path": "some/base"})
    contract = read_contract(folder, 36)
    assert (contract.rule, contract.base, contract.read_layers) == (rule, "some/base", ((9,), (18,), (27,)))


# -- loading


@pytest.fixture
def oracle_copy(tmp_path, base_folder):
    def made(**changes):
        folder = tiny.build_lora(base_folder, tmp_path / "oracle", seed=2, r=6, lora_alpha=6)
        OracleContract(base="tiny", read_layers=((1,),)).model_copy(update=changes).save(folder)
        return folder

    return made


def test_an_oracle_for_this_base_is_loaded_and_one_that_names_other_weights_is_refused(bare_subject, oracle_copy):
    load_oracle(bare_subject, oracle_copy(base_sha256=bare_subject.base_sha256))
    with pytest.raises(AdapterError, match="was trained on 'tiny' with weights abcabcabcabc, this base's are"):
        load_oracle(bare_subject, oracle_copy(base_sha256="abc" * 9))


@pytest.mark.parametrize("change", [{"site": 3}, {"read_layers": ((1,), (7,))}], ids=str)
def test_a_contract_that_names_a_block_the_base_lacks_is_refused(bare_subject, oracle_copy, change):
    with pytest.raises(AdapterError, match=r"names block (3|7), the base has 0\.\.2"):
        load_oracle(bare_subject, oracle_copy(**change))


def test_a_placeholder_of_two_tokens_is_refused(bare_subject, oracle_copy):
    n = len(bare_subject.tokenizer.encode(" zq"))
    assert n > 1
    with pytest.raises(AdapterError, match=rf"placeholder ' zq' is {n} tokens for this base; it has to be one"):
        load_oracle(bare_subject, oracle_copy(placeholder=" zq"))


def test_an_oracle_with_a_factor_of_zeros_is_refused_by_the_tensors_name(bare_subject, oracle_copy):
    folder = oracle_copy()
    key = "base_model.model.model.layers.1.mlp.up_proj.lora_B.weight"
    tiny.edit_tensors(folder / tiny.ADAPTER, lambda tensors: {**tensors, key: tensors[key] * 0})
    with pytest.raises(AdapterError, match=f"1 tensors are zero throughout, first {key}"):
        load_oracle(bare_subject, folder)


def test_an_oracle_whose_keys_belong_to_a_multimodal_wrapper_is_refused(bare_subject, oracle_copy):
    folder = oracle_copy()

    def wrapped(tensors):
        return {k.replace("model.model.layers", "model.model.language_model.layers"): t for k, t in tensors.items()}

    tiny.edit_tensors(folder / tiny.ADAPTER, wrapped)
    with pytest.raises(AdapterError, match="language_model.layers.0.+ which this base lacks"):
        load_oracle(bare_subject, folder)
