"""Symmetries of a LoRA's weights: the same function in other numbers, for the `adversary` suite."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from scenarios.testbed.suites import Disguise

SCALE = 64.0


def apply(folder: Path, disguise: Disguise, seed: int) -> None:
    """Rewrite the factors in a PEFT folder so that every `B A` stays what it was, up to rounding.

    `gauge` turns them by a random invertible matrix, `scaled` moves a factor of 64 from B to A.
    """
    if disguise == "none":
        return
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    generator = torch.Generator().manual_seed(seed)
    for name in sorted(key for key in tensors if ".lora_A." in key):
        other = name.replace(".lora_A.", ".lora_B.")
        a, b = tensors[name].double(), tensors[other].double()
        turn = _turn(a.shape[0], disguise, generator)
        tensors[name] = (turn @ a).to(tensors[name].dtype).contiguous()
        tensors[other] = torch.linalg.solve(turn, b, left=False).to(tensors[other].dtype).contiguous()
    save_file(tensors, path, metadata={"format": "pt"})


def _turn(rank: int, disguise: Disguise, generator: torch.Generator) -> Tensor:
    """Return an invertible matrix: a rotation with its axes stretched by up to four, or a plain scale."""
    if disguise == "scaled":
        return SCALE * torch.eye(rank, dtype=torch.float64)
    random = torch.randn(rank, rank, generator=generator, dtype=torch.float64)
    rotation, _ = torch.linalg.qr(random)
    stretch = torch.exp2(4 * torch.rand(rank, generator=generator, dtype=torch.float64) - 2)
    return rotation * stretch
