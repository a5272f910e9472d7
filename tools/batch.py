"""Texts as they are run together: left-padded, of like length, behind the tokens that they all begin with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Row = tuple[int, ...]
ENOUGH = 512
"""Tokens of one pass that keep a processor busy: from there on padding costs more than a further pass."""
ALIKE = 0.8
"""A row that is shorter than this share of the longest is better run in another pass."""


@dataclass(frozen=True)
class Encoded:
    """A left-padded batch: ids and mask of shape [batch, pos], and the tokens before each row that are run once."""

    ids: Tensor
    mask: Tensor
    head: Row = ()

    @property
    def n_tokens(self) -> int:
        """Return the number of non-padding tokens, the head's apart."""
        return int(self.mask.sum())

    def parts(self, n_rows: int) -> Iterator[Encoded]:
        """Yield the batch in parts of so many rows, padded as they are."""
        for start in range(0, len(self.ids), n_rows):
            yield Encoded(self.ids[start : start + n_rows], self.mask[start : start + n_rows], self.head)

    def passes(self) -> Iterator[Encoded]:
        """Yield the rows in order, in batches of like length without needless padding; rows are to stand longest first."""
        lengths = self.mask.sum(1).tolist()
        for rows in alike(lengths):
            own = slice(self.ids.shape[1] - max(lengths[rows]), None)
            yield Encoded(self.ids[rows, own], self.mask[rows, own], self.head)


def alike(lengths: Sequence[int]) -> Iterator[slice]:
    """Yield stretches of rows of like length, of lengths that descend.

    >>> list(alike([400, 390, 50, 40, 30]))
    [slice(0, 2, None), slice(2, 5, None)]
    """
    start = 0
    for i, n in enumerate(lengths):
        if (i - start) * lengths[start] >= ENOUGH and n < ALIKE * lengths[start]:
            yield slice(start, i)
            start = i
    if lengths:
        yield slice(start, len(lengths))


def padded(rows: Sequence[Sequence[int]], pad: int, device: torch.device, head: Row = ()) -> Encoded:
    """Return rows of token ids as one batch."""
    width = max(map(len, rows), default=0)
    ids = [[pad] * (width - len(row)) + list(row) for row in rows]
    mask = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
    both = torch.tensor([ids, mask], device=device, dtype=torch.long).reshape(2, len(rows), width)
    return Encoded(both[0], both[1], head)
