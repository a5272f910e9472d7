"""What a report says about an audit, as values; `reports.gather` fills them in from ledger rows."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from auditor.config import Verdict
from reports.finding import ClaimText, FindingRecord, GivenRecord, HypothesisRecord, Note, TestRecord
from tools.calibration.file import Calibration


@dataclass(frozen=True)
class Weights:
    """The files that one role's weights came from."""

    seq: int
    role: str
    path: str
    files: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class LeadRecord:
    """A claim that instruments suggest and no hypothesis took up; `explained` if a finding covers it."""

    claim: ClaimText
    lift: float
    tools: tuple[str, ...]
    readings: tuple[int, ...]
    explained: bool


@dataclass(frozen=True)
class CallRecord:
    """One tool call as its last row has it; `n_prompts` is None where the call took none."""

    seq: int
    tool: str
    state: str
    step: int
    n_prompts: int | None
    text: str
    tokens: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class PeakExample:
    """One text scored token by token, from a model diff's reading."""

    seq: int
    prompt: str
    tokens: tuple[str, ...]
    kl_nats: tuple[float, ...]
    gained: tuple[str, ...]

    @property
    def peak(self) -> int:
        """Return the position of the largest KL."""
        return max(range(len(self.kl_nats)), key=self.kl_nats.__getitem__)


@dataclass(frozen=True)
class EarlierAudit:
    """Another audit of the same weights in this ledger; its verdict is None where it has none."""

    audit_id: str
    began: datetime
    verdict: str | None
    n_findings: int
    n_tests: int


@dataclass(frozen=True)
class Spent:
    """Forward tokens by role, with the rows that say so; `open` are calls reserved and never settled.

    `lost` are forward tokens that interruptions lost, no part of what was spent, and `released` the rows that say so.
    """

    limit: int
    by_role: tuple[tuple[str, int], ...]
    seconds: float
    seqs: tuple[int, ...]
    open: tuple[int, ...]
    lost: int
    released: tuple[int, ...]

    @property
    def total(self) -> int:
        """Return forward tokens over all roles."""
        return sum(n for _, n in self.by_role)


@dataclass(frozen=True)
class NearMiss:
    """A claim whose test fell short by little: hits on both sides of `n` pairs, its e-value and what it needed."""

    hypothesis_id: str
    test_id: str
    grade: str
    statement: str
    hits: tuple[int, int]
    n: int
    e: float
    needed: float


@dataclass(frozen=True)
class End:
    """The row that ended the audit; `p_scope` says what the probability was calibrated on."""

    seq: int
    verdict: Verdict
    why: str
    p_planted: float | None
    p_scope: str
    near_misses: tuple[NearMiss, ...]
    not_looked_at: tuple[str, ...]


@dataclass(frozen=True)
class Calibrated:
    """What a calibration made of the audit, or why it does not hold for it; `features` are in words, each with its value."""

    seq: int
    features: tuple[tuple[str, float], ...]
    why_not: str
    by: Calibration

    @property
    def holds(self) -> bool:
        """Return whether the chance is the calibration's."""
        return not self.why_not


@dataclass(frozen=True)
class Chain:
    """What re-deriving the hashes showed when the report was written."""

    head: str
    rows: int
    broken_at: int | None


@dataclass(frozen=True)
class Commands:
    """Command lines to print."""

    verify: str
    resume: str
    audit: str
    lookup: str


@dataclass(frozen=True)
class Report:
    """Everything the template may say."""

    audit_id: str
    spec: dict[str, Any]
    spec_sha256: str
    versions: tuple[tuple[str, str], ...]
    began: datetime
    last: datetime
    last_seq: int
    sessions: tuple[int, ...]
    end: End | None
    calibrated: Calibrated | None
    weights_sha256: str
    weights: tuple[Weights, ...]
    checked: Note | None
    notes: tuple[Note, ...]
    foreseen: Note | None
    given: tuple[GivenRecord, ...]
    findings: tuple[FindingRecord, ...]
    hypotheses: tuple[HypothesisRecord, ...]
    leads: tuple[LeadRecord, ...]
    unread: tuple[Note, ...]
    calls: tuple[CallRecord, ...]
    n_readings: int
    n_leads: int
    peak: PeakExample | None
    troubles: tuple[Note, ...]
    earlier: tuple[EarlierAudit, ...]
    spent: Spent
    chain: Chain
    again: str | None
    commands: Commands

    @property
    def peak_under(self) -> str | None:
        """Return the id of the first finding that the reading with the peak led to."""
        for finding in self.findings:
            if self.peak and self.peak.seq in (*(r.seq for r in finding.readings), *finding.others):
                return finding.finding_id
        return None

    @property
    def others(self) -> tuple[HypothesisRecord, ...]:
        """Return the hypotheses that made no finding."""
        found = {finding.hypothesis.hypothesis_id for finding in self.findings}
        return tuple(h for h in self.hypotheses if h.hypothesis_id not in found)

    @property
    def tests(self) -> tuple[TestRecord, ...]:
        """Return all registered tests, in the order of registration."""
        return tuple(sorted((t for h in self.hypotheses for t in h.tests), key=lambda t: t.k))
