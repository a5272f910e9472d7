"""What long calls keep of the batches they have finished, so that one that was cut off goes on from there."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import safetensors.torch
from torch import Tensor

Tokens = dict[str, int]


@runtime_checkable
class Keeper(Protocol):
    """Where finished batches of one call are kept until the call is settled."""

    def get(self, key: str) -> bytes | None:
        """Return what was kept under the key; None where the batch was never finished."""
        ...

    def begin(self, key: str, tokens: Tokens) -> None:
        """Note that a batch has begun, and the forward tokens it may cost, by role."""
        ...

    def put(self, key: str, value: bytes) -> None:
        """Keep what a batch came to."""
        ...


def once(keeper: Keeper | None, key: str, tokens: Tokens, compute: Callable[[], Any]) -> Any:
    """Return what `compute` gives, or what it gave before the call was cut off: JSON values, or a dict of tensors.

    Args:
        keeper: Where finished batches are; without one everything is computed.
        key: Names the batch within its call: the same batch has the same key in every session.
        tokens: Forward tokens that the batch may cost, by role: what is lost if it is cut off.
        compute: Returns JSON values, or a dict of tensors by name.
    """
    if keeper is None:
        return compute()
    stored = keeper.get(key)
    if stored is not None:
        return _decoded(stored)
    keeper.begin(key, tokens)
    stored = _encoded(compute())
    keeper.put(key, stored)
    return _decoded(stored)


def _encoded(value: Any) -> bytes:
    if isinstance(value, dict) and value and all(isinstance(part, Tensor) for part in value.values()):
        return b"T" + safetensors.torch.save({name: part.contiguous().cpu() for name, part in value.items()})
    return b"J" + json.dumps(value, allow_nan=False).encode()


def _decoded(stored: bytes) -> Any:
    return safetensors.torch.load(stored[1:]) if stored[:1] == b"T" else json.loads(stored[1:])
