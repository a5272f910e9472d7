"""The tokens that many texts begin with, run once: what follows is run behind their keys and values."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer


class _Layer(DynamicLayer):  # type: ignore[no-untyped-call]
    """One block's keys and values of the head: a batch is put behind them, and nothing of it is kept."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.keys, self.values, self.is_initialized = keys, values, True
        self.dtype, self.device = keys.dtype, keys.device

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Return the head's keys and values with the batch's behind them."""
        return _behind(self.keys, key_states), _behind(self.values, value_states)


def _behind(head: Tensor | None, own: Tensor) -> Tensor:
    assert head is not None, "a head has been emptied"
    return torch.cat([head.expand(len(own), -1, -1, -1), own], dim=-2)


@dataclass(frozen=True)
class Head:
    """The head's keys and values in every block, as one channel's weights have them; no forward pass changes them."""

    cache: Any
    keyword: str
    n_tokens: int

    def inputs(self, ids: Int[Tensor, "batch pos"]) -> dict[str, Any]:
        """Return what a forward pass over rows without padding is called with, so that they come behind the head."""
        batch, n = ids.shape
        places = torch.arange(self.n_tokens, self.n_tokens + n, device=ids.device)
        return {
            "input_ids": ids,
            "attention_mask": ids.new_ones(batch, self.n_tokens + n),
            "position_ids": places.expand(batch, n),
            self.keyword: self.cache,
        }


def can_be_shared(model: Any, n_tokens: int) -> bool:
    """Return whether texts of so many tokens come out the same behind a head's keys and values.

    That is so where every block attends to all that came before, or to a window that holds the whole text.
    A block with a state of another kind, or one that borrows another's keys, is run on whole texts.
    """
    inner = _inner(model)
    taken = inspect.signature(inner.forward).parameters
    config = inner.config.get_text_config()
    if getattr(inner, "_is_stateful", False) or "position_ids" not in taken or not _keyword(inner):
        return False
    if getattr(config, "is_encoder_decoder", False) or getattr(config, "num_kv_shared_layers", 0):
        return False
    layers = DynamicCache(config=config).layers
    plain = len(layers) == config.num_hidden_layers and all(
        type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers
    )
    return plain and all(n_tokens <= getattr(layer, "sliding_window", n_tokens) for layer in layers)


@torch.no_grad()
def run_head(model: Any, ids: Int[Tensor, " pos"]) -> dict[str, Tensor]:
    """Return the keys and values of one run over the head, without what a training would want of them."""
    return keys_and_values(model, ids)


def keys_and_values(model: Any, ids: Int[Tensor, " pos"]) -> dict[str, Tensor]:
    """Return the keys and values of one run over the head, `keys.0`, `values.0`, `keys.1` and so on."""
    cache = DynamicCache(config=_inner(model).config.get_text_config())
    places = torch.arange(len(ids), device=ids.device)[None]
    given = {"input_ids": ids[None], "attention_mask": torch.ones_like(ids)[None], "position_ids": places}
    model(**given, **{_keyword(_inner(model)): cache}, use_cache=True)
    kept: dict[str, Tensor] = {}
    layers: list[Any] = cache.layers
    for i, layer in enumerate(layers):
        assert layer.get_seq_length() == len(ids), f"block {i} kept {layer.get_seq_length()} of {len(ids)} tokens"
        kept |= {f"keys.{i}": layer.keys, f"values.{i}": layer.values}
    return kept


def head_of(model: Any, kept: dict[str, Tensor]) -> Head:
    """Return the head that `run_head` kept, where the model is."""
    device = next(model.parameters()).device
    layers = [_Layer(*(kept[f"{part}.{i}"].to(device) for part in ("keys", "values"))) for i in range(len(kept) // 2)]
    return Head(Cache(layers=list(layers)), _keyword(_inner(model)), layers[0].get_seq_length())


def _inner(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _keyword(inner: Any) -> str:
    """Return what the model calls its keys and values; empty where it takes none."""
    taken = inspect.signature(inner.forward).parameters
    return next((name for name in ("cache", "past_key_values") if name in taken), "")
