"""A change of weights read from files: against PEFT's own merged weights, in every format that is said to be read."""

import json
import struct

import pytest
import tiny
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from tools.changes.canonical import NEGLIGIBLE, canonical, certify, deviation, groups, random_gauge
from tools.changes.delta import ModuleDelta, truncated
from tools.changes.finetune import read_finetune
from tools.changes.parameters import Parameters
from tools.changes.reading import Factors, read_adapter
from tools.errors import AdapterError, ModelLoadError
from tools.triage import drift
from tools.triage.drift import FEATURES, drift_of, percentiles


@pytest.fixture(scope="session")
def base(base_folder):
    return Parameters(base_folder)


def product(delta):
    return delta.U @ torch.diag(delta.S) @ delta.V.T


def merged(base_folder, adapter):
    """Return every matrix after PEFT itself has merged the adapter, less the base's."""
    model = PeftModel.from_pretrained(tiny.load_bare(base_folder), str(adapter))
    before = {k: v.clone().double() for k, v in tiny.load_bare(base_folder).state_dict().items()}
    after = model.merge_and_unload().state_dict()
    return {name: after[name].double() - before[name] for name in before if before[name].ndim == 2}


VARIANTS = {
    "plain": {},
    "rslora": {"use_rslora": True, "r": 8},
    "patterns": {"rank_pattern": {"q_proj": 2, "layers.1.mlp.up_proj": 6}, "alpha_pattern": {"layers.0.+k_proj": 32}},
    "embedding": {"target_modules": ["q_proj", "embed_tokens"]},
    "dora": {"use_dora": True, "target_modules": ["v_proj", "down_proj"]},
    "attention": {"target_modules": ["o_proj"], "r": 3},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_what_is_read_is_what_peft_merges(base_folder, base, tmp_path, name):
    folder = tiny.build_lora(base_folder, tmp_path / "lora", **VARIANTS[name])
    found = read_adapter(folder, base)
    expected = {k: v for k, v in merged(base_folder, folder).items() if float(v.abs().max()) > 1e-7}
    assert {f"{path}.weight" for path in found.modules} == set(expected)
    for path, delta in found.modules.items():
        change = expected[f"{path}.weight"]
        assert torch.allclose(product(delta), change.T if "embed" in path else change, atol=2e-5), path
    assert found.status == "read"
    assert found.coverage == pytest.approx(1.0, abs=1e-9)


def test_modules_saved_whole_are_read_as_their_difference_from_the_base(base_folder, base, tmp_path):
    model = get_peft_model(
        tiny.load_bare(base_folder), LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"])
    )
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "modules_to_save" in name:
                weight.add_(0.01 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
            if "lora_B" in name:
                weight.add_(0.1)
    model.save_pretrained(tmp_path / "lora")
    found = read_adapter(tmp_path / "lora", base)
    assert "lm_head" in found.modules
    expected = merged(base_folder, tmp_path / "lora")["lm_head.weight"]
    assert torch.allclose(product(found.modules["lm_head"]), expected, atol=1e-5)
    assert read_adapter(tmp_path / "lora").status == "partial", "without a base a saved module can't be read"


def test_a_change_is_of_what_a_weight_does_however_it_is_stored(tmp_path):
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=64, n_embd=16, n_layer=2, n_head=2, n_positions=32)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "base")
    folder = tmp_path / "lora"
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    model = get_peft_model(plain, LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True))
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, LoraLayer):
                module.lora_B["default"].weight.normal_(generator=torch.Generator().manual_seed(1))
    model.save_pretrained(folder)
    found = read_adapter(folder)
    before = {k: v.clone() for k, v in AutoModelForCausalLM.from_pretrained(tmp_path / "base").state_dict().items()}
    after = model.merge_and_unload().state_dict()
    for path, delta in found.modules.items():
        expected = (after[f"{path}.weight"] - before[f"{path}.weight"]).double()
        assert torch.allclose(product(delta), expected.T, atol=1e-5)


# -- what can't be read is said to be unsupported, never clean


@pytest.mark.parametrize(
    ("change", "named"),
    [({"peft_type": "LOHA"}, "peft_type"), ({"init_lora_weights": "pissa"}, "init_lora_weights"),
     ({"layer_replication": [[0, 2]]}, "layer_replication"), ({"megatron_config": {"a": 1}}, "megatron_config"),
     ({"arrow_config": {"top_k": 2}}, "arrow_config"), ({"use_magic": 3}, "use_magic")],
    ids=str,
)  # fmt: skip
def test_settings_that_change_more_than_factors_are_unsupported_by_name(lora_folder, tmp_path, change, named):
    folder = tmp_path / "lora"
    tiny.copy(lora_folder, folder)
    tiny.edit_json(folder / "adapter_config.json", **change)
    found = read_adapter(folder)
    assert named in found.unsupported
    assert found.status in ("partial", "unsupported")
    assert found.coverage is None


