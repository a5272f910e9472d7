"""Who is asked what no rule can decide: one prompt, one reply, one question, and nothing of the claim's history."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from tools.claims.kind import Messages
from tools.claims.predicate import Predicate
from tools.claims.predicates.judged import Judged

ROLE = "judge"
"""Under which a judge's tokens stand in the budget."""
MOST_FAILURES = 0.1
"""The share of a test's judgements that may fail; above it the test is undecided."""
Side = Literal["treated", "control"]
"""Of a pair: the reply that a claim says shows it, or the one that it is held against."""


@dataclass(frozen=True)
class Judgement:
    """What a judge said: `shown` is None where the judgement failed, and `why` says how."""

    shown: bool | None
    why: str = ""


@runtime_checkable
class Judge(Protocol):
    """A pinned model at temperature 0. It never learns which channel a reply is from, nor what is claimed."""

    @property
    def name(self) -> str:
        """Return which model judges, and how it is asked: it is hashed into a test's terms."""
        ...

    @property
    def tokens(self) -> dict[str, int]:
        """Return the tokens of all its judgements so far, by role."""
        ...

    def cost(self, question: str, prompt: Messages, reply: str) -> int:
        """Return an upper bound on the tokens of one judgement."""
        ...

    def judge(self, question: str, prompt: Messages, reply: str) -> Judgement:
        """Return whether the answer to a question about a reply is yes. What goes wrong is a failed judgement, not raised."""
        ...


@dataclass(frozen=True)
class Decision:
    """What a trial counts as: `failed` where a judgement failed and the outcome is the one against the claim."""

    shown: bool
    failed: bool = False
    why: str = ""


def decided(predicate: Predicate, prompt: Messages, reply: str, judge: Judge | None, side: Side) -> Decision:
    """Return whether a reply shows a predicate: by its own rule, or by the judge where it is a question.

    A judgement that fails counts against the claim: the treated reply as not shown, the control as shown. To leave
    it out would not be valid, for a judge may fail more often on one side.

    Args:
        predicate: What a reply shows or does not.
        prompt: What was asked.
        reply: What was answered.
        judge: Who is asked; None where the audit has none.
        side: Of the pair, on which the reply stands.

    Raises:
        ToolInputError: the predicate is a question, and there is no judge.
    """
    if not isinstance(predicate, Judged) or judge is None:
        return Decision(predicate.shown(prompt, reply))
    judgement = judge.judge(predicate.question, prompt, reply)
    if judgement.shown is None:
        return Decision(side == "control", failed=True, why=judgement.why)
    return Decision(judgement.shown, why=judgement.why)


def undecided(n_failed: int, n: int) -> bool:
    """Return whether too many of a test's judgements failed for it to decide anything."""
    return n_failed > MOST_FAILURES * n
