"""The tokens that many texts begin with, run once: what follows is run behind their keys and values."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from tools.cache import RoomyLayer


class _Layer(DynamicLayer):  # type: ignore[no-untyped-call]
    """One block's keys and values of the head: a batch is put behind them, and nothing of it is kept."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.keys, self.values, self.is_initialized = keys, values, True
        self.dtype, self.device = keys.dtype, keys.device

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Return the head's keys and values with the batch's behind them."""
        return _behind(self.keys, key_states), _behind(self.values, value_states)

    def expanded(self, n_rows: int) -> _Layer:
        """Return the head for so many rows; nothing is copied."""
        return _Layer(*(_rows(part, n_rows) for part in (self.keys, self.values)))


def _behind(head: Tensor | None, own: Tensor) -> Tensor:
    return torch.cat([_rows(head, len(own)), own], dim=-2)


def _rows(head: Tensor | None, n: int) -> Tensor:
    """Return the head for `n` rows; where it was run as several rows, each stands before an equal share of them."""
    assert head is not None, "a head has been emptied"
    return head.expand(n, -1, -1, -1) if len(head) == 1 else head.repeat_interleave(n // len(head), dim=0)


@dataclass(frozen=True)
class Head:
    """The head's keys and values in every block, as one channel's weights have them; no forward pass changes them."""

    cache: Any
    keyword: str
    n_tokens: int

    def inputs(self, ids: Int[Tensor, "batch pos"], mask: Int[Tensor, "batch pos"]) -> dict[str, Any]:
        """Return what a forward pass over left-padded rows is called with, so that they come behind the head."""
        return {**placed(ids, mask, self.n_tokens), self.keyword: self.cache}

    def roomy(self, n_rows: int, room: int) -> Cache:
        """Return a cache that begins with the head in each of so many rows, and takes so many positions more."""
        return Cache(layers=[RoomyLayer(layer.expanded(n_rows), room) for layer in self.cache.layers])


def placed(ids: Int[Tensor, "batch pos"], mask: Int[Tensor, "batch pos"], n_before: int) -> dict[str, Any]:
    """Return ids, mask and positions of left-padded rows behind so many tokens."""
    return {
        "input_ids": ids,
        "attention_mask": torch.cat([mask.new_ones(len(ids), n_before), mask], dim=1),
        "position_ids": n_before + (mask.cumsum(1) - 1).clamp_min(0),
    }


def can_be_shared(model: Any, n_tokens: int) -> bool:
    """Return whether texts of so many tokens come out the same behind a head's keys and values.

    That is so where every block attends to all that came before, or to a window that holds the whole text.
    A block with a state of another kind, or one that borrows another's keys, is run on whole texts.
    """
    inner = _inner(model)
    taken = inspect.signature(inner.forward).parameters
    config = inner.config.get_text_config()
    if (
        getattr(inner, "_is_stateful", False)
        or "position_ids" not in taken
        or "logits_to_keep" not in taken
        or not keyword_of(inner)
    ):
        return False
    if getattr(config, "is_encoder_decoder", False) or getattr(config, "num_kv_shared_layers", 0):
        return False
    layers = DynamicCache(config=config).layers
    plain = len(layers) == config.num_hidden_layers and all(
        type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers
    )
    return plain and all(n_tokens <= getattr(layer, "sliding_window", n_tokens) for layer in layers)


def run_head(model: Any, ids: Int[Tensor, " pos"], n_rows: int = 1) -> Head:
    """Return the keys and values of one run over the head; with what a gradient needs, where gradients are on.

    Args:
        model: Takes keys and values.
        ids: The head.
        n_rows: How often it is run side by side, in a model that treats rows differently.
    """
    inner = _inner(model)
    cache = DynamicCache(config=inner.config.get_text_config())
    places = torch.arange(len(ids), device=ids.device)[None]
    rows = ids[None].expand(n_rows, -1)
    given = {"input_ids": rows, "attention_mask": torch.ones_like(rows), "position_ids": places}
    model(**given, **{keyword_of(inner): cache}, use_cache=True)
    layers: list[Any] = cache.layers
    for i, layer in enumerate(layers):
        assert layer.get_seq_length() == len(ids), f"block {i} kept {layer.get_seq_length()} of {len(ids)} tokens"
    return Head(Cache(layers=[_Layer(layer.keys, layer.values) for layer in layers]), keyword_of(inner), len(ids))


def _inner(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def keyword_of(model: Any) -> str:
    """Return what the model calls its keys and values; empty where it takes none."""
    taken = inspect.signature(_inner(model).forward).parameters
    return next((name for name in ("cache", "past_key_values") if name in taken), "")
