"""Words one at a time: which to look at, each where a user's turn begins, and how far one stands out from the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tools.batch import Encoded, Row, padded
from tools.channels import MAX_BATCH
from tools.subject import Subject

MIN_VALUES = 8
WordScores = dict[str, float]


@lru_cache(maxsize=2)
def token_texts(tokenizer: Any, n: int) -> tuple[str, ...]:
    """Return the texts of a vocabulary's first `n` tokens."""
    return tuple(str(tokenizer.decode([i])) for i in range(n))


def words_among(texts: Sequence[str]) -> list[str]:
    """Return the tokens that are whole words, in any script, sorted."""
    return sorted({p.strip() for p in texts if p.startswith(" ") and len(p.strip()) > 2 and p.strip().isalpha()})


def whole_words(subject: Subject) -> list[str]:
    """Return the tokens of the vocabulary that are whole words, sorted."""
    return words_among(token_texts(subject.tokenizer, len(subject.tokenizer)))


def fewer(words: Sequence[str], n: int) -> list[str]:
    """Return `n` of the words, spread evenly over the list; all of them where there are no more.

    >>> fewer(["a", "b", "c", "d", "e", "f"], 3)
    ['a', 'c', 'e']
    """
    n = min(n, len(words))
    return [words[i * len(words) // n] for i in range(n)]


@dataclass(frozen=True)
class WordRuns:
    """Words as they are run, each as the end of a user's turn begins: the template's head, then the word.

    Args:
        head: Tokens that all texts begin with, run once for each channel; empty where texts are run whole.
        own: Of every word the tokens behind the head, at least one.
    """

    head: Row
    own: tuple[Row, ...]

    @property
    def n_tokens(self) -> int:
        """Return the forward tokens of one channel."""
        return len(self.head) + sum(map(len, self.own))

    def batches(self) -> Iterator[list[int]]:
        """Yield the places of words that have equally many tokens, so that no batch is padded."""
        by_length: dict[int, list[int]] = {}
        for place, ids in enumerate(self.own):
            by_length.setdefault(len(ids), []).append(place)
        for _, places in sorted(by_length.items()):
            for start in range(0, len(places), 2 * MAX_BATCH):
                yield places[start : start + 2 * MAX_BATCH]


def word_runs(subject: Subject, words: Sequence[str]) -> WordRuns:
    """Return how these words are run: behind a shared head, or whole where the model can't take one."""
    mark = "\u0007"
    before = subject.render([{"role": "user", "content": mark}]).split(mark)[0]
    heads, own = zip(*subject.parted([before + word for word in words]), strict=True) if words else ((), ())
    if len(set(heads)) == 1:
        return WordRuns(heads[0], own)
    return WordRuns((), tuple((*head, *ids) for head, ids in zip(heads, own, strict=True)))


def at_words(
    subject: Subject, runs: WordRuns, channel: str, read: Callable[[Encoded], Tensor], name: str | None = None
) -> Float[Tensor, "word value"]:
    """Return what `read` makes of every word on one channel, float32, in the order of the words.

    Args:
        subject: Whose model is run.
        runs: The words.
        channel: Whose weights answer.
        read: Returns [batch, value] of a batch, at each row's last token.
        name: Under which a long call keeps its batches (see `Subject.once`), with the channel's; None keeps none.
    """
    role = "subject" if channel == "subject" else "base"
    out = torch.zeros(len(runs.own), 0)
    with subject.channel(channel):
        for i, places in enumerate(runs.batches()):
            batch = padded([runs.own[place] for place in places], subject.dialogue.pad, subject.device, runs.head)
            compute = partial(_values, read, batch)
            key, cost = f"{name}/{channel}/{i}", {role: batch.n_tokens + (len(runs.head) if i == 0 else 0)}
            values = (compute() if name is None else subject.once(key, cost, compute))["values"]
            if not out.shape[1]:
                out = torch.zeros(len(runs.own), values.shape[1])
            out[places] = values
    return out


def _values(read: Callable[[Encoded], Tensor], batch: Encoded) -> dict[str, Tensor]:
    return {"values": read(batch).float().cpu()}


def _median(values: Float[Tensor, " n"]) -> Tensor:
    """Return the median, the lower of two, as `torch.median` has it; NumPy finds it many times as fast."""
    middle = (len(values) - 1) // 2
    found = np.partition(values.detach().cpu().numpy(), middle)[middle]
    return torch.tensor(found, dtype=values.dtype, device=values.device)


def robust_z(values: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Return deviations from the median in units of 1.4826 median absolute deviations; 0 where there is no spread."""
    if len(values) < MIN_VALUES:
        return torch.zeros_like(values)
    centred = values - _median(values)
    spread = 1.4826 * _median(centred.abs())
    rounding = 1e-12 if values.dtype == torch.float64 else 1e-6
    if float(spread) <= rounding * float(values.abs().max()):
        return torch.zeros_like(values)
    return centred / spread
