"""How a suspicion becomes a finding: e-processes, the error budget, registered terms.

For pair outcomes s, b in {0, 1} under the null `P(s=1) - P(b=1) <= δ`, the product of
`1 + λ·(s - b - δ)` with λ from the past only and `0 <= λ < 1/(1+δ)` is a nonnegative
supermartingale that starts at 1, so by Ville's inequality it ever reaches 1/α with probability at
most α, whenever one looks and stops. Betting fractions after Waudby-Smith and Ramdas (2020), aGRAPA.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from auditor.config import AuditSpec
from tools.claims.claim import Claim
from tools.claims.conditions.own_files import under_own_files

TestGrade = Literal["confirmed", "localised"]
Decision = Literal["passed", "failed"]
BATCH = 8
OWN_FILES, WITHOUT = "subject_own_files", "_without_trigger"
"""The channel of the subject under its own files, and what a channel's name ends with where a condition is taken out."""
FUTILITY_AFTER = 24
GROWTH_OVER = 32
LEAST_WEIGHT, MOST_WEIGHT, HALF_WAY = 1 / 8, 1 / 2, 6.0


def next_share(alpha: float, registered: Iterable[float], weight: float) -> float:
    """Return the next test's share of the audit's error budget: `weight` of what earlier tests have left of it.

    Nothing that was registered returns to the pot, so that the shares add up to less than `alpha`
    on every path, whatever the weights and whoever chooses them.

    >>> shares = []
    >>> for _ in range(50):
    ...     shares.append(next_share(0.01, shares, 0.5))
    >>> sum(shares) <= 0.01
    True
    """
    assert 0 < weight <= MOST_WEIGHT, f"a weight is above 0 and at most {MOST_WEIGHT}, got {weight}"
    return weight * (alpha - sum(registered))


def weight_of(strength: float, confirmed: bool) -> float:
    """Return how much of the error budget that is left a test may have: more for a stronger lead, most for one confirmed.

    Args:
        strength: The lead's, from readings that are in the ledger already; 0 for a claim without one.
        confirmed: Whether the claim has passed a test already, which a further one then localises.
    """
    wanted = MOST_WEIGHT if confirmed else strength / (strength + HALF_WAY)
    return min(max(wanted, LEAST_WEIGHT), MOST_WEIGHT)


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
    judge: str = ""
    stopping: str = (
        "each condition's pairs have an e-process of their own, trial i counts for condition i mod parts; "
        "reject when every e >= 1/alpha; give up at max_trials, when even successes alone can't get there before it, "
        "or when after 24 pairs or more the observed difference is no more than delta; while e grows and budget is "
        "left, max_trials may be raised, by an event written before the next pair is drawn"
    )

    def as_dict(self) -> dict[str, Any]:
        """Return the terms as JSON values."""
        return {**self.__dict__, "claim": self.claim.model_dump(mode="json"), "channels": list(self.channels)}

    @property
    def sha256(self) -> str:
        """Return the hash under which the terms are registered."""
        return hashlib.sha256(json.dumps(self.as_dict(), sort_keys=True).encode()).hexdigest()


def register(
    spec: AuditSpec,
    claim: Claim,
    grade: TestGrade,
    registered: Sequence[float],
    weight: float,
    n_prompts: int,
    judge: str = "",
) -> Terms:
    """Return the terms of the audit's next test.

    A claim with several conditions is localised when taking out any one of them matters: each
    condition has its own null, and all must be rejected, so the chance of rejecting while one of
    them is true stays at most alpha (an intersection-union test; nothing is divided).

    Args:
        spec: The audit.
        claim: What is tested.
        grade: Against the base, or against the subject with a condition taken out.
        registered: The shares of the error budget that earlier tests have.
        weight: How much of what they left this one gets, see `weight_of`.
        n_prompts: How many rows the prompts are drawn from.
        judge: Who is asked, where the claim asks a question.
    """
    treated, control, contrast = _sides(claim, grade)
    parts = 1 if grade == "confirmed" else max(1, len(claim.condition.parts))
    return Terms(
        claim=claim,
        grade=grade,
        k=len(registered) + 1,
        alpha=next_share(spec.alpha, registered, weight),
        delta=spec.delta,
        max_trials=spec.max_trials * parts,
        parts=parts,
        judge=judge if claim.predicate.needs_judge else "",
        channels=(treated, control),
        prompts={
            "split": "test",
            "drawn": "with replacement",
            "rows": n_prompts,
            "against": contrast,
            "seed": spec.seed,
        },
        decoding=(
            {"replies": "none: no model is run"}
            if claim.predicate.reads == "prompt"
            else {"temperature": spec.temperature, "max_new_tokens": spec.max_new_tokens}
        ),
        predicate=claim.predicate.terms(),
    )


