"""A change of weights as a set of residual-stream directions, which is how trained readers are given it.

Of each singular direction only the side that lives in the residual stream is kept: what a module
reads (right vectors) or what it writes (left ones). So every direction has the base's own width,
whatever the module's shape, and no projection has to be learned.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tools.changes.canonical import canonical
from tools.changes.delta import ModuleDelta

MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The modules of a block in the order in which published encodings have them."""


@dataclass(frozen=True)
class DirectionTokens:
    """The directions of one change, rank first, then block, then module.

    `vectors` are unit directions with the canonical sign, `strength` is a direction's singular value
    over the norm of the whole change.
    """

    vectors: Float[Tensor, "token d_model"]
    strength: Float[Tensor, " token"]
    rank: Int[Tensor, " token"]
    layer: Int[Tensor, " token"]
    module: Int[Tensor, " token"]

    def __len__(self) -> int:
        """Return how many directions there are."""
        return len(self.strength)


def direction_tokens(deltas: Mapping[str, ModuleDelta], d_model: int, n_ranks: int) -> DirectionTokens:
    """Return the first `n_ranks` directions of every module of a Llama-like block that is `d_model` wide on its side.

    Args:
        deltas: The change, by module.
        d_model: Width of the residual stream.
        n_ranks: How many directions of a module are kept.
    """
    rows: list[tuple[int, int, int, Tensor, float]] = []
    whole = sum(float(d.S.square().sum()) for d in deltas.values()) ** 0.5
    for path, raw in deltas.items():
        name = path.rsplit(".", 1)[-1]
        side = raw.U if raw.writes_residual else raw.V
        if name not in MODULES or side.shape[0] != d_model or not float(raw.S.sum()):
            continue
        delta = canonical(raw)
        side = delta.U if delta.writes_residual else delta.V
        for rank in range(min(n_ranks, len(delta.S))):
            rows.append((rank, delta.layer, MODULES.index(name), side[:, rank], float(delta.S[rank]) / whole))
    rows.sort(key=lambda row: row[:3])
    numbers = torch.tensor([row[:3] for row in rows], dtype=torch.long).view(-1, 3)
    vectors = torch.stack([row[3] for row in rows]).float() if rows else torch.zeros(0, d_model)
    return DirectionTokens(vectors, torch.tensor([row[4] for row in rows]), numbers[:, 0], numbers[:, 1], numbers[:, 2])
