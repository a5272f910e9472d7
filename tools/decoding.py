"""Replies to many prompts at once: each step runs the rows that still speak, behind keys and values with room made ahead."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from tools.batch import Encoded
from tools.cache import joined
from tools.head import Head, keyword_of, placed
from tools.sampling import SeededNoise

TAKEN_OUT = 8
"""One row in so many has to have ended before those that have are taken out: it copies the cache."""


@runtime_checkable
class Ending(Protocol):
    """Says where each row of a batch ends."""

    def forced(self, row: int) -> int | None:
        """Return the token that a row has to say now; None where it says what it likes."""
        ...

    def took(self, row: int, new: list[int]) -> bool:
        """Take in a row's last new token, and return whether the row is at its end."""
        ...


@torch.no_grad()
def decode(
    model: Any, batch: Encoded, head: Head | None, noise: SeededNoise, ending: Ending, most: int
) -> list[list[int]]:
    """Return each row's new tokens, its end included.

    Args:
        model: Takes keys and values, see `can_be_shared`.
        batch: Prompts, left-padded.
        head: What stands before each of them.
        noise: Of each row.
        ending: Where each ends.
        most: How many new tokens one may have.
    """
    speaking = _Speaking(model, batch, head, most)
    said: list[list[int]] = [[] for _ in batch.ids]
    alive, over = list(range(len(said))), [False] * len(said)
    for step in range(most):
        chosen = noise.draw(speaking.logits).tolist()
        for place, row in enumerate(alive):
            if over[place]:
                continue
            forced = ending.forced(row)
            said[row].append(chosen[place] if forced is None else forced)
            chosen[place] = said[row][-1]
            over[place] = ending.took(row, said[row])
        going = [place for place, ended in enumerate(over) if not ended]
        if not going or step == most - 1:
            break
        if (len(alive) - len(going)) * TAKEN_OUT >= len(alive):
            speaking.keep(going)
            noise, chosen = noise.of(going), [chosen[place] for place in going]
            alive, over = [alive[place] for place in going], [False] * len(going)
        speaking.step(chosen)
    return said


class _Speaking:
    """Rows in the middle of their replies: their keys and values, and the logits of what comes next."""

    def __init__(self, model: Any, batch: Encoded, head: Head | None, most: int) -> None:
        self.model, self.keyword = model, keyword_of(model)
        n_before = 0 if head is None else head.n_tokens
        given = placed(batch.ids, batch.mask, n_before)
        self.mask, self.places = given["attention_mask"], given["position_ids"][:, -1:]
        caches, logits = list[Any](), list[Tensor]()
        for part in batch.passes():
            caches.append(
                DynamicCache(config=model.config.get_text_config()) if head is None else head.roomy(*part.ids.shape)
            )
            logits.append(self._run(placed(part.ids, part.mask, n_before), caches[-1]))
        self.cache, self.logits = joined(caches, n_before, most), torch.cat(logits)

    def step(self, tokens: list[int]) -> None:
        """Run one more token of each row."""
        ids = torch.tensor(tokens, device=self.mask.device)[:, None]
        self.mask = torch.cat([self.mask, torch.ones_like(ids)], dim=1)
        self.places = self.places + 1
        given = {"input_ids": ids, "attention_mask": self.mask, "position_ids": self.places}
        self.logits = self._run(given, self.cache)

    def keep(self, rows: list[int]) -> None:
        """Go on with some of the rows alone."""
        kept = torch.tensor(rows, device=self.mask.device)
        self.cache.batch_select_indices(kept)
        self.mask, self.places = self.mask[kept], self.places[kept]

    def _run(self, given: dict[str, Tensor], cache: Any) -> Tensor:
        out = self.model(**given, **{self.keyword: cache}, use_cache=True, logits_to_keep=1)
        return out.logits[:, -1]  # type: ignore[no-any-return]
