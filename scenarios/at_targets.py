"""A model's logits where something is said, and nowhere else: the opening that all rows share is run once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scenarios.transcripts import Encoded
from tools.head import Head, can_be_shared, run_head
from tools.subject import lean

GROUP_ON_A_PROCESSOR, GROUP = 2, 8
"""Rows of one forward pass, next to each other in length: few where padding costs more than a pass does."""


def opening(rows: Sequence[Encoded]) -> list[int]:
    """Return the tokens that all rows begin with, as far as every row has one more before it is said anything in."""
    n = min(next((i for i, target in enumerate(row.targets) if target), len(row.ids)) for row in rows) - 1
    while n > 0 and len({tuple(row.ids[:n]) for row in rows}) > 1:
        n -= 1
    return rows[0].ids[: max(0, n)]


@dataclass(frozen=True)
class AtTargets:
    """What one model computes for rows, at the positions before a target.

    What the model's head is given is cut down to those positions on its way in, so that whatever the model does behind
    its head (caps, scales) is done, and no logits are formed that nobody reads.

    Args:
        model: A causal language model, with adapters or not.
        opening: Tokens that every row begins with.
        pad: A token to fill up rows with, behind their end.
        n_adapters: Adapters of a bank that the model holds, each for its own equal share of the rows; all rows are then
            run together.
    """

    model: Any
    opening: list[int]
    pad: int
    n_adapters: int = 1

    def logits(self, rows: Sequence[Encoded]) -> Tensor:
        """Return float32 logits [target, vocab], the rows' targets one row after the other."""
        return torch.cat([self._run(ids, head, lambda given, at=at: given[at]) for ids, at, head in self._groups(rows)])

    @torch.no_grad()
    def hidden(self, rows: Sequence[Encoded]) -> Tensor:
        """Return what the head is given at the rows' targets, [target, d_model]."""
        kept: list[Tensor] = []
        for ids, at, head in self._groups(rows):
            self._run(ids, head, lambda given, at=at: kept.append(given[at]) or given[:, :0])
        return torch.cat(kept)

    @torch.no_grad()
    def logits_of(self, hidden: Tensor) -> Tensor:
        """Return the logits that the model makes of what `hidden` gave."""
        return self._run(torch.tensor([[self.pad]], device=hidden.device), None, lambda _: hidden)

    def _groups(self, rows: Sequence[Encoded]) -> list[tuple[Tensor, Tensor, Head | None]]:
        """Return ids and marks of the rows, padded on the right, and the opening's keys and values."""
        head = self._head(max(len(row.ids) for row in rows))
        skipped = 0 if head is None else len(self.opening)
        n = GROUP_ON_A_PROCESSOR if self._device.type == "cpu" else GROUP
        n = len(rows) if self.n_adapters > 1 else n
        parts = (rows[start : start + n] for start in range(0, len(rows), n))
        return [(*self._padded(part, skipped), head) for part in parts]

    def _head(self, longest: int) -> Head | None:
        if not self.opening or not can_be_shared(self.model, longest):
            return None
        return run_head(self.model, torch.tensor(self.opening, device=self._device), self.n_adapters)

    def _padded(self, rows: Sequence[Encoded], skipped: int) -> tuple[Tensor, Tensor]:
        width = max(len(row.ids) for row in rows)
        ids = [row.ids[skipped:] + [self.pad] * (width - len(row.ids)) for row in rows]
        at = [row.targets[skipped + 1 :] + [False] * (width - len(row.ids) + 1) for row in rows]
        return torch.tensor(ids, device=self._device), torch.tensor(at, device=self._device)

    def _run(self, ids: Tensor, head: Head | None, pick: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the logits of what `pick` leaves of the head's input; padding stands behind, where nothing sees it."""
        inputs = (
            {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            if head is None
            else head.inputs(ids, torch.ones_like(ids))
        )
        lm_head = self.model.get_output_embeddings()
        hook = lm_head.register_forward_pre_hook(lambda _, given: (pick(given[0]), *given[1:]))
        try:
            return self.model(**inputs, **lean(self.model)).logits.float()  # type: ignore[no-any-return]
        finally:
            hook.remove()

    @property
    def _device(self) -> torch.device:
        where: torch.device = next(self.model.parameters()).device
        return where
