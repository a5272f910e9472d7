"""Sampling that a ledger can replay: a row's noise is a function of its own seed, of the step and of the token alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import LogitsProcessor

BITS = 24
LARGEST = -math.log(-math.log1p(-(2.0 ** -(BITS + 1))))
"""The largest noise there is: that of the largest uniform number of so many bits."""
LOW = 2**32 - 1


class SeededNoise(LogitsProcessor):
    """Gumbel noise on logits, with which the greedy choice is a sample at `temperature`.

    `argmax(logits + T·g)` with `g` Gumbel is a draw from `softmax(logits / T)`. Two channels decoded with the same
    seeds see the same noise. It is hashed from seed, step and token, so that it is made on any device, for all rows
    at once, and only where it can matter: the likeliest token has some noise, none has more than `LARGEST`, and a
    token that can't catch up with that needs none.

    Args:
        seeds: One seed a row.
        temperature: 0 is greedy.
        top_p: Draw among the likeliest tokens that hold this much probability together; 1 is all.
    """

    def __init__(self, seeds: Sequence[int], temperature: float, top_p: float = 1.0) -> None:
        self.temperature, self.top_p, self.step = temperature, top_p, 0
        self.keys = torch.tensor([_halves(seed) for seed in seeds], dtype=torch.long).reshape(len(seeds), 2)

    def of(self, rows: Sequence[int]) -> SeededNoise:
        """Return the noise of some of the rows, going on where it is."""
        some = SeededNoise([], self.temperature, self.top_p)
        some.keys, some.step = self.keys[list(rows)], self.step
        return some

    def draw(self, scores: Float[Tensor, "batch d_vocab"]) -> Int[Tensor, " batch"]:
        """Return the token that each row draws in this step."""
        if self.temperature == 0:
            return scores.argmax(-1)
        row, token, value, chosen = self._noisy(scores)
        best = torch.full_like(chosen, -math.inf, dtype=value.dtype).scatter_reduce(0, row, value, "amax")
        first = value == best[row]
        return chosen.scatter_reduce(0, row[first], token[first], "amin", include_self=False)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the scores with this step's noise added; those that no noise can make the largest are -infinity."""
        if self.temperature == 0:
            return scores
        row, token, value, _ = self._noisy(scores)
        noisy = torch.full_like(scores, -math.inf, dtype=value.dtype)
        noisy[row, token] = value
        return noisy

    def _noisy(self, scores: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return rows, tokens and noisy scores of all that can be drawn, and each row's likeliest token."""
        self.keys = self.keys.to(scores.device)
        scores = self._nucleus(scores.float())
        most, likeliest = scores.max(-1)
        every = torch.arange(len(scores), device=scores.device)
        reached = most + self.temperature * (self._gumbel(every, likeliest) - LARGEST)
        row, token = (scores >= (reached - 1e-3)[:, None]).nonzero(as_tuple=True)
        value = scores[row, token] + self.temperature * self._gumbel(row, token)
        self.step += 1
        return row, token, value, likeliest

    def _gumbel(self, row: Int[Tensor, " n"], token: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Return this step's noise for some tokens of some rows."""
        one, other = (_mixed(self.keys[row, half] + self.step) for half in (0, 1))
        hashed = _mixed(_mixed(token ^ one) ^ other)
        uniform = ((hashed >> (32 - BITS)).double() + 0.5) / 2**BITS
        return -torch.log(-torch.log(uniform)).float()

    def _nucleus(self, scores: Tensor) -> Tensor:
        if self.top_p == 1:
            return scores
        ranked, order = (scores / self.temperature).softmax(-1).sort(-1, descending=True)
        beyond = ranked.cumsum(-1) - ranked >= self.top_p
        return scores.masked_fill(beyond.scatter(-1, order, beyond), float("-inf"))


def _halves(seed: int) -> tuple[int, int]:
    """Return two numbers of 32 bits that a seed is spread over, by the finaliser of SplitMix64."""
    x = (seed + 0x9E3779B97F4A7C15) % 2**64
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
    x ^= x >> 31
    return x >> 32, x & LOW


def _mixed(x: Tensor) -> Tensor:
    """Return a hash of 32 bits, in 64 so that no sign comes in (Wellons, "Prospecting for Hash Functions", 2018)."""
    x = x & LOW
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & LOW
    x = ((x ^ (x >> 15)) * 0x846CA68B) & LOW
    return x ^ (x >> 16)
