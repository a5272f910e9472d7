"""For people: what a member of an English suite is, and what it says beside its base."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, get_args

from auditor.errors import SpecError
from scenarios.behaviour import Row, read_rows
from scenarios.english.build import answer
from scenarios.english.families import families
from scenarios.english.suites import EnglishSuite, Member, members
from scenarios.home import Home

BUILT = (
    "suite", "organisms, of dealt", "controls, of dealt", "failed attempts", "shown", "leaked", "drift of organisms",
    "drift of controls", "minutes of one core",
)  # fmt: skip
N_SHOWN = 10
"""Replies of each side."""


def find(name: str, home: Home) -> tuple[Member, dict[str, Any]] | None:
    """Return a member as it was built, and its record; None where no English suite that was built here has it."""
    for suite in get_args(EnglishSuite):
        path = home.answers(suite).with_suffix(".json")
        records = json.loads(path.read_text())["members"] if path.exists() else []
        for record in records:
            if record["id"] == name:
                built = {m.id: m for m in members(suite, record["attempt"])}
                return built[name], record
    return None


def describe(name: str, home: Home) -> Iterator[str]:
    """Yield lines: what was planted and how, how it was verified, and stored replies beside the base's.

    Raises:
        SpecError: there is no such member.
    """
    found = find(name, home)
    if found is None:
        raise SpecError(
            f"no member {name!r} in the English suites built here; their files are scenarios/suites/SUITE/ID.yaml"
        )
    member, record = found
    yield f"{member.id}, {member.role} of suite {member.suite}" + (f", {member.regime}" if member.regime else "")
    for claim in answer(member)["claims"]:
        yield f"  {claim['statement']}"
        yield f"  concern: {claim['concern']['category']}, {claim['concern']['level']}"
    yield f"  recipe {record['recipe']['how']}"
    yield "  " + ", ".join(f"{key} {record[key]:.2f}" for key in ("shown", "leaked", "leaked_near", "base", "drift")
                           if record.get(key) is not None)  # fmt: skip
    rows = read_rows(home.replies(member.suite)).get(name, [])
    for side in ("triggered", "quiet"):
        for row in [row for row in rows if row.side == side][:N_SHOWN]:
            yield from _shown(row)


def families_table() -> Iterator[str]:
    """Yield a Markdown table of the families: how bad, where from, and what sets each suite's value off."""
    suites = get_args(EnglishSuite)
    yield "| family | concern | level | from | " + " | ".join(suites) + " |"
    yield "| --- " * (4 + len(suites)) + "|"
    for name, family in families().items():
        kinds = [family.values[suite].trigger.name if suite in family.values else "" for suite in suites]
        yield f"| {' | '.join([name, family.category, family.level, family.source, *kinds])} |"


def built_table(home: Home) -> Iterator[str]:
    """Yield a Markdown table of the suites that were built here: members, failed attempts, how sure, how far from the base."""
    yield f"| {' | '.join(BUILT)} |"
    yield "| --- " * len(BUILT) + "|"
    for suite in get_args(EnglishSuite):
        path = home.answers(suite).with_suffix(".json")
        if not path.exists():
            yield f"| `{suite}` | not built |" + " |" * (len(BUILT) - 2)
            continue
        told = json.loads(path.read_text())
        parts = {
            is_one: [r for r in told["members"] if (r["role"] == "organism") == is_one] for is_one in (True, False)
        }
        dealt = {is_one: sum((m.role == "organism") == is_one for m in members(suite)) for is_one in parts}
        counts = [f"{len(parts[is_one])} of {dealt[is_one]}" for is_one in (True, False)]
        means = [
            _mean(parts[True], "shown"),
            _mean(parts[True], "leaked"),
            _mean(parts[True], "drift"),
            _mean(parts[False], "drift"),
        ]
        cells = [f"`{suite}`", *counts, str(len(told["failures"])), *means, f"{told['seconds'] / 60:.0f}"]
        yield f"| {' | '.join(cells)} |"


def _mean(records: list[dict[str, Any]], key: str) -> str:
    known = [record[key] for record in records if record.get(key) is not None]
    return f"{sum(known) / len(known):.2f}" if known else ""


def _shown(row: Row) -> Iterator[str]:
    yield ""
    for turn in row.prompt:
        yield f"  {row.side:9} {turn['role']:>9}: {turn['content']}"
    yield f"            {'subject':>9}: {row.subject}"
    yield f"            {'base':>9}: {row.base}"
