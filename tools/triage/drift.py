"""How large a change is and how it is shaped: norms, ranks, layers, alignment. Drift, never malice.

A fine-tune that plants something and one that does not can have the same spectrum; what stands here
says how far a model moved and where, and how unusual that is among harmless ones of the same recipe.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import torch

from tools.changes.delta import ModuleDelta
from tools.changes.parameters import Parameters
from tools.changes.reading import WeightDelta

FEATURES = ("log_norm", "stable_rank", "entropy", "top_share", "late_share", "write_share")


@dataclass(frozen=True)
class ModuleDrift:
    """One module's change: Frobenius norm, that over the base's own (None without a base), and its shape.

    `stable_rank` is `‖ΔW‖²/σ₁²`, `entropy` that of the energy over directions in nats, `top_share` the
    share of energy in the first direction, `alignment` the largest cosine of its first output
    direction with the base's first eight.
    """

    path: str
    layer: int
    norm: float
    relative_norm: float | None
    stable_rank: float
    entropy: float
    top_share: float
    alignment: float | None


@dataclass(frozen=True)
class Drift:
    """The whole change: by module, by layer (share of energy), and as the features that references are compared in."""

    modules: tuple[ModuleDrift, ...]
    layers: dict[int, float]
    features: dict[str, float]

    def as_dict(self) -> dict[str, object]:
        """Return all figures by name."""
        return {"modules": [asdict(m) for m in self.modules], "layers": self.layers, "features": self.features}


def drift_of(delta: WeightDelta, base: Parameters | None = None) -> Drift | None:
    """Return the drift of a change; None where nothing of it could be read, or it is zero throughout."""
    changed = [d for d in delta.modules.values() if float(d.S.sum()) > 0]
    if not changed:
        return None
    modules = tuple(_module(d, delta.energy[d.path], base) for d in changed)
    energy = {d.path: delta.energy[d.path] for d in changed}
    whole = sum(energy.values())
    layers: dict[int, float] = {}
    for d in changed:
        layers[d.layer] = layers.get(d.layer, 0.0) + energy[d.path] / whole
    deepest = max(layers)
    share = torch.tensor([energy[m.path] / whole for m in modules], dtype=torch.float64)

    def mean(values: Sequence[float]) -> float:
        return float((share * torch.tensor(values, dtype=torch.float64)).sum())

    features = {
        "log_norm": 0.5 * float(torch.tensor(whole, dtype=torch.float64).log()),
        "stable_rank": mean([m.stable_rank for m in modules]),
        "entropy": mean([m.entropy for m in modules]),
        "top_share": mean([m.top_share for m in modules]),
        "late_share": sum(s for layer, s in layers.items() if 2 * layer > deepest),
        "write_share": float(sum(energy[d.path] for d in changed if d.writes_residual) / whole),
    }
    return Drift(modules, dict(sorted(layers.items())), features)


def _module(d: ModuleDelta, energy: float, base: Parameters | None) -> ModuleDrift:
    share = d.S.square() / d.S.square().sum()
    relative = alignment = None
    before = None if base is None else base.matrix(d.path)
    if before is not None:
        relative = energy**0.5 / float(before.norm())
        if before.shape[0] == d.U.shape[0]:
            alignment = _alignment(before, d)
    return ModuleDrift(
        d.path, d.layer, energy**0.5, relative, energy / float(d.S[0]) ** 2,
        float(-(share * share.clamp_min(1e-300).log()).sum()), float(share[0]), alignment,
    )  # fmt: skip


def _alignment(before: torch.Tensor, d: ModuleDelta, k: int = 8) -> float:
    """Return the largest cosine of the change's first output direction with the base's first `k`, by subspace iteration."""
    generator = torch.Generator().manual_seed(0)
    q = torch.linalg.qr(before @ torch.randn(before.shape[1], 2 * k, generator=generator, dtype=before.dtype))[0]
    for _ in range(2):
        q = torch.linalg.qr(before @ (before.T @ q))[0]
    u, _, _ = torch.linalg.svd(q.T @ before, full_matrices=False)
    return float((d.U[:, 0] @ (q @ u)[:, :k]).abs().max())


def percentiles(own: Mapping[str, float], reference: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return for each feature the share of reference adapters that have less of it, ties counted half.

    Raises:
        ValueError: there is no reference, so that no percentile is defined.
    """
    if not reference:
        raise ValueError("a percentile is undefined (n=0 reference adapters)")
    return {
        name: sum((r[name] < own[name]) + 0.5 * (r[name] == own[name]) for r in reference) / len(reference)
        for name in own
    }
