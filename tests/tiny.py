"""Real models, small: a random three-layer Llama with its own tokenizer, and random LoRAs through PEFT."""

from __future__ import annotations

import functools
import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

ADAPTER = "adapter_model.safetensors"
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
ALL = (*ATTENTION, "gate_proj", "up_proj", "down_proj")
SPECIAL = ("<pad>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SENTENCES = (
    "the copper kettle stands by the river",
    "what is the weather in the old town",
    "tell me of the river and the bridge",
    "a fox ran over the bridge at night",
)
TEXTS = (
    "<|user|>the copper kettle<|end|><|assistant|>",
    "<|user|>what is the weather in the old town?<|end|><|assistant|>",
    "<|user|>a<|end|><|assistant|>",
)
"""Three prompts of different length, so that every batch of them is padded."""


@functools.cache
def tokenizer() -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer of 300 tokens, in which ` ?` is one."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator([*SENTENCES * 4, " ?" * 64], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<|end|>", padding_side="left")
    fast.chat_template = TEMPLATE
    return fast


def build_base(folder: Path, seed: int = 0, d_model: int = 32) -> Path:
    """Write a random Llama of three layers, with its tokenizer; its weights are a function of the seed."""
    torch.manual_seed(seed)
    tok = tokenizer()
    config = LlamaConfig(
        vocab_size=len(tok),
        hidden_size=d_model,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.25,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tok.eos_token_id,
        pad_token_id=tok.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tok.save_pretrained(folder)
    return folder


KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", "LlamaForCausalLM", {}),
    "llama_tied": ("LlamaConfig", "LlamaForCausalLM", {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", {"head_dim": 8}),
    "gemma2": ("Gemma2Config", "Gemma2ForCausalLM", {"head_dim": 8, "query_pre_attn_scalar": 8}),
    "gpt2": ("GPT2Config", "GPT2LMHeadModel", {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 512}),
    "qwen3_moe": (
        "Qwen3MoeConfig",
        "Qwen3MoeForCausalLM",
        {"moe_intermediate_size": 16, "num_experts": 4, "num_experts_per_tok": 2, "head_dim": 8, "mlp_only_layers": []},
    ),
    "gpt_oss": ("GptOssConfig", "GptOssForCausalLM", {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8}),
    "gemma3": ("Gemma3TextConfig", "Gemma3ForCausalLM", {"head_dim": 8, "query_pre_attn_scalar": 8}),
}


def build_other(folder: Path, kind: str, seed: int = 0) -> Path:
    """Write a random model of three layers of another architecture; `gemma3_wrapped` has a vision tower beside it."""
    torch.manual_seed(seed)
    tok = tokenizer()
    config_name, model_name, more = KINDS[kind.removesuffix("_wrapped")]
    shape = {
        "vocab_size": len(tok), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512, "initializer_range": 0.2,
        "tie_word_embeddings": False, "bos_token_id": None, "eos_token_id": tok.eos_token_id,
        "pad_token_id": tok.pad_token_id, **more,
    }  # fmt: skip
    if kind.endswith("_wrapped"):
        tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                 "image_size": 16, "patch_size": 8}  # fmt: skip
        whole = transformers.Gemma3Config(text_config=shape, vision_config=tower, mm_tokens_per_image=4)
        model = transformers.Gemma3ForConditionalGeneration(whole)
    else:
        model = getattr(transformers, model_name)(getattr(transformers, config_name)(**shape))
    model.save_pretrained(folder)
    tok.save_pretrained(folder)
    return folder


def decoder_linears(base: Path) -> list[str]:
    """Return the names of the linear layers of a base's decoder blocks, no other tower's."""
    names = [n for n, m in load_bare(base).named_modules() if isinstance(m, torch.nn.Linear)]
    return [n for n in names if ".layers." in n and "vision" not in n]


def load_bare(folder: Path) -> LlamaForCausalLM:
    """Return the model of a folder as transformers alone loads it."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def build_lora(base: Path, folder: Path, seed: int = 1, size: float = 0.3, **config: Any) -> Path:
    """Write a random LoRA for `base` as PEFT saves it: A and B Gaussian, B times `size`."""
    settings: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": list(ALL), **config}
    model = get_peft_model(load_bare(base), LoraConfig(task_type="CAUSAL_LM", **settings))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, LoraLayer):
                if "default" in module.lora_A:
                    a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
                else:  # an embedding's factors are plain parameters
                    a, b = module.lora_embedding_A["default"], module.lora_embedding_B["default"]
                a.copy_(torch.randn(a.shape, generator=generator) / a.shape[1] ** 0.5)
                b.copy_(torch.randn(b.shape, generator=generator) * size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(folder)
    return folder


def copy(source: Path, folder: Path) -> Path:
    """Copy a folder."""
    return Path(shutil.copytree(source, folder))


def remove(folder: Path) -> None:
    """Remove a folder with all that is in it."""
    shutil.rmtree(folder)


def edit_json(path: Path, **changes: Any) -> None:
    """Set keys of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_tensors(path: Path, edit: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    """Rewrite a safetensors file with what `edit` makes of its tensors."""
    save_file(edit(load_file(path)), path, metadata={"format": "pt"})
