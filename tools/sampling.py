"""Sampling that a ledger can replay: each row's noise is a function of its own seed alone."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import LogitsProcessor


class SeededNoise(LogitsProcessor):
    """Adds Gumbel noise to the logits, so that the greedy choice is a sample at `temperature`.

    `argmax(logits + T·g)` with `g` Gumbel is a draw from `softmax(logits / T)`. Every row has a
    generator of its own; two channels decoded with the same seeds see the same noise.

    Args:
        seeds: One seed a row.
        temperature: 0 is greedy.
    """

    def __init__(self, seeds: list[int], temperature: float) -> None:
        self.temperature = temperature
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the scores with this step's noise added."""
        if self.temperature == 0:
            return scores
        uniform = torch.stack([torch.rand(scores.shape[-1], generator=g) for g in self.generators])
        gumbel = -torch.log(-torch.log(uniform.clamp(1e-9, 1 - 1e-7)))
        return scores.float() + self.temperature * gumbel.to(scores.device)
