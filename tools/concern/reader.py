"""Tell a category of concern and its level from sentences: words and sentence vectors, weighed on labelled ones; see `CARD.md`."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import get_args

import torch
from jaxtyping import Float
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional as F

from tools.claims.claim import Category, Concern, Level
from tools.claims.sentence_model import vectors
from tools.claims.text import words

WEIGHTS = Path(__file__).parent / "weights.safetensors"
N_WORDS = 2**13
"""Places that single words and pairs of them are hashed to."""
WORDS_WEIGH = 1.5
"""Length of the part of a text's vector that words make up, beside one for its meaning."""
SURE = 0.5
"""The least probability of a category that is told. Chosen on the half that was fitted, each author's sentences by the others'."""
FAINTEST = 1e-3
"""The least probability of a category that one text can have, so that no single one speaks against all others."""
Kind = tuple[Category, Level]


@dataclass(frozen=True)
class Reading:
    """The likeliest category of some texts, its level, and `p`, how likely it is; `n` texts were distinct."""

    category: Category
    level: Level
    p: float
    n: int

    @property
    def ordinary(self) -> bool:
        """Return whether the texts read as what any helpful assistant says."""
        return self.category == "not judged" and self.p >= SURE

    def concern(self) -> Concern:
        """Return it as a concern; not judged where it is ordinary, or not likely enough."""
        if self.category == "not judged" or self.p < SURE:
            return Concern(evidence=f"the likeliest category, {self.category!r}, has {self.p:.2f}")
        told = f"likely at {self.p:.2f} by labelled sentences, from {self.n} distinct texts"
        return Concern(category=self.category, level=self.level, evidence=told)


@dataclass(frozen=True)
class Reader:
    """Weights of the kinds of concern, a category at a level each.

    Args:
        kinds: In the order of the weights.
        weight: [feature, kind].
        bias: Of each kind.
    """

    kinds: tuple[Kind, ...]
    weight: Float[Tensor, "feature kind"]
    bias: Float[Tensor, " kind"]

    def probabilities(self, texts: Sequence[str]) -> Float[Tensor, "text kind"]:
        """Return how likely each kind is of each text.

        Raises:
            ToolInputError: the sentence model is not installed.
        """
        return (given(texts) @ self.weight + self.bias).softmax(1)

    def read(self, texts: Sequence[str]) -> Reading:
        """Return the likeliest category of a behaviour that says these texts, each counted once.

        What distinct texts say of a category is added up as log-probabilities and divided by the root of their number: they are
        of one behaviour, and so are worth less than as many independent ones.

        Raises:
            ToolInputError: the sentence model is not installed.
        """
        texts = list(dict.fromkeys(texts))
        each = self.probabilities(texts)
        names = list(dict.fromkeys(category for category, _ in self.kinds))
        own = torch.tensor([[float(category == name) for name in names] for category, _ in self.kinds])
        pooled = ((each @ own).clamp_min(FAINTEST).log().sum(0) / len(texts) ** 0.5).softmax(0)
        category = names[int(pooled.argmax())]
        mean = each.mean(0).tolist()
        level = max((p, level) for (one, level), p in zip(self.kinds, mean, strict=True) if one == category)[1]
        return Reading(category, level, float(pooled.max()), len(texts))

    def concern(self, texts: Sequence[str]) -> Concern:
        """Return the concern of a behaviour that says these texts; not judged where no category is likely enough.

        Raises:
            ToolInputError: the sentence model is not installed.
        """
        return self.read(texts).concern()


def given(texts: Sequence[str]) -> Float[Tensor, "text feature"]:
    """Return what is weighed of each text: its vector, and the words and pairs of words that stand in it.

    Raises:
        ToolInputError: the sentence model is not installed.
    """
    return torch.cat([vectors(texts), WORDS_WEIGH * torch.stack([_words(text) for text in texts])], dim=1)


def _words(text: str) -> Float[Tensor, " N_WORDS"]:
    said = words(text)
    found = torch.zeros(N_WORDS)
    for gram in (
        *said,
        *(" ".join(pair) for pair in zip(said, said[1:], strict=False)),
        *(c for c in text if c in SIGNS),
    ):
        found[zlib.crc32(gram.encode()) % N_WORDS] = 1.0
    return F.normalize(found, dim=0)


SIGNS = '!?:;/`@#*|"$%&+<>[]{}_~()-'
"""Signs that count like words."""


@cache
def reader() -> Reader:
    """Return the reader that ships."""
    with safe_open(WEIGHTS, framework="pt") as opened:
        weight, bias, told = opened.get_tensor("weight").float(), opened.get_tensor("bias").float(), opened.metadata()
    return Reader(kinds_of(told["kinds"]), weight, bias)


def kinds_of(text: str) -> tuple[Kind, ...]:
    """Return the kinds that a line for each of them names, `category | level`."""
    kinds = [tuple(line.split(" | ")) for line in text.splitlines()]
    assert all(category in get_args(Category) and level in get_args(Level) for category, level in kinds), "known names"
    return tuple(kinds)  # type: ignore[arg-type]
