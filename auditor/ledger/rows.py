"""A row as Python gives it and as the file keeps it: checked on the way in, read back, decoded."""

from __future__ import annotations

import heapq
import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from auditor.errors import LedgerError
from auditor.ledger.chain import canonical, finite
from auditor.ledger.schema import COLUMNS, COMMON, JSON_COLUMNS

_FITS = {"TEXT": "a str", "INTEGER": "an int of less than 64 bits", "REAL": "a float, or an int up to 2**53"}

_LAST = " UNION ALL ".join(f"SELECT seq, hash FROM {table} WHERE audit_id = ?1" for table in COLUMNS)
_LAST += " ORDER BY seq DESC LIMIT 1"


def columns_of(name: str) -> dict[str, str]:
    """All columns of a table and their kinds.

    Args:
        name: The table.

    Raises:
        LedgerError: There is no such table.
    """
    if name not in COLUMNS:
        raise LedgerError(f"{name!r} is no table of the ledger: pass one of {', '.join(COLUMNS)}")
    return COLUMNS[name]


def stored(name: str, column: str, value: object) -> str | int | float | None:
    """`value` as the file keeps it in that column.

    Args:
        name: The table.
        column: One of its columns.
        value: A Python value that fits the column's kind; None is left as it is.

    Raises:
        LedgerError: There is no such table or column, or the value doesn't fit it.
    """
    columns, where = columns_of(name), f"{name}.{column}"
    if column not in columns:
        raise LedgerError(f"{name} has no column {column!r}: it has {', '.join(columns)}")
    kind = columns[column].split()[0]
    if value is None:
        return None
    if kind == "JSON":
        return canonical(value, where)
    if kind == "TEXT" and isinstance(value, str):
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as exc:
            raise LedgerError(f"{where} holds half a surrogate pair: {exc}; pass text that UTF-8 can write") from exc
        return str(value)
    if kind == "INTEGER" and isinstance(value, int) and abs(value) < 2**63:
        return int(value)
    if kind == "REAL" and isinstance(value, int) and not isinstance(value, bool) and abs(value) <= 2**53:
        return float(value)
    if kind == "REAL" and isinstance(value, float):
        return finite(float(value), where) + 0.0  # SQLite has no -0.0
    raise LedgerError(f"{where} can't take this value of type {type(value).__name__}: pass {_FITS[kind]}")


def encode(name: str, values: Mapping[str, object]) -> dict[str, str | int | float | None]:
    """A table's own columns as the file keeps them, all of them, in its order.

    Args:
        name: The table.
        values: Column to Python value; those that may be empty can be left out.

    Raises:
        LedgerError: A table or column doesn't exist, is missing or doesn't fit.
    """
    own = {column: kind for column, kind in columns_of(name).items() if column not in COMMON}
    if unknown := [column for column in values if column not in own]:
        raise LedgerError(
            f"{name} takes no column {', '.join(unknown)}: pass {', '.join(own)} ({', '.join(COMMON)} are filled in)"
        )
    needed = [column for column, kind in own.items() if not kind.endswith(" NULL")]
    if missing := [column for column in needed if values.get(column) is None]:
        raise LedgerError(f"{name} needs a value for {', '.join(missing)}: none of {', '.join(needed)} may be empty")
    return {column: stored(name, column, values.get(column)) for column in own}


def decode(name: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """A stored row with its JSON columns as Python values.

    Args:
        name: The table.
        row: All columns, as stored.

    Raises:
        LedgerError: A JSON column holds something else, so the file was changed from outside.
    """
    try:
        return {
            column: json.loads(value) if column in JSON_COLUMNS[name] and value is not None else value
            for column, value in row.items()
        }
    except ValueError as exc:
        where = f"row {row['seq']} of audit {row['audit_id']!r}, in {name},"
        raise LedgerError(f"{where} holds what is not JSON ({exc}); `auditor verify` says what was changed") from exc


def last_link(conn: sqlite3.Connection, audit_id: str) -> tuple[int, str] | None:
    """`seq` and `hash` of an audit's last row over all tables, or None where there is no such audit.

    Args:
        conn: A connection to the ledger.
        audit_id: The audit.
    """
    found: tuple[int, str] | None = conn.execute(_LAST, [audit_id]).fetchone()
    return found


def links(conn: sqlite3.Connection, audit_id: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(table, columns as stored) of an audit's rows over all tables, by `seq`.

    Args:
        conn: A connection to the ledger, inside a transaction if others may be writing.
        audit_id: The audit.
    """

    def of(table: str) -> Iterator[tuple[str, dict[str, Any]]]:
        return ((table, row) for row in select(conn, table, "audit_id = ? ORDER BY seq", [audit_id]))

    return heapq.merge(*map(of, COLUMNS), key=lambda link: link[1]["seq"])


def select(conn: sqlite3.Connection, table: str, where: str, values: Sequence[object]) -> Iterator[dict[str, Any]]:
    """The rows of one table for which `where` holds, as stored.

    Args:
        conn: A connection to the ledger.
        table: The table.
        where: SQL with a `?` for each value.
        values: What stands for the question marks.
    """
    columns = columns_of(table)
    names = ", ".join(f'"{column}"' for column in columns)
    for row in conn.execute(f"SELECT {names} FROM {table} WHERE {where}", values):
        yield dict(zip(columns, row, strict=True))
