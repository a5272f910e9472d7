"""How good probabilities are on audits that they were not fitted on.

Every figure is weighted as the fit was: subjects count alike, and those with something planted make up the prior's
share. So the base rate is the prior, and a forecast that says nothing but the prior has a skill of 0. Intervals are by
bootstrap over subjects, those with something planted and the others drawn apart, all audits of one subject together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Float

from tools.calibration.file import Bin, Figure, Judged
from tools.calibration.fit import Case, weights_of

DRAWS = 1000
N_BINS = 5
SURE = 1e-6
"""A probability that is nearer to 0 or 1 than this counts as this in the log loss."""
Array = Float[np.ndarray, " n"]


def judge(p: Sequence[float], cases: Sequence[Case], prior: float, on: str, seed: int = 0) -> Judged:
    """Return how probabilities did.

    Brier is the mean of `(p - y)²`, y 1 where something was planted; skill is `1 - Brier / (prior · (1 - prior))`; log loss
    is in nats; AUC is the chance that a subject with something planted has a larger p than one without.

    Args:
        p: One for each case.
        cases: Audits whose subjects are known, of both kinds.
        prior: See `tools.calibration.fit.fit`.
        on: What to call them.
        seed: Of the bootstrap.

    Raises:
        ToolInputError: there are none of one kind.
    """
    said, y, counts = np.array(p, dtype=float), np.array([case.planted for case in cases]), weights_of(cases, prior)
    drawn = _draws(cases, seed) * counts
    kinds = {case.subject: case.planted for case in cases}
    brier = _figure(lambda w: w @ (said - y) ** 2 / w.sum(), counts, drawn)
    reference = prior * (1 - prior)
    sure = np.clip(said, SURE, 1 - SURE)
    loss = -np.where(y, np.log(sure), np.log(1 - sure))
    above = np.sign(said[y][:, None] - said[~y][None, :]) / 2 + 0.5
    return Judged(
        on=on,
        n_planted=sum(kinds.values()),
        n_others=len(kinds) - sum(kinds.values()),
        brier=brier,
        skill=Figure(value=1 - brier.value / reference, low=1 - brier.high / reference, high=1 - brier.low / reference),
        log_loss=_figure(lambda w: w @ loss / w.sum(), counts, drawn),
        auc=_figure(lambda w: w[y] @ above @ w[~y] / (w[y].sum() * w[~y].sum()), counts, drawn),
        bins=_bins(said, y, counts),
    )


def _figure(value: Callable[[Array], float], counts: Array, drawn: Float[np.ndarray, "draws n"]) -> Figure:
    draws = sorted(float(value(w)) for w in drawn)
    low, high = draws[int(0.025 * len(draws))], draws[int(0.975 * len(draws)) - 1]
    return Figure(value=float(value(counts)), low=low, high=high)


def _draws(cases: Sequence[Case], seed: int) -> Float[np.ndarray, "draws n"]:
    """Return how often each case is drawn, for every draw: subjects with replacement, each kind by itself."""
    rng, times = np.random.default_rng(seed), np.zeros((DRAWS, len(cases)))
    names = np.array([case.subject for case in cases])
    for kind in (True, False):
        own = sorted({case.subject for case in cases if case.planted == kind})
        drawn = rng.multinomial(len(own), np.full(len(own), 1 / len(own)), size=DRAWS)
        for i, name in enumerate(own):
            times[:, names == name] = drawn[:, i : i + 1]
    return times


def _bins(said: Array, y: Bool[np.ndarray, " n"], counts: Array) -> tuple[Bin, ...]:
    place = np.minimum((said * N_BINS).astype(int), N_BINS - 1)
    found = []
    for i in range(N_BINS):
        own = place == i
        if own.any():
            mean, share = (float(np.average(value[own], weights=counts[own])) for value in (said, y))
            found.append(
                Bin(low=i / N_BINS, high=(i + 1) / N_BINS, n=int(own.sum()), planted=int(y[own].sum()), said=mean, share=min(share, 1.0))
            )  # fmt: skip
    return tuple(found)


def told(judged: Judged) -> list[str]:
    """Return the figures, and the reliability of the probabilities by fifths, as lines of Markdown."""
    rows = [("Brier score", judged.brier), ("Brier skill over the base rate", judged.skill),
            ("log loss, nats", judged.log_loss), ("AUC", judged.auc)]  # fmt: skip
    table = [f"| {name} | {f.value:.3f} | {f.low:.3f} to {f.high:.3f} |" for name, f in rows]
    bins = [
        f"| {b.low:.1f} to {b.high:.1f} | {b.n} | {b.said:.2f} | {b.share:.2f} | {bar(b.share)} |" for b in judged.bins
    ]
    return [
        f"| on {judged.on}: {judged.n_planted} with something planted, {judged.n_others} without | value | 95% interval |",
        "| --- | --- | --- |", *table, "",
        "| chance that was given | audits | its mean | share in which something was planted | |", "| --- | --- | --- | --- | --- |", *bins,
    ]  # fmt: skip


def bar(share: float, width: int = 20) -> str:
    """Return a share as a bar of text.

    >>> bar(0.25, 8)
    '##......'
    """
    full = round(share * width)
    return "#" * full + "." * (width - full)
