"""Words one at a time: which to look at, each where a user's turn begins, and how far one stands out from the rest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from tools.subject import MAX_BATCH, Encoded, Subject

MIN_VALUES = 8
WordScores = dict[str, float]


def whole_words(subject: Subject) -> list[str]:
    """Return the tokens of the vocabulary that are whole words, sorted."""
    pieces = (subject.decode([i]) for i in range(len(subject.tokenizer)))
    return sorted({p.strip() for p in pieces if p.startswith(" ") and len(p.strip()) > 2 and p.strip().isalpha()})


def word_batches(subject: Subject, words: Sequence[str]) -> Iterator[Encoded]:
    """Yield the words in batches, each as the end of a user's turn begins: the template's head, then the word."""
    mark = "\u0007"
    head = subject.render([{"role": "user", "content": mark}]).split(mark)[0]
    for start in range(0, len(words), 2 * MAX_BATCH):
        yield subject.encode([f"{head}{word}" for word in words[start : start + 2 * MAX_BATCH]])


def robust_z(values: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Return deviations from the median in units of 1.4826 median absolute deviations; 0 where there is no spread."""
    centred = values - values.median()
    spread = 1.4826 * centred.abs().median()
    if len(values) < MIN_VALUES or float(spread) <= 1e-12 * float(values.abs().max()):
        return torch.zeros_like(values)
    return centred / spread
