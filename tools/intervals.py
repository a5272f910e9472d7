"""Intervals of means whose values are not independent, and how far confidences can be trusted."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Mapping, Sequence

BOOTSTRAPS = 2000
Z = 1.959963984540054


def clustered_interval(clusters: Mapping[str, Sequence[float]], seed: int = 0) -> tuple[float, float]:
    """Return the 95% bootstrap interval of the mean over clusters, all values of one drawn together.

    Args:
        clusters: Values of each cluster, at least one in each; a cluster counts once however many it has.
        seed: Of the draws.
    """
    means = [statistics.fmean(values) for values in clusters.values()]
    rng = random.Random(seed)
    draws = sorted(statistics.fmean(rng.choices(means, k=len(means))) for _ in range(BOOTSTRAPS))
    return draws[int(0.025 * BOOTSTRAPS)], draws[int(0.975 * BOOTSTRAPS) - 1]


def pooled_interval(clusters: Mapping[str, Sequence[float]], seed: int = 0) -> tuple[float, float] | None:
    """Return the 95% bootstrap interval of the mean over all values, whole clusters drawn; None for fewer than two clusters.

    Unlike `clustered_interval`, a cluster counts by how many values it has, as in the mean it belongs to.
    """
    if len(clusters) < 2:
        return None
    sums = [(sum(values), len(values)) for values in clusters.values()]
    rng, draws = random.Random(seed), []
    for _ in range(BOOTSTRAPS):
        drawn = rng.choices(sums, k=len(sums))
        draws.append(sum(total for total, _ in drawn) / sum(n for _, n in drawn))
    draws.sort()
    return draws[int(0.025 * BOOTSTRAPS)], draws[int(0.975 * BOOTSTRAPS) - 1]


def wilson(rate: float, n: int) -> tuple[float, float]:
    """Return Wilson's 95% interval of a share."""
    middle, over = rate + Z**2 / (2 * n), 1 + Z**2 / n
    half = Z * math.sqrt(rate * (1 - rate) / n + Z**2 / (4 * n**2))
    return (middle - half) / over, (middle + half) / over


def calibration_error(confidence: Sequence[float], right: Sequence[bool], n_bins: int = 10) -> float:
    """Return the expected calibration error: `Σ n_b/n · |mean confidence − share right|` over bins of confidence.

    Bins are centred on multiples of `1/n_bins`, so that an agreement of so many samples has a bin of its own.

    Raises:
        ValueError: there is nothing to judge.
    """
    if not confidence:
        raise ValueError("calibration is undefined (n=0)")
    bins: dict[int, list[tuple[float, bool]]] = {}
    for c, r in zip(confidence, right, strict=True):
        bins.setdefault(round(c * n_bins), []).append((c, r))
    gaps = [
        len(b) * abs(statistics.fmean(c for c, _ in b) - statistics.fmean(float(r) for _, r in b))
        for b in bins.values()
    ]
    return sum(gaps) / len(confidence)


def withheld_wrong(confidence: Sequence[float], right: Sequence[bool], kept_right: float = 0.8) -> tuple[float, float]:
    """Return the highest threshold that keeps this share of right answers, and the share of wrong ones below it.

    Raises:
        ValueError: nothing is right, or nothing wrong, so that one of the two is undefined.
    """
    good = sorted((c for c, r in zip(confidence, right, strict=True) if r), reverse=True)
    bad = [c for c, r in zip(confidence, right, strict=True) if not r]
    if not good or not bad:
        raise ValueError(f"abstaining is undefined (n={len(good)} right, {len(bad)} wrong)")
    threshold = good[max(1, math.ceil(kept_right * len(good) - 1e-9)) - 1]
    return threshold, sum(c < threshold for c in bad) / len(bad)
