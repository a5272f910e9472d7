"""How vectors go into the residual stream at the slots of an oracle's prompt.

Additive norm matching is that of activation oracles (arXiv 2512.15674), whose first checkpoints
replaced instead; a fixed norm in place of an embedding is that of natural language autoencoders.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from tools.activation_oracle.contract import EMBEDDING, OracleContract, Rule
from tools.residual import blocks, hooked

Rows = Float[Tensor, "slot d_model"]


def _add(h: Rows, v: Rows, coefficient: float | None) -> Rows:
    return h + _norm_matched(h, v, coefficient)


def _add_by_size(h: Rows, v: Rows, coefficient: float | None) -> Rows:
    moved: Tensor = v * h.norm(dim=-1, keepdim=True) * coefficient
    return h + moved.to(h.dtype)


def _norm_matched(h: Rows, v: Rows, coefficient: float | None) -> Rows:
    moved: Tensor = F.normalize(v, dim=-1) * h.norm(dim=-1, keepdim=True) * coefficient
    return moved.to(h.dtype)


def _at_norm(h: Rows, v: Rows, coefficient: float | None) -> Rows:
    if coefficient is None:
        return v.to(h.dtype)
    norm: Tensor = v.float().norm(dim=-1, keepdim=True).clamp_min(1e-12)
    return (v / (norm / coefficient).to(v.dtype)).to(h.dtype)


RULES: dict[Rule, Callable[[Rows, Rows, float | None], Rows]] = {
    "add": _add,
    "add_by_size": _add_by_size,
    "replace": _norm_matched,
    "scaled_replace": _at_norm,
    "embedding": _at_norm,
}
"""`h' = h + c‖h‖v/‖v‖`; `h' = h + c‖h‖v`; `h' = c‖h‖v/‖v‖`; `h' = c·v/‖v‖`, after a block or in place of an embedding.

Norms are taken in the dtype that the published code takes them in, so that results are its own to the bit.
"""


def inject(
    resid: Float[Tensor, "batch pos d_model"],
    slots: Sequence[Sequence[int]],
    vectors: Sequence[Tensor],
    rule: Rule,
    coefficient: float | None,
    offset: int = 0,
) -> Float[Tensor, "batch pos d_model"]:
    """Return `resid` with each row's vectors put in at its slots.

    Args:
        resid: A stretch of the residual stream, of which position 0 is `offset` in the whole prompt.
        slots: Positions in the whole prompt, for each row; those outside this stretch are left for another.
        vectors: For each row, one vector a slot, [slot, d_model].
        rule: One of `RULES`.
        coefficient: Of the rule.
        offset: How many positions came before.
    """
    out = resid.clone()
    for row, (where, given) in enumerate(zip(slots, vectors, strict=True)):
        inside = [(i, p - offset) for i, p in enumerate(where) if 0 <= p - offset < resid.shape[1]]
        if inside:
            which, places = (torch.tensor(part, device=resid.device) for part in zip(*inside, strict=True))
            v = given.to(resid.device)[which].to(resid.dtype)
            out[row, places] = RULES[rule](resid[row, places], v, coefficient)
    return out


@contextmanager
def injecting(
    model: Any, contract: OracleContract, slots: Sequence[Sequence[int]], vectors: Sequence[Tensor], offset: int = 0
) -> Iterator[None]:
    """Put the vectors in, by the contract, wherever a forward pass inside the block meets a slot."""

    def edit(resid: Tensor) -> Tensor | None:
        return inject(resid, slots, vectors, contract.rule, contract.coefficient, offset)

    if contract.site == EMBEDDING:
        with _hooked_input(blocks(model)[0], edit):
            yield
    else:
        with hooked(blocks(model)[contract.site], edit):
            yield


@contextmanager
def _hooked_input(block: torch.nn.Module, edit: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
    """Call `edit` with what the first block is given: the embeddings, scaled where the model scales them."""

    def hook(module: torch.nn.Module, args: Any, kwargs: Any) -> Any:
        if args:
            return (edit(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": edit(kwargs["hidden_states"])}

    handle = block.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
