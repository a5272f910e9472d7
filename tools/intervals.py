"""Intervals of means whose values are not independent, and how far confidences can be trusted."""

from __future__ import annotations

import random
import statistics
from collections.abc import Mapping, Sequence

BOOTSTRAPS = 2000


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


def calibration_error(confidence: Sequence[float], right: Sequence[bool], n_bins: int = 10) -> float:
    """Return the expected calibration error: `Σ n_b/n · |mean confidence − share right|` over equal bins of confidence.

    Raises:
        ValueError: there is nothing to judge.
    """
    if not confidence:
        raise ValueError("calibration is undefined (n=0)")
    bins: dict[int, list[tuple[float, bool]]] = {}
    for c, r in zip(confidence, right, strict=True):
        bins.setdefault(min(int(c * n_bins), n_bins - 1), []).append((c, r))
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
    threshold = good[min(len(good), max(1, round(kept_right * len(good)))) - 1]
    return threshold, sum(c < threshold for c in bad) / len(bad)
