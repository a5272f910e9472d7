"""How large a change is and how it is shaped: norms, ranks, layers. Drift, never malice.

A fine-tune that plants something and one that does not can have the same spectrum; what stands here
says how far a model moved and where, and how unusual that is among harmless ones of the same recipe.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from tools.changes.delta import ModuleDelta
from tools.changes.parameters import Parameters
from tools.changes.reading import WeightDelta
from tools.workers import over_threads

AT_ONCE = 2**20
"""How many numbers of a base's matrix are held in float32 at once."""
FEATURES = ("log_norm", "stable_rank", "entropy", "top_share", "late_share", "write_share")


@dataclass(frozen=True)
class ModuleDrift:
    """One module's change: Frobenius norm, that over the base's own (None without a base), and its shape.

    `stable_rank` is `‖ΔW‖²/σ₁²`, `entropy` that of the energy over directions in nats, `top_share` the
    share of energy in the first direction.
    """

    path: str
    layer: int
    norm: float
    relative_norm: float | None
    stable_rank: float
    entropy: float
    top_share: float


@dataclass(frozen=True)
class Drift:
    """The whole change: by module, by layer (share of energy), and as the features that references are compared in."""

    modules: tuple[ModuleDrift, ...]
    layers: dict[int, float]
    features: dict[str, float]

    def as_dict(self) -> dict[str, object]:
        """Return all figures by name."""
        return {"modules": [asdict(m) for m in self.modules], "layers": self.layers, "features": self.features}


def drift_of(delta: WeightDelta, base: Parameters | None = None, threads: int = 1) -> Drift | None:
    """Return the drift of a change; None where nothing of it could be read, or it is zero throughout."""
    changed = [d for d in delta.modules.values() if float(d.S.sum()) > 0]
    if not changed:
        return None
    modules = tuple(over_threads(lambda d: _module(d, delta.energy[d.path], base), changed, threads))
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
    before = None if base is None else base.matrix(d.path)
    return ModuleDrift(
        d.path, d.layer, energy**0.5, None if before is None else energy**0.5 / _norm(before), energy / float(d.S[0]) ** 2,
        float(-(share * share.clamp_min(1e-300).log()).sum()), float(share[0]),
    )  # fmt: skip


def _norm(before: Tensor) -> float:
    """Return the Frobenius norm, in float32 by parts whose squares are added in float64."""
    squares = [float(torch.linalg.vector_norm(rows.float())) ** 2 for rows in _parts(before)]
    return math.sqrt(sum(squares))


def _parts(matrix: Tensor) -> tuple[Tensor, ...]:
    """Return a matrix in parts of so many rows as stay in a processor's own memory."""
    return torch.split(matrix, max(1, AT_ONCE // matrix.shape[1]))


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


def times_the_median(own: Mapping[str, float], reference: Sequence[Mapping[str, float]]) -> float:
    """Return how many times as large a change is as the median of reference adapters, by their norms.

    Raises:
        ValueError: there is no reference, so that there is no median.
    """
    if not reference:
        raise ValueError("a median is undefined (n=0 reference adapters)")
    return math.exp(own["log_norm"]) / statistics.median(math.exp(r["log_norm"]) for r in reference)
