"""Whether an oracle reads what it is given: its loss with the right vectors, another row's, and noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from tools.activation_oracle.activations import Activations, read_last
from tools.activation_oracle.inject import injecting
from tools.activation_oracle.reader import OracleReader
from tools.activation_oracle.rows import Question, Row
from tools.controls import random_like

Q = TypeVar("Q", bound=Question)
LEAST_GAIN_NATS = 0.05
"""An oracle whose loss with another row's vectors is not this much worse does not read them."""


@dataclass(frozen=True)
class TokenUse:
    """Cross-entropies in nats per answer token, and the share of answers right token for token when matched."""

    matched: float
    shuffled: float
    random: float
    exact: float

    @property
    def deaf(self) -> bool:
        """Return whether what it is given makes no difference to it."""
        return self.shuffled - self.matched < LEAST_GAIN_NATS

    def as_dict(self) -> dict[str, float]:
        """Return the figures by name."""
        return asdict(self)


def windows(reader: OracleReader, rows: Sequence[Row], layers: tuple[int, ...]) -> list[Activations]:
    """Return what the bare base makes of each row's window."""
    sizes = [row.window for row in rows]
    return read_last(reader.subject, [row.text for row in rows], "base", layers, sizes)[0]


def answer_losses(
    reader: OracleReader, rows: Sequence[Question], given: Sequence[Activations], trained: Sequence[Tensor] = ()
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the summed loss (nats) and number of answer tokens, and whether each row's are all the likeliest.

    Args:
        reader: The oracle.
        rows: Questions with their answers.
        given: What each is asked about.
        trained: Weights to keep a gradient for.
    """
    subject = reader.subject
    prompts = [reader.prompts.build(a.layers, a.n_slots, row.question) for a, row in zip(given, rows, strict=True)]
    endings = [reader.answer_ids(row.answer) for row in rows]
    whole = [[*p.ids, *ending] for p, ending in zip(prompts, endings, strict=True)]
    width, pad = max(map(len, whole)), subject.dialogue.pad
    ids = torch.tensor([[pad] * (width - len(row)) + row for row in whole], device=subject.device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in whole], device=subject.device)
    slots = [[width - len(row) + s for s in p.slots] for row, p in zip(whole, prompts, strict=True)]
    vectors = [a.vectors.flatten(0, 1) for a in given]
    longest = max(map(len, endings))
    with subject.channel(reader.channel) as model, injecting(model, reader.contract, slots, vectors):
        _thaw(trained)
        places = (mask.cumsum(1) - 1).clamp_min(0)
        logits = model(
            input_ids=ids, attention_mask=mask, position_ids=places, use_cache=False, logits_to_keep=longest + 1
        ).logits[:, :-1]
    _thaw(trained)
    targets = ids[:, -longest:]
    n_answer = torch.tensor([len(ending) for ending in endings], device=subject.device)
    wanted = torch.arange(longest, device=subject.device)[None] >= (longest - n_answer)[:, None]
    losses = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)
    right = (logits.argmax(-1) == targets) | ~wanted
    return (losses * wanted).sum(), wanted.sum(), right.all(dim=1)


def _thaw(weights: Sequence[Tensor]) -> None:
    """Let gradients reach the weights again: switching a channel freezes everything."""
    for weight in weights:
        weight.requires_grad_(True)


@torch.no_grad()
def token_use(
    reader: OracleReader, rows: Sequence[Q], given: Callable[[Sequence[Q]], list[Activations]], seed: int,
    batch: int = 64,
) -> TokenUse:  # fmt: skip
    """Return the losses on these rows: with the right vectors (`given`), with those of the next row, with noise."""
    sums, tokens, exact = dict.fromkeys(("matched", "shuffled", "random"), 0.0), 0, 0
    for start in range(0, len(rows), batch):
        chunk = rows[start : start + batch]
        mine = given(chunk)
        kinds = {
            "matched": mine,
            "shuffled": [*mine[1:], mine[0]],
            "random": [a.replaced(random_like(a.vectors, seed + i), "random") for i, a in enumerate(mine)],
        }
        for kind, vectors in kinds.items():
            total, n, right = answer_losses(reader, chunk, vectors)
            sums[kind] += float(total)
            if kind == "matched":
                tokens, exact = tokens + int(n), exact + int(right.sum())
    return TokenUse(**{kind: total / tokens for kind, total in sums.items()}, exact=exact / len(rows))
