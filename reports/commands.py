"""The command lines a report prints: to check it, to look a row up, to audit the same subject again."""

from __future__ import annotations

import shlex
from typing import Any

from auditor.config import AuditSpec

DEFAULT_DB = "auditor.db"
Row = dict[str, Any]


def verify(audit_id: str, head: str, db: str) -> str:
    """Return the command that checks the rows against the head."""
    return shlex.join(["auditor", "verify", audit_id, "--head", head, *_db(db)])


def resume(audit_id: str, db: str) -> str:
    """Return the command that continues the audit."""
    return shlex.join(["auditor", "resume", audit_id, *_db(db)])


def audit(spec: AuditSpec) -> str:
    """Return a command that audits the subject as the specification says, but for its prompts, catalogue and transcripts."""
    options = {
        "--subject": spec.subject,
        "--adapter": spec.adapter,
        "--base": spec.base,
        "--revision": spec.revision,
        "--oracle": spec.oracle.path if spec.oracle else None,
        "--question": spec.oracle.question if spec.oracle else None,
        "--check": spec.oracle.check if spec.oracle else None,
        "--lora-oracle": spec.lora_oracle,
        "--device": None if spec.device == "cpu" else spec.device,
        "--dtype": None if spec.dtype == "auto" else spec.dtype,
        "--seed": str(spec.seed),
        "--budget": str(spec.budget),
        "--thinking": spec.thinking,
        **{
            f"--{name.replace('_', '-')}": _changed(spec, name)
            for name in ("max_new_tokens", "temperature", "max_trials")
        },
        "--planner": spec.planner,
        "--model": spec.model,
        "--tools": ",".join(spec.tools),
    }
    given = [(name, value) for name, value in options.items() if value is not None]
    given += [("--hypothesis", text) for text in spec.hypotheses]
    return shlex.join(["auditor", "audit", *(word for option in given for word in option)])


def _changed(spec: AuditSpec, name: str) -> str | None:
    """Return a value that is not the one an audit has by itself; None where it is."""
    value = getattr(spec, name)
    return None if value == AuditSpec.model_fields[name].default else str(value)


def lookup(audit_id: str, row: Row, db: str) -> str:
    """Return the command that prints one row."""
    where = audit_id.replace("'", "''")
    query = f"select * from {row['table']} where audit_id='{where}' and seq={row['seq']}"
    if audit_id.isalnum():
        return f'sqlite3 {shlex.quote(db)} "{query}"'
    return shlex.join(["sqlite3", db, query])


def _db(name: str) -> list[str]:
    return [] if name == DEFAULT_DB else ["--db", name]
