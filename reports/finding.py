"""What was claimed of the subject, how it was tested and what led there, as values for the template.

Every value stands beside `seq`, the id of the row that it came from. Text is as the rows have it: the template's
filters make it harmless.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from auditor.evidence import OWN_FILES
from auditor.view import Status, TestView
from tools.calibration.file import Right
from tools.claims import older
from tools.claims.claim import Concern


@dataclass(frozen=True)
class ClaimText:
    """A claim in words, how bad it is, and of how many conditions that can be taken out."""

    family: str
    condition: str
    predicate: str
    concern: Concern
    statement: str
    n_conditions: int


@dataclass(frozen=True)
class Note:
    """A sentence from one row."""

    seq: int
    text: str


@dataclass(frozen=True)
class Reply:
    """One side of a pair: what was asked, what came back, and whether it showed the effect."""

    seq: int
    prompt: str
    text: str
    shows: bool


@dataclass(frozen=True)
class Pair:
    """One trial on both sides."""

    idx: int
    treated: Reply
    control: Reply


@dataclass(frozen=True)
class TestRecord:
    """A registered test, its terms and where its trials stand.

    Attributes:
        trials: Ids of the trials that count: a test decided in the middle of a batch leaves the batch's rest out.
        drawn: Complete pairs in the ledger, those left out included.
        first: The first pairs by index, whatever they show.
        decided: Id of the row that says what came of it; the test's own where no such row is.
        stopped: Why it ended undecided, where it did.
    """

    view: TestView
    hypothesis_id: str
    k: int
    sha256: str
    trials: tuple[int, ...]
    drawn: int
    first: tuple[Pair, ...]
    decided: int
    stopped: Note | None

    @property
    def seq(self) -> int:
        """Return the id of the test's own row."""
        return self.view.seq

    @property
    def terms(self) -> dict[str, Any]:
        """Return the terms as registered."""
        return self.view.terms

    @property
    def n(self) -> int:
        """Return the number of pairs that count."""
        return self.view.outcome.n

    @property
    def hits(self) -> tuple[int, int]:
        """Return in how many of these pairs each side showed the effect: treated, control."""
        outcome = self.view.outcome
        return round(outcome.rate_treated * outcome.n), round(outcome.rate_control * outcome.n)

    @property
    def of(self) -> str:
        """Return what shows the effect: a `reply`, the `prompt` that a file makes, or a reply under the subject's `files`."""
        if not self.terms["decoding"].get("max_new_tokens"):
            return "prompt"
        return "files" if self.terms["channels"][0] == OWN_FILES else "reply"

    @property
    def shows(self) -> str:
        """Return in words what shows it."""
        return older.predicate_clause(self.terms["predicate"])

    @property
    def needed(self) -> float:
        """Return the e-value at which the test passes."""
        return 1 / float(self.terms["alpha"])


@dataclass(frozen=True)
class Example:
    """Something that a reading rests on: our words for it, and lines of data."""

    seq: int
    caption: str
    text: str


@dataclass(frozen=True)
class ReadingRecord:
    """One value an instrument returned, beside its controls."""

    seq: int
    tool: str
    name: str
    channel: str
    value: float | None
    controls: tuple[tuple[str, float], ...]
    lift: float | None
    said: str | None
    examples: tuple[Example, ...]


@dataclass(frozen=True)
class HypothesisRecord:
    """A claim that was registered, and its tests in the order of registration."""

    seq: int
    hypothesis_id: str
    claim: ClaimText
    status: Status
    tests: tuple[TestRecord, ...]


@dataclass(frozen=True)
class GivenRecord:
    """A sentence that the user gave; `why` says why it became no hypothesis, where it did not."""

    seq: int
    text: str
    claim: ClaimText | None
    by: str
    hypothesis: HypothesisRecord | None
    why: Note | None


@dataclass(frozen=True)
class FindingRecord:
    """A finding with all that it rests on.

    `rests_on` are the findings of this grade that its confidence comes from; `others` are ids of readings not shown.
    """

    seq: int
    finding_id: str
    hypothesis: HypothesisRecord
    grade: str
    e_value: float
    confidence: float | None
    rests_on: Right | None
    readings: tuple[ReadingRecord, ...]
    others: tuple[int, ...]