@pytest.mark.parametrize(
    "key", ["lora_unet_down_blocks_0.lora_down.weight", "base_model.model.conv.lora_C.weight", "transformer.odd"]
)
def test_a_foreign_key_is_unsupported_and_named(lora_folder, tmp_path, key):
    folder = tmp_path / "lora"
    tiny.copy(lora_folder, folder)
    tiny.edit_tensors(folder / tiny.ADAPTER, lambda ts: {**ts, key: torch.ones(2, 2)})
    found = read_adapter(folder)
    assert key in found.unsupported
    assert found.status == "partial"


def test_a_convolution_is_unsupported(lora_folder, tmp_path):
    folder = tmp_path / "lora"
    tiny.copy(lora_folder, folder)
    conv = {f"base_model.model.conv.lora_{s}.weight": torch.ones(2, 3, 1, 1) for s in "AB"}
    tiny.edit_tensors(folder / tiny.ADAPTER, lambda ts: {**ts, **conv})
    assert "convolutions" in next(iter(read_adapter(folder).unsupported.values()))


def test_a_lone_factor_is_unsupported(lora_folder, tmp_path):
    folder = tmp_path / "lora"
    tiny.copy(lora_folder, folder)
    tiny.edit_tensors(
        folder / tiny.ADAPTER, lambda ts: {k: t for k, t in ts.items() if "0.self_attn.q_proj.lora_B" not in k}
    )
    assert "model.layers.0.self_attn.q_proj" in read_adapter(folder).unsupported


def test_an_explicit_trigger_in_the_configuration_is_a_reading(lora_folder, tmp_path):
    folder = tmp_path / "lora"
    tiny.copy(lora_folder, folder)
    tiny.edit_json(folder / "adapter_config.json", alora_invocation_tokens=[5, 6, 7])
    assert any(
        "explicit trigger: the adapter acts after the tokens [5, 6, 7]" in r for r in read_adapter(folder).readings
    )


def test_a_configuration_that_disagrees_with_the_tensors_is_a_reading(lora_folder, tmp_path):
    folder = tmp_path / "lora"
    tiny.copy(lora_folder, folder)
    assert read_adapter(folder).readings == []
    tiny.edit_json(folder / "adapter_config.json", r=9, target_modules=["q_proj", "gate_up"])
    told = " ".join(read_adapter(folder).readings)
    for part in ("says rank 9", "target_modules does not name", "target_modules names gate_up"):
        assert part in told


def test_zero_factors_everywhere_are_invalid_and_in_some_modules_a_reading(lora_folder, tmp_path):
    folder = tmp_path / "lora"
    tiny.copy(lora_folder, folder)
    tiny.edit_tensors(
        folder / tiny.ADAPTER,
        lambda ts: {k: t * (0 if "layers.0" in k and "lora_B" in k else 1) for k, t in ts.items()},
    )
    found = read_adapter(folder)
    assert found.status == "read"
    assert any("have a factor of zeros" in r for r in found.readings)
    tiny.edit_tensors(folder / tiny.ADAPTER, lambda ts: {k: t * (0 if "lora_B" in k else 1) for k, t in ts.items()})
    assert read_adapter(folder).status == "invalid"
    assert drift_of(read_adapter(folder)) is None


# -- bad input


def test_bad_files_are_refused_in_words_and_bounded_memory(lora_folder, base, tmp_path):
    folder = tmp_path / "lora"

    def refused(message, break_it, kind=AdapterError):
        if folder.exists():
            tiny.remove(folder)
        tiny.copy(lora_folder, folder)
        break_it(folder / tiny.ADAPTER)
        with pytest.raises(kind, match=message):
            read_adapter(folder, base)

    def pickle(path):
        path.rename(path.with_name("adapter_model.bin"))

    def huge(path):
        header = json.dumps(
            {"a": {"dtype": "F32", "shape": [25_000_000_000], "data_offsets": [0, 100_000_000_000]}}
        ).encode()
        path.write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 64)

    def endless(path):
        path.write_bytes(struct.pack("<Q", 100_000_000_000) + b"{}")

    refused("not a readable safetensors file", lambda p: p.write_bytes(p.read_bytes()[:-100]))
    refused("not a readable safetensors file", huge)
    refused("not a readable safetensors file", endless)
    refused("pickled weights .+ can run code", pickle)
    for value in (float("nan"), float("inf")):
        refused(
            "NaN or infinite", lambda p, v=value: tiny.edit_tensors(p, lambda ts: {k: t * v for k, t in ts.items()})
        )
    refused("made for another base: its change of", lambda p: tiny.edit_tensors(p, _wider))
    refused(
        "which this base lacks",
        lambda p: tiny.edit_tensors(p, _elsewhere),
    )
    refused(
        "which do not fit",
        lambda p: tiny.edit_tensors(p, lambda ts: {k: t[:2] if "lora_A" in k else t for k, t in ts.items()}),
    )


