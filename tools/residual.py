"""Capture and inject the residual stream: the one place that says what `layer` means.

Layer L is the residual stream after block L, counted from 0: the output of the L-th decoder block,
`hidden_states[L + 1]` for all but the last block, which transformers returns after the final norm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tools.batch import Encoded
from tools.changes.delta import READS
from tools.errors import ToolInputError
from tools.subject import Subject


def blocks(model: Any) -> nn.ModuleList:
    """Return the decoder blocks of a causal language model, wrapped by PEFT or not.

    Raises:
        ToolInputError: the architecture keeps its blocks where no known model does.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    for path in (
        "model.layers",
        "model.language_model.layers",
        "transformer.h",
        "gpt_neox.layers",
        "model.decoder.layers",
    ):
        found: Any = inner
        for part in path.split("."):
            found = getattr(found, part, None)
        if isinstance(found, nn.ModuleList):
            return found
    raise ToolInputError(f"{type(inner).__name__} keeps its decoder blocks in no known place; hooks can't be set")


def check_layer(subject: Subject, layer: int) -> None:
    """Refuse a layer that the subject does not have.

    Raises:
        ToolInputError: the layer is out of range.
    """
    if not 0 <= layer < subject.n_layers:
        raise ToolInputError(
            f"layer {layer} is out of range: the subject has layers 0..{subject.n_layers - 1}; pass one of those"
        )


@contextmanager
def hooked(block: nn.Module, edit: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
    """Call `edit` with the block's output residual; what it returns, if anything, replaces it."""

    def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
        resid = output if torch.is_tensor(output) else output[0]
        changed = edit(resid)
        if changed is None:
            return None
        return changed if torch.is_tensor(output) else (changed, *output[1:])

    handle = block.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


class _Deepest(Exception):
    """Raised by the deepest hook of a capture: what comes after it is not needed."""


@torch.no_grad()
def capture_layers(
    subject: Subject, batch: Encoded, channel: str, layers: Sequence[int]
) -> tuple[dict[int, Float[Tensor, "batch pos d_model"]], str | None]:
    """Return the residual stream after each of `layers`, padding positions included, and the adapter that answered.

    The forward pass ends after the deepest of them. Which adapter is active is asserted on every
    layer of the model, whether the channel was switched to just now or long ago; None is the base's
    own weights, or those of a full fine-tune.

    Raises:
        ToolInputError: a layer or the channel does not exist, or no layer was asked for.
    """
    if not layers:
        raise ToolInputError(f"no layer to read: pass some of 0..{subject.n_layers - 1}")
    for layer in layers:
        check_layer(subject, layer)
    kept: dict[int, Tensor] = {}
    deepest = max(layers)

    def keep(layer: int) -> Callable[[Tensor], None]:
        def edit(resid: Tensor) -> None:
            kept[layer] = resid.detach().clone()
            if layer == deepest:
                raise _Deepest

        return edit

    with subject.channel(channel) as model, ExitStack() as hooks:
        adapter, given = subject.active_adapter(channel), subject.inputs(batch, channel)
        found = blocks(model)
        for layer in set(layers):
            hooks.enter_context(hooked(found[layer], keep(layer)))
        with suppress(_Deepest):
            model(**given, use_cache=False)
    return kept, adapter


def capture(subject: Subject, batch: Encoded, channel: str, layer: int) -> Float[Tensor, "batch pos d_model"]:
    """Return the residual stream after block `layer`, padding positions included.

    Raises:
        ToolInputError: the layer or the channel does not exist.
    """
    resid, _ = capture_layers(subject, batch, channel, [layer])
    return resid[layer]


@torch.no_grad()
def block_inputs(subject: Subject, batch: Encoded, channel: str) -> dict[str, Float[Tensor, "batch pos d_model"]]:
    """Return what every linear module that reads the residual stream gets as input, by its path.

    These are residual vectors after the norm that stands before the module. The forward pass ends after the last block.
    """
    kept: dict[str, Tensor] = {}

    def keep(path: str) -> Any:
        return lambda module, inputs: kept.__setitem__(path, inputs[0].detach())

    def stop(resid: Tensor) -> None:
        raise _Deepest

    with subject.channel(channel) as model:
        given = subject.inputs(batch, channel)  # before the hooks: a shared head may have to be run for it
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        width = subject.d_model
        handles = [
            module.register_forward_pre_hook(keep(path))
            for path, module in base.named_modules()
            if getattr(module, "in_features", None) == width and path.rsplit(".", 1)[-1] in READS
        ]
        try:
            with hooked(blocks(model)[-1], stop), suppress(_Deepest):
                model(**given, use_cache=False)
        finally:
            for handle in handles:
                handle.remove()
    return kept
