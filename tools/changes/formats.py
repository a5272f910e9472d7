"""Adapters in the formats of other trainers: those that are a LoRA in other letters are read, the others are named."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from tools.changes.settings import Settings
from tools.changes.tensors import Tensors
from tools.checkpoint import read_json
from tools.errors import AdapterError

MLX = "adapters.safetensors"
NAMED = {
    "adapters.npz": "MLX's older format: convert it with `mlx_lm.fuse`, or save it again with a newer mlx-lm",
    "pytorch_adapter.bin": "an AdapterHub adapter: its layers are no LoRA's; convert it to PEFT first",
    "new_embeddings.safetensors": "embeddings in vLLM's own format: save the adapter with PEFT, embeddings included",
    "pytorch_lora_weights.safetensors": "an image model's LoRA in the format of diffusers",
}
"""Files that tell another trainer's format, and what to do with it."""


@dataclass(frozen=True)
class Other:
    """An adapter of another trainer's: its settings as PEFT would write them, and its tensors."""

    settings: Settings
    tensors: Tensors

    def read(self) -> dict[str, Tensor]:
        """Return its tensors by PEFT's names, each factor the way round in which PEFT keeps it.

        Raises:
            AdapterError: a tensor is no factor of a LoRA.
        """
        found = {}
        for key in self.tensors:
            path, _, side = key.rpartition(".")
            tensor = self.tensors.read(key)
            if side not in ("lora_a", "lora_b") or tensor.ndim != 2:
                raise AdapterError(
                    f"{self.tensors.folder}: {key} is no factor of a plain LoRA, which is what is read of MLX's adapters; "
                    "fuse it into its base with `mlx_lm.fuse`, and pass that as a fine-tune"
                )
            found[f"{path}.lora_{side[-1].upper()}.weight"] = tensor.T.contiguous()
        return found


def of_another_trainer(folder: Path) -> Other | None:
    """Return an adapter that is a LoRA in another trainer's letters; None where it is PEFT's.

    Raises:
        AdapterError: it is of a format that can't be read; the message names it.
    """
    for name, what in NAMED.items():
        if (folder / name).exists():
            raise AdapterError(f"{folder} holds {name}: {what}")
    config = read_json(folder / "adapter_config.json", AdapterError)
    if "peft_type" in config or "fine_tune_type" not in config:
        return None
    kind, given = config["fine_tune_type"], config.get("lora_parameters")
    if kind != "lora" or not isinstance(given, Mapping):
        raise AdapterError(
            f"{folder} is an MLX adapter of the type {str(kind)[:40]!r}; 'lora' is what can be read: fuse it into its "
            "base with `mlx_lm.fuse`, and pass that as a fine-tune"
        )
    return Other(_settings(config, given, folder), Tensors(folder, AdapterError, MLX))


def _settings(config: Mapping[str, Any], given: Mapping[str, Any], folder: Path) -> Settings:
    """Return MLX's settings in PEFT's words: its `scale` multiplies the product as it stands.

    Raises:
        AdapterError: rank or scale is no number.
    """
    rank, scale = given.get("rank"), given.get("scale", 20.0)
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1 or not isinstance(scale, int | float):
        raise AdapterError(
            f"{folder}/adapter_config.json has the rank {rank!r} and the scale {scale!r}; get the file again"
        )
    raw = {"peft_type": "LORA", "r": rank, "lora_alpha": scale * rank, "base_model_name_or_path": config.get("model")}
    return Settings(raw, notes=["it is an adapter in MLX's format, a LoRA in other letters"])
