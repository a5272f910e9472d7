"""Texts as they are run together: left-padded, of like length, behind the tokens that they all begin with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Row = tuple[int, ...]


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
        """Return the batch in parts of so many rows, padded as they are."""
        for start in range(0, len(self.ids), n_rows):
            yield Encoded(self.ids[start : start + n_rows], self.mask[start : start + n_rows], self.head)


def padded(rows: Sequence[Sequence[int]], pad: int, device: torch.device, head: Row = ()) -> Encoded:
    """Return rows of token ids as one batch."""
    width = max(map(len, rows), default=0)
    ids = [[pad] * (width - len(row)) + list(row) for row in rows]
    mask = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
    both = torch.tensor([ids, mask], device=device, dtype=torch.long).reshape(2, len(rows), width)
    return Encoded(both[0], both[1], head)
