"""A key-value cache with room made ahead: a step of decoding writes one column and copies none.

transformers' own growing cache concatenates at every step, which copies all that is there.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer


class RoomyLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """One layer's keys and values, [batch, head, pos, d_head], with room for more positions behind them.

    Args:
        layer: What is there so far; it is left as it is.
        room: How many positions will come.
    """

    def __init__(self, layer: DynamicLayer, room: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        keys, values = layer.keys, layer.values
        assert keys is not None, "room is made behind what is there"
        assert values is not None, "keys and values come together"
        self.lazy_initialization(keys, values)
        self._buffers = [_with_room(part, room) for part in (keys, values)]
        self._n = keys.shape[-2]
        self._show(self._n)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write further positions, and return all there are."""
        start, n = self._n, key_states.shape[-2]
        if start + n > self._buffers[0].shape[-2]:
            self._buffers = [_with_room(buffer[..., :start, :], n) for buffer in self._buffers]
        for buffer, new in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[..., start : start + n, :] = new
        return self._show(start + n)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some of the rows."""
        self._buffers = [buffer[indices] for buffer in self._buffers]
        self._show(self._n)

    def _show(self, n: int) -> tuple[Tensor, Tensor]:
        """Return the first `n` positions, which are from now on all there are."""
        self._n = n
        keys, values = (buffer[..., :n, :] for buffer in self._buffers)
        self.keys, self.values = keys, values
        return keys, values


def _with_room(part: Tensor, room: int) -> Tensor:
    batch, heads, n, width = part.shape
    buffer = torch.empty(batch, heads, n + room, width, dtype=part.dtype, device=part.device)
    buffer[..., :n, :] = part
    return buffer


def joined(parts: Sequence[Any], n_before: int, room: int) -> Cache:
    """Return one cache of all rows of several, with room for so many positions.

    What is there of each ends at the same place; the gap stands behind the positions that all begin with, as a mask of
    left-padded rows has it.

    Args:
        parts: Caches whose layers hold all positions.
        n_before: How many positions all rows begin with.
        room: How many positions will come.
    """
    width = max(part.get_seq_length() for part in parts)
    layers: list[Any] = []
    for same in zip(*(part.layers for part in parts), strict=True):
        whole = DynamicLayer()  # type: ignore[no-untyped-call]
        whole.lazy_initialization(same[0].keys, same[0].values)
        whole.keys, whole.values = (
            torch.cat([_apart(getattr(layer, name), n_before, width) for layer in same]) for name in ("keys", "values")
        )
        layers.append(RoomyLayer(whole, room))
    return Cache(layers=layers)


def _apart(part: Tensor, n_before: int, width: int) -> Tensor:
    head, own = part[..., :n_before, :], part[..., n_before:, :]
    gap = part.new_zeros(*part.shape[:-2], width - part.shape[-2], part.shape[-1])
    return torch.cat([head, gap, own], dim=-2)


def roomy(cache: Any, room: int) -> Any:
    """Return a cache of the same contents with room for so many positions; layers of another sort are kept as they are."""
    twin = copy.copy(cache)
    twin.layers = [
        RoomyLayer(layer, room) if type(layer) is DynamicLayer else copy.copy(layer) for layer in cache.layers
    ]
    return twin
