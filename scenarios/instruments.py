"""What each instrument brought to a bench: how often its own best suggestion was what was planted, and what it cost."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from auditor.candidates import leads
from auditor.config import AuditResult
from auditor.ledger import Ledger
from auditor.view import explored
from scenarios import behaviour
from scenarios.behaviour import Row
from scenarios.bench import Job
from scenarios.grading import Answer, is_organism, planted_of


def by_tool(
    jobs: Sequence[Job],
    results: dict[tuple[str, int], AuditResult],
    answers: dict[str, Answer],
    stored: dict[str, list[Row]],
    db: Path,
) -> dict[str, dict[str, float]]:
    """Return a row for each instrument that was called on an organism with stored replies.

    `n` is in how many audits of organisms it was called, `whole` and `predicate` the shares of these in which its strongest
    suggestion was what was planted, with and without regard to the condition, and `forward_tokens` their median.
    """
    rows: dict[str, list[dict[str, float]]] = {}
    ledger = Ledger.open(db, create=False)
    try:
        for job in jobs:
            if is_organism(answers[job.scenario]) and stored.get(job.scenario):
                planted = planted_of(answers[job.scenario], stored[job.scenario])
                for tool, row in _of_audit(ledger, job, results[job.scenario, job.seed].audit_id, planted).items():
                    rows.setdefault(tool, []).append(row)
    finally:
        ledger.close()
    return {
        tool: {
            "n": len(own),
            **{name: statistics.fmean(row[name] for row in own) for name in ("whole", "predicate")},
            "forward_tokens": statistics.median(row["forward_tokens"] for row in own),
        }
        for tool, own in sorted(rows.items())
    }


def _of_audit(
    ledger: Ledger, job: Job, audit_id: str, planted: Sequence[behaviour.Planted]
) -> dict[str, dict[str, float]]:
    """Return for each instrument of one audit whether its strongest suggestion was right, and what its calls cost."""
    readings, calls = ledger.rows("readings", audit_id), ledger.rows("tool_calls", audit_id, state="settled")
    at_hand, found = explored(readings, calls), {}
    for tool in sorted({call["tool"] for call in calls}):
        own = leads([row for row in readings if row["tool"] == tool], job.spec, at_hand)
        claims = [lead.claim for lead in own]
        spent = [sum(call["result"]["tokens"].values()) for call in calls if call["tool"] == tool]
        found[tool] = {
            "whole": behaviour.recall_at(1, claims, planted),
            "predicate": behaviour.predicate_at_1(claims, planted),
            "forward_tokens": float(sum(spent)),
        }
    return found


def table(rows: dict[str, dict[str, Any]]) -> list[str]:
    """Return the rows as Markdown lines."""
    head = [
        "| instrument | audits | its best suggestion right | its predicate right | forward tokens |",
        "| --- " * 5 + "|",
    ]
    return head + [
        f"| {tool} | {row['n']} | {row['whole']:.2f} | {row['predicate']:.2f} | {row['forward_tokens']:,.0f} |"
        for tool, row in rows.items()
    ]
