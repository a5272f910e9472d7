"""The change that a LoRA makes, in factored form: singular directions without ever forming ΔW."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

DENSE_RANK = 64
"""How many directions are kept of a change that has no factors."""
READS = (
    "q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "gate_up_proj", "qkv_proj", "query_key_value", "c_attn", "c_fc", "fc1",
)  # fmt: skip
"""Modules whose input is the residual stream after a norm, by the names that architectures give them."""
WRITES = ("o_proj", "down_proj", "out_proj", "c_proj", "fc2", "dense_4h_to_h", "dense")


@dataclass(frozen=True)
class ModuleDelta:
    """One module's change `U diag(S) Vᵀ`, all in float64.

    `U` is [d_out, rank], `S` [rank] in descending order, `V` [d_in, rank].
    """

    path: str
    layer: int
    U: Float[Tensor, "d_out rank"]
    S: Float[Tensor, " rank"]
    V: Float[Tensor, "d_in rank"]

    @property
    def reads_residual(self) -> bool:
        """Return whether the module's input is the residual stream."""
        return self.path.rsplit(".", 1)[-1] in READS

    @property
    def writes_residual(self) -> bool:
        """Return whether the module's output is added to the residual stream."""
        return self.path.rsplit(".", 1)[-1] in WRITES


def factored_svd(
    b: Float[Tensor, "d_out rank"], a: Float[Tensor, "rank d_in"]
) -> tuple[Float[Tensor, "d_out k"], Float[Tensor, " k"], Float[Tensor, "d_in k"]]:
    """Return U, S, V of `b @ a` from two QR decompositions and one small SVD, in float64.

    The singular values do not depend on how the product is split into factors; `k` is the smallest of
    the rank and the two widths.
    """
    q_b, r_b = torch.linalg.qr(b.double())
    q_a, r_a = torch.linalg.qr(a.double().T)
    u, s, vh = torch.linalg.svd(r_b @ r_a.T, full_matrices=False)
    return q_b @ u, s, q_a @ vh.T


def truncated(path: str, change: Tensor, rank: int = DENSE_RANK, seed: int = 0) -> tuple[ModuleDelta, float]:
    """Return the leading directions of a change that has no factors, by randomised SVD, and its squared norm.

    Halko, Martinsson and Tropp (arXiv 0909.4061) with two power iterations and twice the rank in samples;
    exact where the rank asked for is all there is.
    """
    k, n = min(rank, *change.shape), min(2 * rank, *change.shape)
    energy = float(change.square().sum())
    if n == min(change.shape):
        u, s, vh = torch.linalg.svd(change, full_matrices=False)
        return ModuleDelta(path, layer_of(path), u[:, :k], s[:k], vh[:k].T), energy
    generator = torch.Generator().manual_seed(seed)
    q = torch.linalg.qr(change @ torch.randn(change.shape[1], n, generator=generator, dtype=change.dtype))[0]
    for _ in range(2):
        q = torch.linalg.qr(change @ torch.linalg.qr(change.T @ q)[0])[0]
    u, s, vh = torch.linalg.svd(q.T @ change, full_matrices=False)
    return ModuleDelta(path, layer_of(path), (q @ u)[:, :k], s[:k], vh[:k].T), energy


def layer_of(path: str) -> int:
    """Return the block that a module stands in, by the first number of its path; 0 outside the blocks."""
    numbers = [int(part) for part in path.split(".") if part.isdigit()]
    return numbers[0] if numbers else 0


def scrambled(delta: ModuleDelta, seed: int) -> ModuleDelta:
    """Return a change with the same spectrum and random directions: the lens's null."""
    u, v = (torch.linalg.qr(noise)[0] for noise in _noise(delta, seed))
    return ModuleDelta(delta.path, delta.layer, u, delta.S, v)


def scrambled_side(delta: ModuleDelta, side: Literal["reads", "writes"], seed: int) -> Tensor:
    """Return the input directions of `scrambled`, or its output directions, without working out the others."""
    u, v = _noise(delta, seed)
    made: Tensor = torch.linalg.qr(v if side == "reads" else u)[0]
    return made


def _noise(delta: ModuleDelta, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    u, v = (torch.randn(like.shape, generator=generator, dtype=torch.float64) for like in (delta.U, delta.V))
    return u, v
