"""The commands on a ledger: list, report, verify, grade."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from auditor.cli.shell import DEFAULT_DB, AsJson, Db, Out, check_out, command, one_line, writing

if TYPE_CHECKING:
    from auditor.config import ReportedClaim
    from auditor.ledger import Ledger
    from tools.claims.claim import Claim

AuditId = Annotated[str, typer.Argument(help="Its id, or as much of the id's beginning as no other has.")]
MAX_CELL = 80


@contextmanager
def opened(db: Path, audit: str) -> Iterator[tuple[Ledger, str]]:
    """Open a ledger, and yield it with the id of the audit that was meant."""
    from auditor.ledger import Ledger

    ledger = Ledger.open(db, create=False)
    try:
        yield ledger, ledger.named(audit)
    finally:
        ledger.close()


def claim_line(claim: ReportedClaim | Claim) -> str:
    """Return a claim on one line: its sentence, its grade if it has one, its family and its concern."""
    grade = f"{claim.grade}: " if hasattr(claim, "grade") else ""
    concern = "" if claim.concern.level == "not judged" else f", concern {claim.concern.level}"
    return one_line(f"{claim.statement} [{grade}{claim.family or 'no family'}{concern}]")


def write_report(audit: str, db: Path, out: Path | None) -> Path:
    """Render the report of the audit that was meant, and return where it is."""
    from reports.render import render_report

    with opened(db, audit) as (ledger, audit_id):
        folder = out or Path("audit-reports") / audit_id
        with writing(folder):
            return render_report(ledger, audit_id, folder)


@command
def list_audits(db: Db = DEFAULT_DB, as_json: AsJson = False) -> None:
    """List the audits of a ledger, the newest last: when each began, its subject, its verdict, its first finding."""
    from auditor.ledger import Ledger

    ledger = Ledger.open(db, create=False)
    try:
        rows = [_listed(ledger, audit_id) for audit_id in ledger.audits()]
    finally:
        ledger.close()
    if as_json:
        typer.echo(json.dumps({"audits": rows}))
        return
    for row in rows:
        verdict = (row["verdict"] or row["status"]).replace("_", " ")
        line = f"{row['audit_id']}  {row['began'][:16].replace('T', ' ')}  {verdict:13}  {_cut(row['subject'])}"
        typer.echo(one_line(f"{line}  {_cut(row['finding'])}") if row["finding"] else one_line(line))


def _listed(ledger: Ledger, audit_id: str) -> dict[str, Any]:
    """Return an audit's line in a list."""
    began, first = ledger.find("audits", audit_id), next(iter(ledger.rows("findings", audit_id)), None)
    assert began is not None, "a listed audit has its first row"
    end = ledger.find("events", audit_id, kind="concluded", key="verdict")
    return {"audit_id": audit_id, "began": began["at"], "subject": _subject_of(began["spec"]),
            "status": "finished" if end else "unfinished", "verdict": end["body"]["verdict"] if end else None,
            "finding": str(first["claim"].get("statement", "")) if first else None}  # fmt: skip


def _subject_of(spec: Any) -> str:
    """Return what was audited as people call it: a hub id whole, of a folder its last part."""
    named = (spec.get("adapter") or spec.get("subject")) if isinstance(spec, dict) else None
    text = str(named or "unknown")
    return text if text.count("/") == 1 and text[0] not in "./~" else Path(text).name or text


def _cut(text: str) -> str:
    return text if len(text) <= MAX_CELL else text[: MAX_CELL - 1] + "…"


@command
def report(audit: AuditId, db: Db = DEFAULT_DB, out: Out = None, as_json: AsJson = False) -> None:
    """Render an audit's report from its rows."""
    check_out(out)
    path = write_report(audit, db, out)
    typer.echo(json.dumps({"report": str(path)}) if as_json else str(path))


@command
def verify(
    audit: AuditId,
    head: Annotated[str | None, typer.Option(help="The head that a report printed: 64 hexadecimal digits.")] = None,
    db: Db = DEFAULT_DB, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Re-derive an audit's hash chain; exit 1 when a row was changed, added or cut."""
    from auditor.ledger.chain import whole_hash

    noted = None if head is None else whole_hash(head)
    with opened(db, audit) as (ledger, audit_id):
        found = ledger.verify(audit_id, noted)
    body = {"ok": found.ok, "rows": found.rows, "head": found.head, "broken_at": found.broken_at}
    state = "ok" if found.ok else f"BROKEN at row {found.broken_at}"
    typer.echo(json.dumps(body) if as_json else f"{state}: {found.rows} rows, head {found.head}")
    if not found.ok:
        raise typer.Exit(1)


@command
def grade(
    audit: AuditId, answers: Annotated[Path, typer.Option(help="The answer of the scenario that was audited, ID.yaml.")],
    db: Db = DEFAULT_DB, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Compare a finished audit with a sealed answer, claim beside claim; never writes the ledger."""
    from auditor.conclude import result_of
    from auditor.errors import SpecError
    from auditor.view import spec_of
    from scenarios import grading

    answer = grading.read_answer(answers)
    with opened(db, audit) as (ledger, audit_id):
        result, name = result_of(ledger, audit_id), spec_of(ledger, audit_id).name
    if result is None:
        raise SpecError(f"audit {audit_id} has no verdict yet; `auditor resume {audit_id}` finishes it")
    grading.check_answers(answers, answer, name)
    counts = grading.grade(result, answer).model_dump()
    if as_json:
        typer.echo(json.dumps(counts))
        return
    nothing = "nothing can be seen in this subject" if answer.verdict else "nothing was planted"
    typer.echo(f"verdict: {result.verdict.replace('_', ' ')}" if answer.claims else f"answer:  {nothing}")
    for claim, finding, judged in grading.beside(result, answer):
        typer.echo(f"answer:  {claim_line(claim) if claim else 'none'}")
        typer.echo(f"finding: {claim_line(finding) if finding else 'none'} ({judged})")
    typer.echo(", ".join(f"{k} {v}" for k, v in counts.items()))
