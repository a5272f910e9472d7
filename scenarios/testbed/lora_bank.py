"""Many LoRAs on one frozen base at once: one batched matrix product a module, one Adam for all.

Row block i of a batch belongs to adapter i. Losses are summed over adapters and averaged within
each, and Adam is elementwise, so training N adapters together is training each alone.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Literal

import torch
from peft import LoraConfig
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

Modules = Literal["all", "attention", "mlp"]
ATTENTION, MLP = ("q_proj", "k_proj", "v_proj", "o_proj"), ("gate_proj", "up_proj", "down_proj")
TARGETS: dict[Modules, tuple[str, ...]] = {"all": (*ATTENTION, *MLP), "attention": ATTENTION, "mlp": MLP}
Spectra = dict[str, Tensor]
"""Singular values of each module's `B A`, by path, [adapter, rank]; without the scale alpha / rank."""


class BankedLinear(nn.Module):
    """A frozen linear layer with `n_adapters` LoRAs, each applied to its own block of rows."""

    def __init__(self, linear: nn.Linear, n_adapters: int, rank: int, scale: float) -> None:
        super().__init__()
        self.linear = linear
        self.scale = scale
        device = linear.weight.device
        self.lora_A = nn.Parameter(torch.empty(n_adapters, rank, linear.in_features, device=device))
        self.lora_B = nn.Parameter(torch.zeros(n_adapters, linear.out_features, rank, device=device))

    def forward(self, x: Tensor) -> Tensor:
        """Return the base's output plus each block's own low-rank update, which is made in the factors' own precision."""
        n, rank, d_in = self.lora_A.shape
        blocks = x.reshape(n, -1, d_in).to(self.lora_A.dtype)
        update = torch.bmm(torch.bmm(blocks, self.lora_A.transpose(1, 2)), self.lora_B.transpose(1, 2))
        out: Tensor = self.linear(x)
        return out + (self.scale * update.reshape(*x.shape[:-1], -1)).to(out.dtype)


class LoraBank:
    """`len(seeds)` LoRAs attached to `model` in place; `detach` gives the untouched base back."""

    def __init__(
        self, model: PreTrainedModel, seeds: list[int], rank: int, alpha: int, modules: Modules = "all"
    ) -> None:
        self.model, self.rank, self.alpha, self.targets = model, rank, alpha, TARGETS[modules]
        model.requires_grad_(False)
        self.modules: dict[str, BankedLinear] = {}
        for name, module in list(model.named_modules()):
            if isinstance(module, nn.Linear) and name.rsplit(".", 1)[-1] in self.targets:
                banked = BankedLinear(module, len(seeds), rank, alpha / rank)
                self.modules[name] = banked
                _replace(model, name, banked)
        for i, seed in enumerate(seeds):
            generator = torch.Generator().manual_seed(seed)
            for banked in self.modules.values():
                bound = math.sqrt(1 / banked.linear.in_features)
                with torch.no_grad():
                    banked.lora_A[i] = torch.empty(banked.lora_A.shape[1:]).uniform_(-bound, bound, generator=generator)

    def parameters(self) -> list[nn.Parameter]:
        """Return every adapter's factors."""
        return [factor for m in self.modules.values() for factor in (m.lora_A, m.lora_B)]

    def spectra(self) -> Spectra:
        """Return the singular values of every adapter's change, largest first."""
        return {name: _decomposed(banked)[1].detach() for name, banked in self.modules.items()}

    @torch.no_grad()
    def impose(self, spectra: Spectra, share: float = 1.0) -> None:
        """Give every change these singular values (times `share`), its directions kept.

        A change that is zero keeps zero: it has no directions yet.
        """
        for name, banked in self.modules.items():
            left, values, right = _decomposed(banked)
            root = (spectra[name] * share).sqrt()
            alive = (values.sum(1) > 1e-8)[:, None, None]
            banked.lora_B.copy_(torch.where(alive, left * root[:, None, :], banked.lora_B))
            banked.lora_A.copy_(torch.where(alive, root[:, :, None] * right, banked.lora_A))

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


def _decomposed(banked: BankedLinear) -> tuple[Tensor, Tensor, Tensor]:
    """Return `U, S, Vh` of every adapter's `B A`, from the factors alone: [n, out, r], [n, r], [n, r, in]."""
    q_b, r_b = torch.linalg.qr(banked.lora_B.detach())
    q_a, r_a = torch.linalg.qr(banked.lora_A.detach().transpose(1, 2))
    u, s, vh = torch.linalg.svd(r_b @ r_a.transpose(1, 2))
    return q_b @ u, s, vh @ q_a.transpose(1, 2)


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, module)
