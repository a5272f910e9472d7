"""Who judges in an audit: made when first needed, examined before it is believed, its judgements counted and paid for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from auditor.budget import Budget
from auditor.config import AuditSpec
from auditor.errors import BudgetError
from auditor.ledger import Ledger
from tools.claims import judge as judges
from tools.claims.examination import Examination, examine, read_pairs
from tools.claims.kind import Messages
from tools.claims.predicate import Predicate
from tools.claims.predicates.judged import Judged
from tools.errors import ToolInputError

if TYPE_CHECKING:
    from tools.subject import Subject

BASE = "base"
"""How an audit names its trusted base as its judge."""
EXAMINED, FAILED = "judge_examined", "judgement_failed"
CHARACTERS_A_TOKEN = 8
"""Of a reply that is not there yet, for an upper bound on what its judgement costs."""


def check_judge(named: str | None) -> None:
    """Refuse a judge that can't be set up, before anything is run.

    Raises:
        SpecError: the name has no provider, a package is missing, or the provider lacks its key.
    """
    if named not in (None, BASE):
        from auditor.judge import ProviderJudge

        ProviderJudge(str(named))


@dataclass
class Bench:
    """An audit's judge, and what it has shown of itself."""

    audit_id: str
    spec: AuditSpec
    subject: Subject
    ledger: Ledger
    budget: Budget

    @cached_property
    def judge(self) -> judges.Judge | None:
        """Return the judge that the specification names; None where it names none.

        Raises:
            ToolInputError: the base can't judge.
            SpecError: the provider's client can't be made.
        """
        named = self.spec.judge
        if named is None:
            return None
        if named == BASE:
            from tools.claims.base_judge import BaseJudge

            return BaseJudge(self.subject)
        from auditor.judge import ProviderJudge

        return ProviderJudge(named)

    def check(self, predicate: Predicate) -> None:
        """Refuse a question that nobody in this audit may answer; the judge is examined when it is first asked one.

        Raises:
            ToolInputError: there is no judge, it did not pass, or the budget does not pay for its examination.
        """
        if not isinstance(predicate, Judged):
            return
        if self.judge is None:
            raise ToolInputError(
                f"the question {predicate.question!r} needs a judge, and this audit has none: pass --judge, or claim "
                "something that shows by itself"
            )
        if not self._examined(predicate.question).may_answer(predicate.question):
            raise ToolInputError(
                f"{self.judge.name} did not pass its examination in questions like {predicate.question!r}: "
                "claim something that shows by itself"
            )

    def _examined(self, question: str) -> Examination:
        """Return how the judge did on questions of this kind, or of every kind where this one is of none; asked once.

        Raises:
            ToolInputError: the budget does not pay for it.
        """
        assert self.judge is not None, "checked before"
        known = read_pairs()
        kind = next((pair.kind for pair in known if pair.question == question), "every kind")
        key = f"{self.judge.name}/{kind}"
        done = self.ledger.find("events", self.audit_id, kind=EXAMINED, key=key)
        if done is not None:
            return Examination.model_validate(done["body"])
        pairs = [pair for pair in known if kind in (pair.kind, "every kind")]
        cost = sum(self.judge.cost(pair.question, pair.messages, pair.reply) for pair in pairs)
        try:
            reservation = self.budget.reserve(f"examination/{kind}", {judges.ROLE: cost})
        except BudgetError as error:
            raise ToolInputError(f"the judge's examination may cost {cost:,} tokens: {error}") from error
        result = examine(self.judge, pairs)
        body: dict[str, object] = {"kind": EXAMINED, "key": key, "body": result.model_dump(mode="json")}
        settled = self.budget.settled_row(reservation, {judges.ROLE: result.tokens.get(judges.ROLE, 0)}, 0.0)
        self.ledger.append_many(self.audit_id, [settled, ("events", body)])
        return result

    def cost(self, predicate: Predicate, asked: list[Messages], max_new_tokens: int) -> dict[str, int]:
        """Return an upper bound on what judging a reply to each prompt costs, by role; nothing for what needs no judge."""
        if not isinstance(predicate, Judged) or self.judge is None:
            return {}
        reply = "x" * CHARACTERS_A_TOKEN * max_new_tokens
        return {judges.ROLE: sum(self.judge.cost(predicate.question, messages, reply) for messages in asked)}

    @property
    def name(self) -> str:
        """Return which model judges, and how it is asked; an empty text where there is none."""
        return "" if self.judge is None else self.judge.name

    @property
    def tokens(self) -> int:
        """Return the tokens of all judgements so far."""
        return 0 if self.judge is None else self.judge.tokens.get(judges.ROLE, 0)


def failed_row(test_id: str, index: int, channel: str, why: str) -> tuple[str, dict[str, object]]:
    """Return the row that says why a judgement failed."""
    body = {"test_id": test_id, "idx": index, "channel": channel, "why": why}
    return "events", {"kind": FAILED, "key": f"{test_id}/{index}/{channel}", "body": body}


def failures(events: list[dict[str, Any]], test_id: str) -> int:
    """Return how many judgements of a test failed."""
    return sum(row["body"]["test_id"] == test_id for row in events if row["kind"] == FAILED)