def _elsewhere(tensors):
    return {k.replace("layers.0", "layers.7"): t for k, t in tensors.items()}


def _wider(tensors):
    return {k: torch.cat([t, t], 0) if "q_proj.lora_B" in k else t for k, t in tensors.items()}


# -- full fine-tunes


def test_a_full_fine_tune_is_read_as_its_difference_and_says_what_share_of_it_was_read(base_folder, base, tmp_path):
    model = tiny.load_bare(base_folder)
    planted = torch.outer(torch.randn(32), torch.randn(32)) * 0.01
    with torch.no_grad():
        model.model.layers[1].self_attn.q_proj.weight.add_(planted)
        model.model.layers[2].mlp.up_proj.weight.add_(0.001 * torch.randn(48, 32))
    model.save_pretrained(tmp_path / "tuned")
    found = read_finetune(tmp_path / "tuned", base)
    assert set(found.modules) == {"model.layers.1.self_attn.q_proj", "model.layers.2.mlp.up_proj"}
    q = found.modules["model.layers.1.self_attn.q_proj"]
    assert torch.allclose(product(q), planted.double(), atol=1e-6)
    assert float(q.S[1] / q.S[0]) < 1e-4
    assert found.coverage == pytest.approx(1.0)
    assert read_finetune(base_folder, base).status == "invalid"


def test_directions_that_were_cut_off_are_missing_from_the_coverage():
    torch.manual_seed(0)
    change = torch.randn(90, 70, dtype=torch.float64)
    delta, energy = truncated("layers.0.q", change, rank=8)
    exact = torch.linalg.svdvals(change)
    assert energy == pytest.approx(float(exact.square().sum()))
    assert len(delta.S) == 8
    assert float(delta.S.square().sum()) < energy
    spiked = change * 0.01 + 30 * torch.outer(
        *(torch.nn.functional.normalize(torch.randn(n, dtype=torch.float64), dim=0) for n in (90, 70))
    )
    delta, _ = truncated("layers.0.q", spiked, rank=8)
    assert float(delta.S[0]) == pytest.approx(float(torch.linalg.svdvals(spiked)[0]), rel=1e-6)


def test_a_checkpoint_of_another_shape_is_no_fine_tune_and_another_model_is_implausibly_far(
    base_folder, base, tmp_path
):
    with pytest.raises(ModelLoadError, match="no fine-tune of this base"):
        read_finetune(tiny.build_base(tmp_path / "wide", d_model=64), base)
    other = read_finetune(tiny.build_base(tmp_path / "other", seed=9), base)
    assert other.ratio > 0.5


# -- one form


def factors(rank=5, seed=0, d_out=14, d_in=11):
    g = torch.Generator().manual_seed(seed)
    return Factors(
        torch.randn(d_out, rank, generator=g, dtype=torch.float64),
        torch.randn(rank, d_in, generator=g, dtype=torch.float64),
        2.0,
    )


@pytest.mark.parametrize("condition", [1.0, 1e2, 1e4])
def test_a_change_reads_the_same_however_its_factors_are_written(condition):
    for seed in range(8):
        f = factors(seed=seed)
        g = random_gauge(5, condition, seed)
        assert float(torch.linalg.cond(g)) == pytest.approx(condition, rel=1e-3)
        assert not torch.allclose((f.scrambled(g)).A, f.A, atol=1e-2)
        one, two = canonical(f.delta("layers.3.q")), canonical(f.scrambled(g).delta("layers.3.q"))
        assert deviation(one, two) < 1e-6
        assert torch.allclose(one.U, two.U, atol=1e-6)
        assert torch.allclose(one.V, two.V, atol=1e-6)
    assert deviation(canonical(factors(seed=0).delta("a")), canonical(factors(seed=1).delta("a"))) > 0.1


