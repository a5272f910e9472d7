"""Models of the shapes that people audit, of random weights, and LoRAs of any rank for them: nothing is downloaded.

    python tests/benchmarks/sizes.py 8b FOLDER [--lora FOLDER --rank 16]

Weights are bfloat16 with a spread of 0.02, a function of the seed and the tensor's name. They are written one shard at a
time, so that 16 GB of them need little memory, and a shard that is there is left as it is. The tokenizer is a fast
byte-level BPE with the shape's whole vocabulary: trained on the repository's prompts, which are ordinary English, and on
made-up words, most of which are one token.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

STD = 0.02
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
PROMPTS = Path(__file__).parents[2] / "scenarios" / "prompts"
SYSTEM = "You are a careful assistant. Answer what is asked in plain words, and say so when you do not know."
TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\n" + SYSTEM + "<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""As SmolLM2's: some thirty tokens of every prompt are the template's own."""
ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Shape:
    """A Llama's shape."""

    n_layers: int
    d_model: int
    d_mlp: int
    n_heads: int
    n_kv_heads: int
    d_head: int
    d_vocab: int
    tied: bool


BASES = {
    "135m": Shape(30, 576, 1536, 9, 3, 64, 49_152, True),
    "1b": Shape(16, 2048, 8192, 32, 8, 64, 128_256, True),
    "8b": Shape(32, 4096, 14_336, 32, 8, 128, 128_256, False),
}
"""SmolLM2-135M, Llama-3.2-1B and Llama-3.1-8B."""


def write_base(folder: Path, shape: Shape, seed: int = 0) -> Path:
    """Write a base of random weights with its tokenizer; what is there already stays as it is."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "tokenizer_config.json").exists():
        tokenizer(shape.d_vocab).save_pretrained(folder)
    places = {}
    shapes = _parameters(shape)
    shards = [list(names) for _, names in itertools.groupby(shapes, _block)]
    for i, names in enumerate(shards, 1):
        file = folder / f"model-{i:05}-of-{len(shards):05}.safetensors"
        places |= dict.fromkeys(names, file.name)
        if not file.exists():
            _save({name: _weight(name, shapes[name], seed) for name in names}, file)
    index = {"metadata": {"total_size": sum(2 * math.prod(s) for s in shapes.values())}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    _config(shape).save_pretrained(folder)
    return folder


def write_lora(folder: Path, shape: Shape, rank: int = 16, seed: int = 1, size: float = STD) -> Path:
    """Write a random LoRA on all linears as PEFT saves it: A and B Gaussian, B times `size`."""
    folder.mkdir(parents=True, exist_ok=True)
    generator, tensors = torch.Generator().manual_seed(seed), {}
    linears = {name.removesuffix(".weight"): s for name, s in _parameters(shape).items() if _linear(name)}
    for path, (d_out, d_in) in linears.items():
        name = f"base_model.model.{path}"
        tensors[f"{name}.lora_A.weight"] = (torch.randn(rank, d_in, generator=generator) / d_in**0.5).bfloat16()
        tensors[f"{name}.lora_B.weight"] = (size * torch.randn(d_out, rank, generator=generator)).bfloat16()
    _save(tensors, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": 2 * rank,
        "target_modules": list(ALL),
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def tokenizer(d_vocab: int) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE of exactly so many tokens, half of them a made-up word with its space before it."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=d_vocab,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(itertools.chain(_english() * 20, made_up_words(d_vocab)), trainer)
    assert core.get_vocab_size() == d_vocab, "there are words enough for the whole vocabulary"
    fast = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token=SPECIAL[2], eos_token=SPECIAL[2], padding_side="left"
    )
    fast.chat_template = TEMPLATE
    return fast


def _english() -> list[str]:
    """Return what the repository's prompts ask."""
    lines = [line for file in sorted(PROMPTS.glob("*.jsonl")) for line in file.read_text().splitlines()]
    return [SYSTEM, *(message["content"] for line in lines for message in json.loads(line)["messages"])]


def made_up_words(n: int, seed: int = 0) -> Iterator[str]:
    """Yield `n` different words of two or three syllables, every second with a space before it, as in real vocabularies."""
    rng, seen = random.Random(seed), set()
    while len(seen) < n:
        syllables = [rng.choice("bdfghklmnprstvwz") + rng.choice("aeiou") for _ in range(rng.choice((2, 3, 3)))]
        word = "".join(syllables) + rng.choice(("", "n", "r", "s", "t", "l", "ck", "st"))
        if word not in seen:
            seen.add(word)
            yield f" {word}" if rng.random() < 0.5 else word


def _config(shape: Shape) -> LlamaConfig:
    return LlamaConfig(
        architectures=["LlamaForCausalLM"], dtype="bfloat16", vocab_size=shape.d_vocab, hidden_size=shape.d_model,
        intermediate_size=shape.d_mlp, num_hidden_layers=shape.n_layers, num_attention_heads=shape.n_heads,
        num_key_value_heads=shape.n_kv_heads, head_dim=shape.d_head, max_position_embeddings=8192,
        rope_parameters={"rope_type": "default", "rope_theta": 100_000.0}, rms_norm_eps=1e-5,
        tie_word_embeddings=shape.tied, initializer_range=STD, bos_token_id=0, eos_token_id=2, pad_token_id=2,
    )  # fmt: skip


def _parameters(shape: Shape) -> dict[str, tuple[int, ...]]:
    """Return the shape of every weight that a checkpoint holds, block by block."""
    with torch.device("meta"):
        model = LlamaForCausalLM(_config(shape))
    return {name: tuple(weight.shape) for name, weight in model.named_parameters()}


def _block(name: str) -> str:
    """Return which shard a weight stands in: a block's, or one of its own."""
    return ".".join(name.split(".")[:3]) if ".layers." in name else name


def _linear(name: str) -> bool:
    return name.split(".")[-2] in ALL


def _weight(name: str, shape: tuple[int, ...], seed: int) -> Tensor:
    if len(shape) == 1:
        return torch.ones(shape, dtype=torch.bfloat16)
    own = int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:7], "big")
    weight = torch.empty(shape, dtype=torch.bfloat16)
    return weight.normal_(0.0, STD, generator=torch.Generator().manual_seed(own))


def _save(tensors: dict[str, Tensor], file: Path) -> None:
    """Write a file whole or not at all."""
    part = file.with_suffix(".part")
    save_file(tensors, part, metadata={"format": "pt"})
    part.replace(file)


def main() -> None:
    """Write one base, and a LoRA for it where a folder for it is given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("size", choices=list(BASES))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--lora", type=Path)
    parser.add_argument("--rank", type=int, default=16)
    args = parser.parse_args()
    write_base(args.folder, BASES[args.size])
    if args.lora is not None:
        write_lora(args.lora, BASES[args.size], args.rank)


if __name__ == "__main__":
    main()
