"""Canonical JSON, and the chain of hashes that ties each row of an audit to the one before it.

The hash of a row is the SHA-256 of the canonical JSON of `{"table": ..., every column but hash}`, with the columns
as SQLite stores them (a JSON column is its text). As `prev` is among those columns, changing, inserting or removing
a row breaks the chain there, or at the row after it. What the chain alone can't show is a missing tail: for
that, compare the head with one written down elsewhere, such as in the report.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from auditor.errors import LedgerError

GENESIS = "0" * 64
"""What stands in `prev` of an audit's first row."""

MAX_DEPTH = 100
"""How many lists and objects may sit inside one another, far below what any JSON reader gives up at."""


@dataclass(frozen=True)
class Verification:
    """What re-deriving an audit's chain showed.

    Attributes:
        ok: The chain holds and, if a head was given, ends in it.
        rows: Rows of this audit that are in the file.
        head: Hash of the last row, as stored.
        broken_at: First `seq` that is missing or whose row doesn't fit. With a sound chain and another head given:
            the first row which that head doesn't cover, so `rows + 1` when a tail was cut. None when `ok`.
    """

    ok: bool
    rows: int
    head: str
    broken_at: int | None


def canonical(value: object, where: str) -> str:
    """The one JSON text of `value`: sorted keys, no spaces, ASCII only.

    Equal values give equal text, and `json.loads` gives the value back, with tuples as lists.

    >>> canonical({"b": (1, 2.5), "a": None}, "here")
    '{"a":null,"b":[1,2.5]}'

    Args:
        value: None, bool, int, finite float, str, and lists, tuples or dicts with text keys of those.
        where: What to call the value in an error, e.g. `tool_calls.result`.

    Raises:
        LedgerError: The value holds NaN, an infinity, or something that JSON can't give back as it was.
    """
    _refuse_what_json_loses(value, where, MAX_DEPTH)
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except ValueError as exc:  # an int with more digits than Python converts
        raise LedgerError(f"{where} can't be written as JSON: {exc}; pass such a number as text") from exc


def finite(value: float, where: str) -> float:
    """`value` itself, once it is known to be a number.

    Args:
        value: Any float.
        where: What to call it in an error.

    Raises:
        LedgerError: It is NaN or infinite.
    """
    if not math.isfinite(value):
        raise LedgerError(
            f"{where} is {value}: the ledger takes finite numbers only; pass None where a value is undefined"
        )
    return value


def row_hash(table: str, row: Mapping[str, object]) -> str:
    """SHA-256, in hex, of the canonical JSON of `{"table": table, every column of row but hash}`.

    Args:
        table: Name of the row's table.
        row: Its columns as stored; whether `hash` is among them makes no difference.
    """
    covered = {"table": table} | {column: value for column, value in row.items() if column != "hash"}
    return hashlib.sha256(canonical(covered, table).encode("ascii")).hexdigest()


def whole_hash(text: str) -> str:
    """A hash as rows have it, from what somebody typed or pasted.

    Args:
        text: 64 hexadecimal digits, in either case, with blanks around them or not.

    Raises:
        LedgerError: It is anything else, such as half of one: that says nothing of the ledger.
    """
    told = text.strip().lower()
    if len(told) != 64 or set(told) - set("0123456789abcdef"):
        raise LedgerError(
            f"{text[:80]!r} is not a whole hash: a head has 64 hexadecimal digits, this has {len(told)} characters; "
            "a report prints the whole of it"
        )
    return told


def follow(rows: Iterable[tuple[str, Mapping[str, object]]], head: str | None) -> Verification:
    """Walk an audit's rows and say whether each follows from the one before.

    Args:
        rows: (table, columns as stored) of one audit over all tables, by rising `seq`.
        head: A hash noted earlier that must be the last row's, or None.
    """
    count, prev, broken_at, covered = 0, GENESIS, None, None
    for table, row in rows:
        count += 1
        seq = row["seq"]
        assert isinstance(seq, int), "seq is the key of a STRICT table's integer column"
        if broken_at is None and seq != count:
            broken_at = min(seq, count)
        elif broken_at is None and not (row["prev"] == prev and _hash_fits(table, row)):
            broken_at = seq
        prev = str(row["hash"])
        if prev == head:
            covered = seq
    if broken_at is None and head is not None and head != prev:
        broken_at = (count if covered is None else covered) + 1
    return Verification(ok=broken_at is None, rows=count, head=prev, broken_at=broken_at)


def _hash_fits(table: str, row: Mapping[str, object]) -> bool:
    """Whether the stored hash is the row's own; a row with what the ledger never writes (an infinity) has none."""
    try:
        return row["hash"] == row_hash(table, row)
    except LedgerError:
        return False


def _refuse_what_json_loses(value: object, where: str, depth: int) -> None:
    """Nothing, for a value that comes back from JSON as it went in.

    Raises:
        LedgerError: It wouldn't; the message names the place in it.
    """
    if value is None or isinstance(value, str | int):
        return
    if isinstance(value, float):
        finite(value, where)
    elif not isinstance(value, dict | list | tuple):
        raise LedgerError(
            f"{where} is of type {type(value).__name__}, which JSON has no word for; "
            "pass None, bool, int, float, str, list or dict"
        )
    elif depth == 0:
        raise LedgerError(
            f"{where} is nested more than {MAX_DEPTH} levels deep, or holds itself; pass something flatter"
        )
    elif isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise LedgerError(f"{where} has the key {key!r}, which would come back as text; pass keys of type str")
            _refuse_what_json_loses(inner, f"{where}.{key}", depth - 1)
    else:
        for index, inner in enumerate(value):
            _refuse_what_json_loses(inner, f"{where}[{index}]", depth - 1)
