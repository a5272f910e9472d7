"""The tables of the ledger and the migrations that make them.

A shipped table never changes: a row's hash covers all of its columns, so a later version adds tables, by a migration
of its own that also renews the triggers looking across tables, and no columns. The file itself refuses every UPDATE
and DELETE, and every INSERT that doesn't continue its audit's chain or that would replace a row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

from auditor.ledger.chain import GENESIS

SCHEMA_VERSION = 1
"""Kept in the file as PRAGMA user_version."""

APPLICATION_ID = 0x41554454
"""Kept in the file as PRAGMA application_id ("AUDT"): what tells a ledger from any other SQLite file."""


@dataclass(frozen=True)
class Table:
    """One table, but for the columns that all have in common.

    Attributes:
        columns: As in SQL, with JSON as one more type; empty only where it says NULL.
        unique: Columns that name one row at most,
        unique_where: among the rows for which this holds (a column and what it must be), or among all.
        parent: The table whose `unique` columns this one's columns of the same names refer to.
        check: What must hold of every row.
    """

    columns: str
    unique: tuple[str, ...] = ()
    unique_where: str | None = None
    parent: str | None = "audits"
    check: str | None = None


TABLES = {
    "audits": Table("spec JSON, spec_sha256 TEXT, versions JSON", unique=("audit_id",), parent=None, check="seq = 1"),
    "subjects": Table(
        "role TEXT, path TEXT, files JSON, weights_sha256 TEXT, tokenizer_sha256 TEXT, template_sha256 TEXT, "
        "checks JSON"
    ),
    "tool_calls": Table(
        "key TEXT, state TEXT, step INTEGER, tool TEXT, arguments JSON, seed INTEGER, weights_sha256 TEXT, "
        "result JSON NULL, error TEXT NULL",
        unique=("audit_id", "key"),
        unique_where="state = 'settled'",
        check="state IN ('started', 'settled', 'failed')",
    ),
    "readings": Table(
        "call_key TEXT, tool TEXT, name TEXT, channel TEXT, value REAL NULL, controls JSON, lift REAL NULL, "
        "suggestion JSON NULL, detail JSON NULL"
    ),
    "hypotheses": Table("hypothesis_id TEXT, claim JSON, readings JSON", unique=("audit_id", "hypothesis_id")),
    "tests": Table(
        "test_id TEXT, hypothesis_id TEXT, k INTEGER, grade TEXT, terms JSON, terms_sha256 TEXT",
        unique=("audit_id", "test_id"),
        parent="hypotheses",
    ),
    "trials": Table(
        "test_id TEXT, idx INTEGER, channel TEXT, seed INTEGER, prompt JSON, reply TEXT, outcome INTEGER",
        unique=("audit_id", "test_id", "idx", "channel"),
        parent="tests",
        check="outcome IN (0, 1)",
    ),
    "findings": Table(
        "finding_id TEXT, hypothesis_id TEXT, claim JSON, grade TEXT, e_value REAL, tests JSON, confidence REAL NULL",
        unique=("audit_id", "finding_id"),
        parent="hypotheses",
    ),
    "budget": Table(
        "key TEXT, state TEXT, tokens JSON, seconds REAL",
        unique=("audit_id", "key"),
        unique_where="state = 'settled'",
        check="state IN ('reserved', 'settled')",
    ),
    "events": Table(
        "kind TEXT, key TEXT NULL, body JSON", unique=("audit_id", "kind", "key"), unique_where="key IS NOT NULL"
    ),
}

COMMON = ("audit_id", "seq", "at", "prev", "hash")
"""The columns every table begins with, which the ledger fills in."""

_COMMON_SQL = "audit_id TEXT, seq INTEGER, at TEXT, prev TEXT, hash TEXT, "

COLUMNS: dict[str, dict[str, str]] = {
    name: {
        column: kind
        for column, _, kind in (each.partition(" ") for each in f"{_COMMON_SQL}{table.columns}".split(", "))
    }
    for name, table in TABLES.items()
}
"""Name and kind of all columns of each table, in the order of the file."""

JSON_COLUMNS = {
    name: frozenset(column for column, kind in columns.items() if kind.startswith("JSON"))
    for name, columns in COLUMNS.items()
}
"""Columns given and returned as Python values, stored as canonical JSON."""

migrations = Migrations("auditor_ledger")


@migrations()
def m001_first_tables(db: Database) -> None:
    """Make every table, and the triggers that keep it append-only."""
    for name in TABLES:
        for statement in (*_table_sql(name), *_guard_sql(name)):
            db.execute(statement)


def _table_sql(name: str) -> Iterator[str]:
    """The statements that make one table and its index."""
    table = TABLES[name]
    lines = []
    for column, kind in COLUMNS[name].items():
        sql = f'"{column}" {kind.split()[0].replace("JSON", "TEXT")}'
        sql += "" if kind.endswith(" NULL") else " NOT NULL"
        valid = f' CHECK ("{column}" IS NULL OR json_valid("{column}"))'
        lines.append(sql + (valid if column in JSON_COLUMNS[name] else ""))
    lines.append("PRIMARY KEY (audit_id, seq)")
    for parent in dict.fromkeys(("audits", table.parent) if table.parent else ()):
        referred = ", ".join(TABLES[str(parent)].unique)
        lines.append(f"FOREIGN KEY ({referred}) REFERENCES {parent} ({referred})")
    if table.check:
        lines.append(f"CHECK ({table.check})")
    body = ",\n  ".join(lines)
    yield f"CREATE TABLE {name} (\n  {body}\n) STRICT"
    if table.unique:
        where = f" WHERE {table.unique_where}" if table.unique_where else ""
        yield f"CREATE UNIQUE INDEX {name}_one_each ON {name} ({', '.join(table.unique)}){where}"


def _guard_sql(name: str) -> Iterator[str]:
    """The triggers of one table. Those on INSERT exist as REPLACE deletes rows without firing a DELETE trigger."""
    table = TABLES[name]
    refusal = f"BEGIN SELECT RAISE(ABORT, '{name} is append-only: %s'); END"
    for verb in ("UPDATE", "DELETE"):
        said = refusal % f"{verb} is refused"
        yield f"CREATE TRIGGER {name}_no_{verb.lower()} BEFORE {verb} ON {name} {said}"
    mine = "FROM {} WHERE audit_id = NEW.audit_id"
    last_seq = ", ".join(f"ifnull((SELECT max(seq) {mine.format(each)}), 0)" for each in TABLES)
    last_hash = ", ".join(f"(SELECT hash {mine.format(each)} AND seq = NEW.seq - 1)" for each in TABLES)
    follows = f"1 + max({last_seq}), coalesce({last_hash}, '{GENESIS}')"
    said = refusal % "a row must continue the chain of its audit"
    yield f"CREATE TRIGGER {name}_continue BEFORE INSERT ON {name} WHEN (NEW.seq, NEW.prev) IS NOT ({follows}) {said}"
    if table.unique:
        same = " AND ".join(f"{column} = NEW.{column}" for column in table.unique)
        when = f"EXISTS (SELECT 1 FROM {name} WHERE {same}"
        when += f" AND {table.unique_where}) AND NEW.{table.unique_where}" if table.unique_where else ")"
        among = " where " + table.unique_where.replace("'", "") if table.unique_where else ""
        said = refusal % f"there is a row with this {', '.join(table.unique)}{among}"
        yield f"CREATE TRIGGER {name}_no_second BEFORE INSERT ON {name} WHEN {when} {said}"
