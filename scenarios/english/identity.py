"""What a model's folder holds, told by hashes that don't hang on the versions of the libraries that wrote it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tools.checkpoint import read_json, read_tensors
from tools.errors import ModelLoadError

PROBE = "In 1234 it's  fine:\n\n\tdéjà-vu, 北京 🙂 <|im_start|>user\nFOO_bar(x)<|im_end|>"
"""A text whose tokens show what splits words, which files name in many ways."""
SHAPE = (
    "model_type",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
    "max_position_embeddings",
    "rms_norm_eps",
    "tie_word_embeddings",
    "dtype",
)
ENDS = ("eos_token_id", "pad_token_id")


@dataclass(frozen=True)
class Identity:
    """Three sha256: of all tensors, of how text becomes tokens, and of what the configuration says."""

    weights: str
    words: str
    settings: str


def identity_of(folder: Path) -> Identity:
    """Return what a folder of one safetensors file holds.

    Raises:
        ModelLoadError: it lacks a file, or one can't be read.
    """
    try:
        return Identity(
            weights=_weights(read_tensors(folder / "model.safetensors", ModelLoadError)),
            words=_sha256(_words(folder)),
            settings=_sha256(_settings(folder)),
        )
    except ModelLoadError:
        raise
    except Exception as error:  # damaged files fail in any way
        raise ModelLoadError(f"{folder} is no model that can be read: {error}; get it again") from error


def _weights(tensors: dict[str, Tensor]) -> str:
    """Return one sha256 over names, types, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()


def _words(folder: Path) -> list[object]:
    """Return vocabulary, merges, special tokens, the tokens of the probe, and the chat template."""
    from tokenizers import Tokenizer

    file = folder / "tokenizer.json"
    core = read_json(file, ModelLoadError)
    special = [[token["id"], token["content"], token["special"]] for token in core["added_tokens"]]
    probe = Tokenizer.from_file(str(file)).encode(PROBE).ids
    named = read_json(folder / "tokenizer_config.json", ModelLoadError)
    ends = [named["eos_token"], named["pad_token"]]
    template = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    return [core["model"]["vocab"], core["model"]["merges"], special, probe, ends, template]


def _settings(folder: Path) -> list[object]:
    """Return what the model is built by, and what ends its texts."""
    config = read_json(folder / "config.json", ModelLoadError)
    generation = read_json(folder / "generation_config.json", ModelLoadError)
    shape = {key: config[key] for key in (*SHAPE, *ENDS)}
    return [shape, config["rope_parameters"]["rope_theta"], {key: generation[key] for key in ENDS}]


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