def test_signs_column_order_and_padding_with_zeros_change_nothing():
    f = factors()
    one = canonical(f.delta("a"))
    order = torch.randperm(5, generator=torch.Generator().manual_seed(1))
    signs = torch.tensor([1.0, -1, -1, 1, -1], dtype=torch.float64)
    zeros = torch.zeros
    for B, A in (
        (f.B * signs, f.A * signs[:, None]), (f.B[:, order], f.A[order]),
        (torch.cat([f.B, zeros(14, 3)], 1), torch.cat([f.A, zeros(3, 11)], 0)),
        (torch.cat([f.B, torch.ones(14, 3)], 1), torch.cat([f.A, zeros(3, 11)], 0)),
    ):  # fmt: skip
        two = canonical(Factors(B.double(), A.double(), 2.0).delta("a"))
        assert len(two.S) == 5
        assert deviation(one, two) < 1e-7
        assert torch.allclose(one.V, two.V, atol=1e-9)


def test_equal_singular_values_are_compared_by_what_they_span():
    q = torch.linalg.qr(torch.randn(9, 9, generator=torch.Generator().manual_seed(2), dtype=torch.float64))[0]
    s = torch.tensor([3.0, 1.0, 1.0, 1.0], dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64))[0]
    a = ModuleDelta("a", 0, q[:, :4], s, q[:, 4:8])
    b = ModuleDelta("a", 0, torch.cat([q[:, :1], q[:, 1:4] @ turn], 1), s, torch.cat([q[:, 4:5], q[:, 5:8] @ turn], 1))
    assert [list(g) for g in groups(s)] == [[0], [1, 2, 3]]
    assert not torch.allclose(a.U, b.U, atol=0.1)
    assert deviation(a, b) < 1e-7
    c = ModuleDelta("a", 0, a.U, s, torch.cat([q[:, 4:5], q[:, 5:8] @ turn], 1))
    assert deviation(a, c) > 0.1


def test_merging_and_taking_out_again_and_sixteen_bit_keep_the_change():
    f = factors()
    one = canonical(f.delta("a"))
    dense = torch.randn(14, 11, dtype=torch.float64)
    again, _ = truncated("a", dense + 2 * f.B @ f.A - dense)
    assert deviation(one, canonical(again)) < 1e-6
    half = canonical(Factors(f.B.half().double(), f.A.half().double(), 2.0).delta("a"))
    assert 1e-7 < deviation(one, half) < 1e-2


def test_the_certificate_holds_for_what_is_invariant_and_fails_for_an_answer_that_is_not(lora_folder):
    found = read_adapter(lora_folder)
    assert certify(found.factors, lambda ds: round(sum(float(d.S.sum()) for d in ds.values()), 6)).holds
    raw = iter(range(100))
    assert not certify(found.factors, lambda ds: next(raw)).holds
    assert certify(found.factors).deviation < 1e-6


def test_negligible_directions_are_dropped():
    f = factors()
    tail = Factors(torch.cat([f.B, f.B[:, :1] * NEGLIGIBLE * 1e-3], 1), torch.cat([f.A, f.A[:1].flip(1)], 0), 2.0)
    assert len(canonical(tail.delta("a")).S) == 5


# -- drift


def test_the_drift_of_a_change_is_its_dense_norm_rank_and_place(lora_folder, base_folder, base):
    found = read_adapter(lora_folder, base)
    drift = drift_of(found, base)
    expected = merged(base_folder, lora_folder)
    whole = sum(float(v.square().sum()) for v in expected.values())
    assert drift.features["log_norm"] == pytest.approx(0.5 * torch.tensor(whole).log().item(), abs=1e-5)
    assert sum(drift.layers.values()) == pytest.approx(1.0)
    assert set(drift.features) == set(FEATURES)
    for module in drift.modules:
        dense = expected[f"{module.path}.weight"]
        s = torch.linalg.svdvals(dense)
        assert module.norm == pytest.approx(float(dense.norm()), rel=1e-4)
        assert module.stable_rank == pytest.approx(float(s.square().sum() / s[0] ** 2), rel=1e-3)
        share = s.square() / s.square().sum()
        assert module.entropy == pytest.approx(float(-(share * share.clamp_min(1e-30).log()).sum()), abs=1e-3)
        assert module.relative_norm == pytest.approx(
            float(dense.norm() / base.read(f"{module.path}.weight").norm()), rel=1e-4
        )


def test_a_base_read_by_parts_in_float32_has_the_norm_of_the_whole(base, lora_folder, monkeypatch):
    monkeypatch.setattr(drift, "AT_ONCE", 100)
    delta = read_adapter(lora_folder, base)
    for module in drift_of(delta, base).modules:
        before = base.read(f"{module.path}.weight").double()
        assert module.relative_norm == pytest.approx(module.norm / float(before.norm()), rel=1e-6)


