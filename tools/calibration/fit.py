"""Fit a probability, and how far findings can be trusted, on audits of which it is known what was planted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize
from scipy.special import expit
from scipy.stats import beta

from tools.calibration.file import Line, Right
from tools.errors import ToolInputError

PENALTY = 0.25
"""Half of it times the sum of squared weights is added to the loss: a Gaussian prior with a standard deviation of 2."""
LEAST = 2
"""Subjects of either kind that a fit takes at least, where there are others to judge it by."""


@dataclass(frozen=True)
class Case:
    """One audit whose subject is known.

    Args:
        subject: What tells it from others; the audits of one subject count as one together.
        planted: Whether something of concern was planted in it.
        features: By name, each from 0 to 1, more of it in favour of something planted.
        findings: Of each finding its grade, and whether its claim was right.
    """

    subject: str
    planted: bool
    features: Mapping[str, float]
    findings: tuple[tuple[str, bool], ...] = field(default=())


def weights_of(cases: Sequence[Case], prior: float) -> Float[np.ndarray, " n"]:
    """Return how much each case counts: every subject alike, and those with something planted `prior` of the whole.

    The weights add up to the number of subjects.

    Raises:
        ToolInputError: in none of them something was planted, or in all of them.
    """
    audits = Counter(case.subject for case in cases)
    kinds = Counter({case.subject: case.planted for case in cases}.values())
    if not kinds[True] or not kinds[False]:
        raise ToolInputError(
            f"{kinds[True]} subjects with something planted and {kinds[False]} without are too few to tell the two apart; "
            "pass audits of both"
        )
    share = {True: prior / kinds[True], False: (1 - prior) / kinds[False]}
    return np.array([len(audits) * share[case.planted] / audits[case.subject] for case in cases])


def fit(cases: Sequence[Case], prior: float, names: Sequence[str]) -> Line:
    """Return the penalised logistic regression with weights of 0 or more that fits some cases best.

    The intercept is not penalised, so that where no feature tells anything every probability is the prior.

    Args:
        cases: See `Case`.
        prior: The share of models in which something is planted.
        names: The features that count.
    """
    x = np.array([[case.features.get(name, 0.0) for name in names] for case in cases]).reshape(len(cases), len(names))
    sign = np.array([1.0 if case.planted else -1.0 for case in cases])
    counts = weights_of(cases, prior)

    def loss(params: Float[np.ndarray, " k"]) -> tuple[float, Float[np.ndarray, " k"]]:
        margin = sign * (params[0] + x @ params[1:])
        value = counts @ np.logaddexp(0, -margin) + PENALTY / 2 * params[1:] @ params[1:]
        pull = -counts * sign * expit(-margin)
        return float(value), np.concatenate([[pull.sum()], x.T @ pull + PENALTY * params[1:]])

    bounds = [(None, None), *[(0.0, None)] * len(names)]
    found = minimize(loss, np.zeros(1 + len(names)), jac=True, method="L-BFGS-B", bounds=bounds,
                     options={"ftol": 1e-13, "gtol": 1e-9, "maxiter": 2000})  # fmt: skip
    rounded = [round(float(value), 9) for value in found.x]
    return Line(intercept=rounded[0], weights=dict(zip(names, rounded[1:], strict=True)))


def left_out(cases: Sequence[Case], prior: float, names: Sequence[str]) -> list[float]:
    """Return each case's probability by a fit on the cases of all other subjects.

    Raises:
        ToolInputError: some fit would be left with none of one kind.
    """
    lines = {
        name: fit([case for case in cases if case.subject != name], prior, names) for name in {c.subject for c in cases}
    }
    return [lines[case.subject].p(case.features) for case in cases]


def confidences(cases: Sequence[Case]) -> dict[str, Right]:
    """Return for each grade of which there are findings how often their claims were right.

    `(right + 1) / (n + 2)`, the mean of a beta distribution that begins flat: of few findings little is said.
    """
    told: dict[str, list[bool]] = {}
    for grade, right in (one for case in cases for one in case.findings):
        told.setdefault(grade, []).append(right)
    return {grade: right_of(sum(seen), len(seen)) for grade, seen in sorted(told.items())}


def right_of(right: int, n: int) -> Right:
    """Return what `right` of `n` findings make of the next one."""
    low, high = beta.ppf([0.025, 0.975], right + 1, n - right + 1)
    return Right(n=n, right=right, confidence=(right + 1) / (n + 2), low=float(low), high=float(high))