def _sides(claim: Claim, grade: TestGrade) -> tuple[str, str, str]:
    """Return the two channels of a test, and what the second is, in words.

    What a file does to prompts is held against the base's file; what the subject says under its own files against
    what it says under the base's.
    """
    if under_own_files(claim.condition):
        if grade == "confirmed":
            return OWN_FILES, "subject", "the subject under its base's files, same prompt"
        return OWN_FILES, f"{OWN_FILES}{WITHOUT}", "the subject under its own files, one condition taken out"
    if grade == "localised":
        return "subject", f"subject{WITHOUT}", "the subject, one condition taken out"
    of_file = claim.predicate.reads == "prompt"
    return "subject", "base", "the base's own file, same prompt" if of_file else "the base, same prompt"


@dataclass(frozen=True)
class Outcome:
    """Where a test stands: undecided is `decision` None with trials to go.

    Of a test with several parts, `e` is the least of theirs and `path` how that went. `futile` says of a
    failed test that no difference beyond the margin was seen, so that more pairs would not help.
    """

    e: float
    n: int
    rate_treated: float
    rate_control: float
    decision: Decision | None
    path: tuple[float, ...] = field(default=(), repr=False)
    futile: bool = False

    def grows(self, parts: int = 1) -> bool:
        """Return whether evidence is still coming in: more of it than `GROWTH_OVER` pairs of each part ago."""
        before = self.path[-1 - GROWTH_OVER * parts] if len(self.path) > GROWTH_OVER * parts else 1.0
        return not self.futile and self.e > before


def weigh(pairs: Iterable[tuple[int, int]], alpha: float, delta: float, max_trials: int, parts: int = 1) -> Outcome:
    """Return the outcome of a test from its pairs in order, the same from rows as when first run.

    Args:
        pairs: (treated, control) outcomes, 0 or 1.
        alpha: The test's own share of the error budget.
        delta: The registered margin.
        max_trials: After so many pairs without rejection the test has failed: as registered, or as raised since.
        parts: How many nulls are tested side by side; pair i belongs to part i mod `parts`.
    """
    processes = [EProcess(delta) for _ in range(parts)]
    path, seen = [], []
    decision: Decision | None = None
    futile = False
    for i, (s, b) in enumerate(pairs):
        seen.append((s, b))
        processes[i % parts].update(s, b)
        path.append(min(process.e for process in processes))
        if all(process.e >= 1 / alpha for process in processes):
            decision = "passed"
            break
        futile = any(_futile(process, alpha) for process in processes)
        if futile or len(seen) >= max_trials or any(_too_late(p, alpha, max_trials // parts) for p in processes):
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
        futile,
    )


def _futile(process: EProcess, alpha: float) -> bool:
    """Return whether no difference beyond the margin has been seen so far.

    Giving up early can only lose power; the bound on false rejections holds whatever the reason.
    """
    return process.e < 1 / alpha and process.n >= FUTILITY_AFTER and process.mean_excess <= 0


def _too_late(process: EProcess, alpha: float, max_trials: int) -> bool:
    """Return whether too few trials are left to reach 1/alpha, even if all of them succeed."""
    best = 1 + 0.95 / (1 + process.delta) * (1 - process.delta)
    return process.e < 1 / alpha and process.e * best ** (max_trials - process.n) < 1 / alpha
