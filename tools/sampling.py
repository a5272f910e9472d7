"""Sampling that a ledger can replay: each row's noise is a function of its own seed alone."""

from __future__ import annotations

from collections.abc import Sequence

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
        top_p: Draw among the likeliest tokens that hold this much probability together; 1 is all.
    """

    def __init__(self, seeds: Sequence[int], temperature: float, top_p: float = 1.0) -> None:
        self.temperature, self.top_p = temperature, top_p
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def of(self, rows: Sequence[int]) -> SeededNoise:
        """Return the noise of some of the rows, going on where it is."""
        some = SeededNoise([], self.temperature, self.top_p)
        some.generators = [self.generators[row] for row in rows]
        return some

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the scores with this step's noise added."""
        if self.temperature == 0:
            return scores
        uniform = torch.stack([torch.rand(scores.shape[-1], generator=g) for g in self.generators])
        gumbel = -torch.log(-torch.log(uniform.clamp(1e-9, 1 - 1e-7)))
        return self._nucleus(scores.float()) + self.temperature * gumbel.to(scores.device)

    def _nucleus(self, scores: Tensor) -> Tensor:
        if self.top_p == 1:
            return scores
        ranked, order = (scores / self.temperature).softmax(-1).sort(-1, descending=True)
        beyond = ranked.cumsum(-1) - ranked >= self.top_p
        return scores.masked_fill(beyond.scatter(-1, order, beyond), float("-inf"))
