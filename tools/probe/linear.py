"""Linear probes: difference of means and logistic regression on the residual stream."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def difference_of_means(resid: Float[Tensor, "n d_model"], label: Bool[Tensor, " n"]) -> Float[Tensor, " d_model"]:
    """Return the direction from the mean of the negatives to the mean of the positives, of unit norm."""
    direction = resid[label].mean(0) - resid[~label].mean(0)
    unit: Tensor = direction / direction.norm().clamp(min=1e-12)
    return unit


def logistic(
    resid: Float[Tensor, "n d_model"], label: Bool[Tensor, " n"], penalty: float = 1.0
) -> tuple[Float[Tensor, " d_model"], float]:
    """Return weights and intercept of an L2-penalised logistic regression, fitted by L-BFGS.

    Minimises `sum log(1 + exp(-y·(x·w + b))) + penalty/2·||w||²`, scikit-learn's objective at
    `C = 1/penalty`, the intercept unpenalised.
    """
    x, y = resid.double(), label.double() * 2 - 1
    w = torch.zeros(x.shape[1], dtype=torch.float64, requires_grad=True)
    b = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [w, b], max_iter=200, tolerance_grad=1e-9, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def closure() -> float:
        optimizer.zero_grad()
        loss = torch.nn.functional.softplus(-y * (x @ w + b)).sum() + penalty / 2 * w @ w
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return w.detach().to(resid.dtype), float(b.detach())


def separation(scores: Float[Tensor, " n"], label: Bool[Tensor, " n"]) -> float:
    """Return d′: the difference of the two classes' mean scores over their pooled standard deviation.

    Raises:
        ValueError: a class has fewer than two members, so that no deviation is defined.
    """
    positive, negative = scores[label], scores[~label]
    if len(positive) < 2 or len(negative) < 2:
        raise ValueError(f"separation is undefined (n={len(positive)} and {len(negative)})")
    pooled = ((positive.var() + negative.var()) / 2).clamp(min=1e-12).sqrt()
    return float((positive.mean() - negative.mean()) / pooled)


def auroc(scores: Float[Tensor, " n"], label: Bool[Tensor, " n"]) -> float:
    """Return the chance that a positive scores above a negative, ties counted half."""
    difference = scores[label][:, None] - scores[~label][None, :]
    return float(((difference > 0).float() + 0.5 * (difference == 0).float()).mean())
