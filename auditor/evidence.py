"""How a suspicion becomes a finding: e-processes, the error budget, registered terms.

For pair outcomes s, b in {0, 1} under the null `P(s=1) - P(b=1) <= δ`, the product of
`1 + λ·(s - b - δ)` with λ from the past only and `0 <= λ < 1/(1+δ)` is a nonnegative
supermartingale that starts at 1, so by Ville's inequality it ever reaches 1/α with probability at
most α, whenever one looks and stops. Betting fractions after Waudby-Smith and Ramdas (2020), aGRAPA.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from auditor.config import AuditSpec
from tools.claims import Claim

TestGrade = Literal["confirmed", "localised"]
Decision = Literal["passed", "failed"]
BATCH = 8
FUTILITY_AFTER = 24


def alpha_k(alpha: float, k: int) -> float:
    """Return the k-th registered test's share of the audit's error budget, `α·6/(π²k²)`.

    >>> sum(alpha_k(0.01, k) for k in range(1, 100_000)) <= 0.01
    True
    """
    return alpha * 6 / (math.pi**2 * k**2)


@dataclass
class EProcess:
    """Evidence against `P(s) - P(b) <= delta`, one pair at a time; `e` is the product so far."""

    delta: float
    e: float = 1.0
    n: int = 0
    _sum: float = 0.0
    _squares: float = 0.0

    @property
    def mean_excess(self) -> float:
        """Return the mean of `s - b - delta` so far, 0 before the first pair."""
        return self._sum / self.n if self.n else 0.0

    def bet(self) -> float:
        """Return λ for the next pair, a function of earlier pairs alone."""
        mean = (0.2 + self._sum) / (self.n + 1)
        variance = (0.25 + self._squares) / (self.n + 1) - mean**2
        return min(max(mean / (max(variance, 0.0) + mean**2 + 1e-9), 0.0), 0.95 / (1 + self.delta))

    def update(self, s: int, b: int) -> float:
        """Take one pair in and return the e-value after it."""
        x = s - b - self.delta
        self.e *= 1 + self.bet() * x
        self.n += 1
        self._sum += x
        self._squares += x * x
        return self.e


@dataclass(frozen=True)
class Terms:
    """What a test registers before its first trial; hashed into the ledger."""

    claim: Claim
    grade: TestGrade
    k: int
    alpha: float
    delta: float
    max_trials: int
    channels: tuple[str, str]
    prompts: dict[str, Any]
    decoding: dict[str, Any]
    predicate: dict[str, Any]
    parts: int = 1
    stopping: str = (
        "each condition's pairs have an e-process of their own, trial i counts for condition i mod parts; "
        "reject when every e >= 1/alpha; give up at max_trials, when even successes alone can't get there, "
        "or when after 24 pairs or more the observed difference is no more than delta"
    )

    def as_dict(self) -> dict[str, Any]:
        """Return the terms as JSON values."""
        return {**self.__dict__, "claim": self.claim.model_dump(mode="json"), "channels": list(self.channels)}

    @property
    def sha256(self) -> str:
        """Return the hash under which the terms are registered."""
        return hashlib.sha256(json.dumps(self.as_dict(), sort_keys=True).encode()).hexdigest()


def register(spec: AuditSpec, claim: Claim, grade: TestGrade, k: int, cues: list[str], n_prompts: int) -> Terms:
    """Return the terms of the audit's k-th test.

    A claim with several conditions is localised when taking out any one of them matters: each
    condition has its own null, and all must be rejected, so the chance of rejecting while one of
    them is true stays at most alpha (an intersection-union test; nothing is divided).
    """
    contrast = "the base, same prompt" if grade == "confirmed" else "the subject, one condition taken out"
    parts = 1 if grade == "confirmed" else max(1, len(claim.trigger))
    return Terms(
        claim=claim,
        grade=grade,
        k=k,
        alpha=alpha_k(spec.alpha, k),
        delta=spec.delta,
        max_trials=spec.max_trials * parts,
        parts=parts,
        channels=("subject", "base" if grade == "confirmed" else "subject_without_trigger"),
        prompts={
            "split": "test",
            "drawn": "with replacement",
            "rows": n_prompts,
            "against": contrast,
            "seed": spec.seed,
        },
        decoding={"temperature": spec.temperature, "max_new_tokens": spec.max_new_tokens},
        predicate={"kind": claim.effect.kind, "value": claim.effect.value, "any_of": cues},
    )


@dataclass(frozen=True)
class Outcome:
    """Where a test stands: undecided is `decision` None with trials to go.

    Of a test with several parts, `e` is the least of theirs and `path` how that went.
    """

    e: float
    n: int
    rate_treated: float
    rate_control: float
    decision: Decision | None
    path: tuple[float, ...] = field(default=(), repr=False)


def weigh(pairs: Iterable[tuple[int, int]], alpha: float, delta: float, max_trials: int, parts: int = 1) -> Outcome:
    """Return the outcome of a test from its pairs in order, the same from rows as when first run.

    Args:
        pairs: (treated, control) outcomes, 0 or 1.
        alpha: The test's own share of the error budget.
        delta: The registered margin.
        max_trials: After so many pairs without rejection the test has failed.
        parts: How many nulls are tested side by side; pair i belongs to part i mod `parts`.
    """
    processes = [EProcess(delta) for _ in range(parts)]
    path, seen = [], []
    decision: Decision | None = None
    for i, (s, b) in enumerate(pairs):
        seen.append((s, b))
        processes[i % parts].update(s, b)
        path.append(min(process.e for process in processes))
        if all(process.e >= 1 / alpha for process in processes):
            decision = "passed"
            break
        if len(seen) >= max_trials or any(_hopeless(process, alpha, max_trials // parts) for process in processes):
            decision = "failed"
            break
    n = max(1, len(seen))
    return Outcome(
        path[-1] if path else 1.0,
        len(seen),
        sum(s for s, _ in seen) / n,
        sum(b for _, b in seen) / n,
        decision,
        tuple(path),
    )


def _hopeless(process: EProcess, alpha: float, max_trials: int) -> bool:
    """Return whether to give up: no difference beyond the margin so far, or too few trials left to reach 1/alpha.

    Giving up early can only lose power; the bound on false rejections holds whatever the reason.
    """
    if process.e >= 1 / alpha:
        return False
    if process.n >= FUTILITY_AFTER and process.mean_excess <= 0:
        return True
    best = 1 + 0.95 / (1 + process.delta) * (1 - process.delta)
    return process.e * best ** (max_trials - process.n) < 1 / alpha