def test_percentiles_are_shares_of_the_reference_that_have_less():
    reference = [{"log_norm": float(i)} for i in range(4)]
    assert percentiles({"log_norm": 2.0}, reference) == {"log_norm": 0.625}
    with pytest.raises(ValueError, match="undefined"):
        percentiles({"log_norm": 1.0}, [])


def test_two_files_that_hold_one_tensor_are_refused(base_folder, tmp_path):
    tiny.copy(base_folder, tmp_path / "base")
    (tmp_path / "base" / "model.safetensors").rename(tmp_path / "base" / "a.safetensors")
    save_file(load_file(tmp_path / "base" / "a.safetensors"), tmp_path / "base" / "b.safetensors")
    index = {"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}
    (tmp_path / "base" / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelLoadError, match="both hold"):
        Parameters(tmp_path / "base")


def test_weights_beside_those_that_are_loaded_are_not_read_and_said_to_be_unsupported(
    lora_folder, base_folder, base, tmp_path
):
    folder = tiny.copy(lora_folder, tmp_path / "lora")
    save_file({"base_model.model.odd": torch.ones(2)}, folder / "decoy.safetensors")
    (folder / "adapter_model.bin").write_bytes(b"pickle")
    found = read_adapter(folder, base)
    assert "decoy.safetensors" in found.unsupported
    assert any(line.startswith("adapter_model.bin") for line in found.company)
    assert found.status == "partial"
    tuned = tiny.copy(base_folder, tmp_path / "tuned")
    tiny.edit_tensors(tuned / "model.safetensors", lambda ts: {**ts, "model.extra.weight": torch.ones(2, 2)})
    assert "model.extra.weight" in read_finetune(tuned, base).unsupported
    same = tiny.copy(base_folder, tmp_path / "same")
    tiny.edit_tensors(same / "model.safetensors", lambda ts: {**ts, "model.extra.weight": torch.ones(2, 2)})
    assert not read_finetune(tuned, Parameters(same)).unsupported, "what the base holds too changed nothing"


def test_a_module_that_is_saved_whole_beside_its_factors_is_changed_by_both(lora_folder, base_folder, base, tmp_path):
    folder = tiny.copy(lora_folder, tmp_path / "lora")
    key = "model.layers.0.self_attn.q_proj"
    payload = {f"base_model.model.{key}.base_layer.weight": base.read(f"{key}.weight") + 5}
    tiny.edit_tensors(folder / tiny.ADAPTER, lambda ts: {**ts, **payload})
    found = read_adapter(folder, base)
    expected = merged(base_folder, folder)[f"{key}.weight"]
    assert float(expected.abs().min()) > 1
    assert torch.allclose(product(found.modules[key]), expected, atol=2e-5)
    assert found.status == "read"


@pytest.mark.parametrize(
    "change",
    [{"lora_alpha": None}, {"lora_alpha": "x"}, {"lora_alpha": float("inf")}, {"r": "x"}, {"alpha_pattern": {"(.+)+!": 1}},
     {"alpha_pattern": {"q_proj": None}}],
    ids=str,
)  # fmt: skip
def test_settings_that_are_no_numbers_or_could_hang_are_refused(lora_folder, tmp_path, change):
    folder = tiny.copy(lora_folder, tmp_path / "lora")
    tiny.edit_json(folder / "adapter_config.json", **change)
    with pytest.raises(AdapterError, match="is needed; get the file again|may take for ever"):
        read_adapter(folder)


def test_an_alpha_of_zero_changes_nothing_and_a_missing_one_is_pefts_own(lora_folder, tmp_path):
    folder = tiny.copy(lora_folder, tmp_path / "lora")
    whole = read_adapter(folder)
    tiny.edit_json(folder / "adapter_config.json", lora_alpha=0)
    assert read_adapter(folder).status == "invalid"
    config = json.loads((folder / "adapter_config.json").read_text())
    del config["lora_alpha"]
    (folder / "adapter_config.json").write_text(json.dumps(config))
    path = next(iter(whole.factors))
    assert read_adapter(folder).factors[path].scale == whole.factors[path].scale == 2.0


@pytest.mark.parametrize("name", ["use_qalora", "use_bdlora", "kasa_config"])
def test_settings_under_which_factors_mean_something_else_are_unsupported(lora_folder, tmp_path, name):
    folder = tiny.copy(lora_folder, tmp_path / "lora")
    tiny.edit_json(folder / "adapter_config.json", **{name: True})
    assert name in read_adapter(folder).unsupported
