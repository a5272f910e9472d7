"""LoRAs of every kind that is read: an audit's subject computes what PEFT's own does, and a scan reads all of the change."""

import warnings

import pytest
import tiny
import torch
from peft import BdLoraConfig, LoraConfig, MontecloraConfig, PeftModel, VeloraConfig, get_peft_model
from safetensors.torch import load_file

from tools.changes.parameters import Parameters
from tools.changes.reading import read_adapter
from tools.loading import load_subject

IDS = torch.tensor([[7, 40, 12, 80, 5, 33, 21, 60, 6, 90]])
EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
KINDS = {
    "plain": ("llama", {}),
    "no task type": ("llama", {"task_type": None}),
    "rslora": ("llama", {"use_rslora": True, "r": 6}),
    "patterns": ("llama",
        {"target_modules": ["q_proj", "k_proj", "up_proj"], "rank_pattern": {"q_proj": 2, "layers.1.mlp.up_proj": 6},
         "alpha_pattern": {"layers.0.+k_proj": 32}}),
    "all linear": ("llama", {"target_modules": "all-linear"}),
    "regex and layers": ("llama", {"target_modules": r".*\.(q|v)_proj"}),
    "some layers": ("llama", {"target_modules": ["q_proj"], "layers_to_transform": [1]}),
    "negative alpha": ("llama", {"lora_alpha": -8}),
    "dora": ("llama", {"use_dora": True, "target_modules": ["q_proj", "down_proj"]}),
    "dora and embeddings": ("llama", {"use_dora": True, "target_modules": ["q_proj", "embed_tokens"]}),
    "dora turned": ("gpt2", {"use_dora": True, "target_modules": ["c_attn"], "fan_in_fan_out": True}),
    "bias of the second factor": ("llama", {"lora_bias": True}),
    "head saved": ("llama", {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}),
    "tables and norms saved": ("llama",
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head", "input_layernorm"]}),
    "embeddings saved, tied": ("llama_tied", {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}),
    "embeddings saved and kept tied": ("llama_tied",
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}),
    "embeddings adapted": ("llama", {"target_modules": ["q_proj", "embed_tokens"]}),
    "head adapted": ("llama", {"target_modules": ["q_proj", "lm_head"]}),
    "head adapted, tied": ("llama_tied", {"target_modules": ["q_proj", "lm_head"]}),
    "embeddings adapted, tied": ("llama_tied", {"target_modules": ["q_proj", "embed_tokens"]}),
    "embeddings adapted and kept tied": ("llama_tied", {"target_modules": ["q_proj", "embed_tokens"], "ensure_weight_tying": True}),
    "tokens": ("llama", {"target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [5, 6]}}),
    "tokens of both tables": ("llama",
        {"target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [5, 6], "lm_head": [7, 40]}}),
    "tokens, tied": ("llama_tied", {"target_modules": ["q_proj"], "trainable_token_indices": [5, 6]}),
    "tokens, tied, others in the head": ("llama_tied",
        {"target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [5, 6], "lm_head": [7]}}),
    "tokens, tied, of the head alone": ("llama_tied", {"target_modules": ["q_proj"], "trainable_token_indices": {"lm_head": [7]}}),
    "a rank above the matrix's own": ("llama", {"r": 200, "target_modules": ["q_proj"], "layers_to_transform": [1]}),
    "dora, rslora and patterns": ("llama",
        {"use_dora": True, "use_rslora": True, "rank_pattern": {"q_proj": 2, r"layers\.[0-9]+\.mlp\.down_proj": 6}}),
    "biases": ("gpt2", {"target_modules": ["c_attn"], "bias": "lora_only", "fan_in_fan_out": True}),
    "all biases": ("gpt2", {"target_modules": ["c_attn", "c_fc"], "bias": "all", "fan_in_fan_out": True}),
    "weights by name": ("llama", {"target_modules": [], "target_parameters": ["q_proj.weight", "mlp.down_proj.weight"]}),
    "experts": ("qwen3_moe", {"target_modules": ["q_proj"], "target_parameters": EXPERTS}),
    "experts alone, one of two": ("qwen3_moe", {"target_modules": [], "target_parameters": EXPERTS[1:]}),
    "experts the other way round": ("gpt_oss", {"target_modules": ["q_proj"], "target_parameters": EXPERTS}),
    "blocks": ("llama",
        {"target_modules": ["q_proj", "o_proj"], "use_bdlora":
         BdLoraConfig(target_modules_bd_a=["o_proj"], target_modules_bd_b=["q_proj"], nblocks=2)}),
    "sampled in training": ("llama", {"target_modules": ["q_proj"], "monteclora_config": MontecloraConfig()}),
    "compressed in training": ("llama", {"target_modules": ["q_proj"], "velora_config": VeloraConfig()}),
    "begun at the smallest directions": ("llama", {"target_modules": ["q_proj"], "init_lora_weights": "mica"}),
    "a vision-language wrapper": ("gemma3_wrapped", {"target_modules": r".*language_model.*(q_proj|down_proj)"}),
}  # fmt: skip


def trained(base, folder, seed=1, **config):
    """Write an adapter in which everything that it may change is changed, as PEFT saves it; return PEFT's own logits."""
    settings = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj"], "task_type": "CAUSAL_LM", **config}
    model = get_peft_model(tiny.load_bare(base), LoraConfig(**settings))
    stir(model, seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(folder)
    return folder


def stir(model, seed=1):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.requires_grad or ".lora_embedding" in name:
                weight.add_(torch.randn(weight.shape, generator=generator) * 0.1)


def logits_of(base, folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = PeftModel.from_pretrained(tiny.load_bare(base), str(folder)).eval()
    with torch.no_grad():
        return model(input_ids=IDS).logits


def own(subject, channel):
    with torch.no_grad(), subject.channel(channel) as model:
        return model(input_ids=IDS).logits


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    room = tmp_path_factory.mktemp("bases")
    return lambda kind: room / kind if (room / kind).exists() else tiny.build_other(room / kind, kind)


@pytest.mark.parametrize("name", KINDS)
def test_an_audit_computes_what_peft_does_and_a_scan_reads_the_whole_change(bases, tmp_path, name):
    kind, config = KINDS[name]
    base = bases(kind)
    folder = trained(base, tmp_path / "lora", **config)
    expected, bare = logits_of(base, folder), tiny.load_bare(base)(input_ids=IDS).logits
    assert not torch.allclose(expected, bare, atol=1e-3)
    subject = load_subject(str(base), str(folder))
    for channel, wanted in (("subject", expected), ("base", bare), ("subject", expected)):
        assert torch.allclose(own(subject, channel), wanted, atol=1e-5), channel
    subject.add_null("null", seed=3)
    assert torch.allclose(own(subject, "base"), bare, atol=1e-5)
    found = read_adapter(folder, Parameters(base))
    assert found.status == "read", found.unsupported
    assert_applied(base, found, expected)


def assert_applied(base, found, expected):
    """Assert that the change that was read, put into the base's own weights, makes PEFT's logits: nothing was overlooked."""
    if found.vectors:
        return
    model, weights = tiny.load_bare(base), Parameters(base)
    heads = {id(model.get_output_embeddings().weight), id(model.get_input_embeddings().weight)}
    if len(heads) == 1:  # tied tables change apart
        model.get_output_embeddings().weight = torch.nn.Parameter(model.get_output_embeddings().weight.clone())
    state = dict(model.named_parameters())
    with torch.no_grad():
        for path, delta in found.modules.items():
            change = (delta.U @ torch.diag(delta.S) @ delta.V.T).float()
            stack, _, place = path.rpartition(".")
            if f"{path}.weight" in state:
                weight = state[f"{path}.weight"]
                weight.add_(change.T if weights.turned(f"{path}.weight") else change)
            else:
                experts = model.get_submodule(stack.rpartition(".")[0])
                turned = getattr(experts, "is_transposed", False)
                state[stack][int(place)].add_(change.T if turned else change)
        assert torch.allclose(model(input_ids=IDS).logits, expected, atol=2e-4)


def test_a_bias_of_the_second_factor_is_a_vector_of_its_size_at_the_adapters_scale(bases, tmp_path):
    base = bases("llama")
    folder = trained(base, tmp_path / "lora", target_modules=["q_proj"], lora_bias=True)
    found = read_adapter(folder, Parameters(base))
    key = "model.layers.1.self_attn.q_proj"
    bias = load_file(folder / tiny.ADAPTER)[f"base_model.model.{key}.lora_B.bias"]
    assert found.vectors[f"{key}.bias"] == pytest.approx(8 / 4 * float(bias.norm()), rel=1e-6)
