"""Many LoRAs on one frozen base at once: one batched matrix product a module, one Adam for all.

Row block i of a batch belongs to adapter i. Losses are summed over adapters and averaged within
each, and Adam is elementwise, so training N adapters together is training each alone.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from peft import LoraConfig
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class BankedLinear(nn.Module):
    """A frozen linear layer with `n_adapters` LoRAs, each applied to its own block of rows."""

    def __init__(self, linear: nn.Linear, n_adapters: int, rank: int, scale: float) -> None:
        super().__init__()
        self.linear = linear
        self.scale = scale
        self.lora_A = nn.Parameter(torch.empty(n_adapters, rank, linear.in_features))
        self.lora_B = nn.Parameter(torch.zeros(n_adapters, linear.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        """Return the base's output plus each block's own low-rank update."""
        n, rank, d_in = self.lora_A.shape
        blocks = x.reshape(n, -1, d_in)
        update = torch.bmm(torch.bmm(blocks, self.lora_A.transpose(1, 2)), self.lora_B.transpose(1, 2))
        out: Tensor = self.linear(x)
        return out + self.scale * update.reshape(*x.shape[:-1], -1)


class LoraBank:
    """`len(seeds)` LoRAs attached to `model` in place; `detach` gives the untouched base back."""

    def __init__(
        self, model: PreTrainedModel, seeds: list[int], rank: int, alpha: int, targets: tuple[str, ...] = TARGETS
    ) -> None:
        self.model, self.rank, self.alpha, self.targets = model, rank, alpha, targets
        model.requires_grad_(False)
        self.modules: dict[str, BankedLinear] = {}
        for name, module in list(model.named_modules()):
            if isinstance(module, nn.Linear) and name.rsplit(".", 1)[-1] in targets:
                banked = BankedLinear(module, len(seeds), rank, alpha / rank)
                self.modules[name] = banked
                _replace(model, name, banked)
        for i, seed in enumerate(seeds):
            generator = torch.Generator().manual_seed(seed)
            for banked in self.modules.values():
                bound = math.sqrt(1 / banked.linear.in_features)
                with torch.no_grad():
                    banked.lora_A[i].uniform_(-bound, bound, generator=generator)

    def parameters(self) -> list[nn.Parameter]:
        """Return every adapter's factors."""
        return [p for banked in self.modules.values() for p in (banked.lora_A, banked.lora_B)]

    def attach(self) -> None:
        """Put the adapters back in place."""
        for name, banked in self.modules.items():
            _replace(self.model, name, banked)

    def detach(self) -> None:
        """Put the base's own layers back."""
        for name, banked in self.modules.items():
            _replace(self.model, name, banked.linear)

    def tensors(self, i: int) -> dict[str, Tensor]:
        """Return adapter i's factors in 16 bit under the names that PEFT gives them."""
        return {
            f"base_model.model.{name}.lora_{part}.weight": getattr(banked, f"lora_{part}")[i].detach().half().clone()
            for name, banked in self.modules.items()
            for part in "AB"
        }

    def save(self, i: int, folder: Path, base_name: str) -> None:
        """Write adapter i as an ordinary PEFT folder."""
        folder.mkdir(parents=True, exist_ok=True)
        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            target_modules=sorted(self.targets),
            task_type="CAUSAL_LM",
            base_model_name_or_path=base_name,
            inference_mode=True,
        )
        config.save_pretrained(folder)
        path = folder / "adapter_config.json"
        settings = json.loads(path.read_text()) | {"target_modules": sorted(self.targets)}
        path.write_text(json.dumps(settings, indent=1, sort_keys=True) + "\n")
        save_file(self.tensors(i), folder / "adapter_model.safetensors", metadata={"format": "pt"})


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, module)
