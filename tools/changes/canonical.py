"""One form for every way of writing a change down, and a certificate that the writing does not matter.

A LoRA's factors are free up to an invertible matrix, singular vectors up to a joint sign, and, where
singular values are equal, up to a rotation. What is read must depend on none of these.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tools.changes.delta import ModuleDelta
from tools.changes.reading import Factors
from tools.workers import over_threads

TIED = 1e-3
"""Singular values closer than this share of the largest count as equal: only the space they span is a fact."""
NEGLIGIBLE = 1e-9
Feature = Callable[[ModuleDelta], Tensor]


def canonical(delta: ModuleDelta) -> ModuleDelta:
    """Return the change with negligible directions dropped and the sign of each pair fixed.

    The entry of `(u, v)` that is largest in size is made positive, the first of those that tie.
    """
    keep = NEGLIGIBLE * delta.S[:1].clamp_min(1e-300) < delta.S
    u, s, v = delta.U[:, keep], delta.S[keep], delta.V[:, keep]
    both = torch.cat([u, v])
    largest = both.abs()
    first = (largest >= largest.amax(0, keepdim=True) * (1 - 1e-9)).int().argmax(0)
    sign = both.gather(0, first[None])[0].sign()
    return ModuleDelta(delta.path, delta.layer, u * sign, s, v * sign)


def groups(s: Tensor) -> list[range]:
    """Return the runs of singular values that count as equal, in descending order."""
    found: list[range] = []
    for i in range(len(s)):
        if found and float(s[i - 1] - s[i]) <= TIED * float(s[0]):
            found[-1] = range(found[-1].start, i + 1)
        else:
            found.append(range(i, i + 1))
    return found


@dataclass(frozen=True)
class Certificate:
    """How far a reading moves when factors are rewritten: the largest deviation, and whether an answer flipped."""

    deviation: float
    flips: int
    n: int

    @property
    def holds(self) -> bool:
        """Return whether no reading hangs on how the factors were written."""
        return self.deviation < 1e-6 and self.flips == 0


def random_gauge(rank: int, condition: float, seed: int) -> Tensor:
    """Return an invertible matrix with this condition number, its singular directions random."""
    generator = torch.Generator().manual_seed(seed)
    left, right = (
        torch.linalg.qr(torch.randn(rank, rank, generator=generator, dtype=torch.float64))[0] for _ in range(2)
    )
    values = torch.logspace(0, -math.log10(condition), rank, dtype=torch.float64)
    mixed: Tensor = left @ torch.diag(values) @ right
    return mixed


def certify(
    factors: Mapping[str, Factors], answer: Callable[[Mapping[str, ModuleDelta]], object] | None = None,
    conditions: tuple[float, ...] = (1.0, 1e2, 1e4), seed: int = 0, threads: int = 1,
) -> Certificate:  # fmt: skip
    """Return how far spectra and spanned spaces move when every module's factors are scrambled and read anew.

    Args:
        factors: Of every module.
        answer: What is said of the whole change; it is to be the same each time.
        conditions: Condition numbers of the scrambling matrices.
        seed: Of these.
        threads: Read a module each.
    """
    before = dict(
        zip(factors, over_threads(lambda one: canonical(one[1].delta(one[0])), factors.items(), threads), strict=True)
    )
    said = answer(before) if answer else None
    worst, flips = 0.0, 0
    for i, condition in enumerate(conditions):

        def scrambled(place: tuple[int, str], i: int = i, condition: float = condition) -> tuple[ModuleDelta, float]:
            j, path = place
            f = factors[path]
            g = random_gauge(f.A.shape[0], condition, seed * 7919 + 1000 * i + j)
            made = canonical(f.scrambled(g).delta(path))
            return made, deviation(before[path], made)

        found = dict(zip(factors, over_threads(scrambled, enumerate(factors), threads), strict=True))
        after = {path: made for path, (made, _) in found.items()}
        worst = max(worst, *(moved for _, moved in found.values()))
        flips += int(answer is not None and answer(after) != said)
    return Certificate(worst, flips, len(conditions))


def deviation(a: ModuleDelta, b: ModuleDelta) -> float:
    """Return the largest relative difference of two changes: of singular values, and of what tied directions span.

    For a group of directions `U_g V_gᵀ` is compared, which neither a sign nor a rotation inside the
    group changes; groups that hold less than a millionth of the norm are left to the values.
    """
    if not len(a.S) and not len(b.S):
        return 0.0
    n, scale = max(len(a.S), len(b.S)), float(max(a.S[:1].sum(), b.S[:1].sum()))
    values = [torch.nn.functional.pad(d.S, (0, n - len(d.S))) for d in (a, b)]
    worst = float((values[0] - values[1]).abs().max()) / scale
    for group in groups(a.S):
        if float(a.S[group.start]) < 1e-6 * scale or group.stop > len(b.S):
            continue
        columns = slice(group.start, group.stop)
        core_a, core_b = ((d.U[:, columns], d.V[:, columns]) for d in (a, b))
        # ‖U Vᵀ − U' V'ᵀ‖² from small products alone
        cross = (core_a[0].T @ core_b[0] * (core_a[1].T @ core_b[1])).sum()
        gap = max(0.0, 2 * len(group) - 2 * float(cross)) ** 0.5
        worst = max(worst, gap * float(a.S[group.start]) / scale)
    return worst
