"""The null channels that every white-box reading carries, and the lift over them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

RANDOM_DELTA = "random_delta"
"""Channel: a random LoRA whose change has the subject's norm in every module."""


def lift_over(value: float, controls: Mapping[str, float]) -> float:
    """Return `value` minus the strongest control.

    Raises:
        ValueError: there is no control, so that the reading says nothing about the subject.
    """
    if not controls:
        raise ValueError("a reading without a control has no lift")
    return value - max(controls.values())


def random_like(vector: Float[Tensor, "*batch d_model"], seed: int) -> Float[Tensor, "*batch d_model"]:
    """Return Gaussian directions with the norms of `vector`."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(vector.shape, generator=generator).to(vector)
    scaled: Tensor = noise * (vector.norm(dim=-1, keepdim=True) / noise.norm(dim=-1, keepdim=True))
    return scaled
