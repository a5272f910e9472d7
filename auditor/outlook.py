"""Where an audit stands: what it has spent, and roughly what is to come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from auditor.execute import Desk
from auditor.foresight import SurveyCall
from auditor.view import REQUIRED_LEADS

PAIRS_OF_A_TEST = 24


@dataclass(frozen=True)
class Outlook:
    """Forward tokens spent and allowed, and an estimate of those to come; `rate` is tokens a second so far."""

    audit_id: str
    spent: int
    budget: int
    to_come: int
    rate: float | None

    @property
    def seconds_left(self) -> float | None:
        """Return an estimate of the seconds to come; None before anything was measured."""
        return None if not self.rate else self.to_come / self.rate


def outlook(desk: Desk, calls: Sequence[SurveyCall] = ()) -> Outlook:
    """Return where the audit stands.

    What is to come is a guess: the looks of the survey not made yet, as much again for closer looks
    while the survey goes on, and a short test for each lead that has to be tested.
    """
    rows = desk.ledger.rows("budget", desk.audit_id, state="settled")
    seconds, settled = sum(row["seconds"] for row in rows), sum(sum(row["tokens"].values()) for row in rows)
    view, surveying = desk.view(), sum(min(one.price, one.allowed) for one in calls)
    untested = len(view.untested_best()) if view.survey_done else REQUIRED_LEADS
    row = desk.spec.prompts[0].messages[-1]["content"]
    pair = 2 * (len(desk.subject.tokenizer.encode(row)) + desk.subject.longest(desk.spec.max_new_tokens) + 8)
    to_come = min(view.budget_left, 2 * surveying + untested * PAIRS_OF_A_TEST * pair)
    return Outlook(desk.audit_id, view.spent, view.spec.budget, to_come, settled / seconds if seconds > 1 else None)
