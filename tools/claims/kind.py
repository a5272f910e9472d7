"""What every kind of condition and predicate has: a name, terms that bring it back, and one line in a registry."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from pydantic import BaseModel, ConfigDict

Message = dict[str, str]
Messages = list[Message]
Terms = dict[str, Any]
MOST_TOLD = 8


class Kind(BaseModel):
    """One thing that can be said of prompts or replies. `kind` is its name in the registry."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str

    @classmethod
    def of_clause(cls, clause: str) -> Kind | None:
        """Return the one whose `clause()` a clause is, or that it says in like words; None for any other. By default none is read."""
        return None

    @classmethod
    def in_brief(cls) -> str:
        """Return its name and fields, as somebody who writes terms needs them; a question mark stands behind a default."""
        fields = [f"{name}{'' if f.is_required() else '?'}" for name, f in cls.model_fields.items() if name != "kind"]
        return f"{cls.model_fields['kind'].default}({', '.join(fields)})"

    def told(self) -> Terms:
        """Return the terms without what is as by default, and without long lists: for people and planners to read."""
        fields = type(self).model_fields
        short = {
            name: getattr(self, name)
            for name in fields
            if name == "kind" or getattr(self, name) != fields[name].default
        }
        return {name: _told(value) for name, value in short.items() if name == "kind" or _is_short(value)}

    def terms(self) -> Terms:
        """Return it as JSON, from which `Registry.read` makes it again."""
        return self.model_dump(mode="json")


def like(pattern: str, clause: str) -> re.Match[str] | None:
    """Return how a clause is of a pattern, in which IT and REPLY stand for the words for the subject and for what it answers."""
    words = pattern.replace("IT", "(?:it|the (?:model|subject|assistant))")
    return re.fullmatch(
        words.replace("REPLY", "(?:its|the) (?:reply|answer)"), clause.strip(), re.IGNORECASE | re.DOTALL
    )


def _told(value: Any) -> Any:
    if isinstance(value, Kind):
        return value.told()
    return [_told(one) for one in value] if isinstance(value, (tuple, list)) else value


def _is_short(value: Any) -> bool:
    """Return whether a value can be read at a glance: parts can, a topic's examples can't."""
    return not isinstance(value, (tuple, list)) or len(value) <= MOST_TOLD


class Registry:
    """The kinds that are installed under one group of entry points, ours and third parties'."""

    def __init__(self, group: str, of: type[Kind]) -> None:
        self.group, self.of = group, of

    def names(self) -> list[str]:
        """Return the names of the installed kinds, sorted."""
        return sorted(_entries(self.group))

    def read(self, given: Any) -> Any:
        """Return what terms say; a thing that has been read already comes back as it is.

        Raises:
            ValueError: no such kind is installed, or its fields do not fit; the message lists the kinds.
        """
        if isinstance(given, self.of):
            return given
        kind = str(given.get("kind")) if isinstance(given, dict) else ""
        if kind not in _entries(self.group):
            raise ValueError(
                f"unknown kind {kind!r} of {self.of.__name__.lower()}: the kinds are {', '.join(self.names())}"
            )
        return self.kind(kind).model_validate(given)

    def of_clause(self, clause: str) -> Any:
        """Return what a clause says, by the first installed kind that can read it; None where none can."""
        for name in self.names():
            try:
                found = self.kind(name).of_clause(clause)
            except ValueError:  # its shape fits and its value doesn't
                continue
            if found is not None:
                return found
        return None

    def in_brief(self) -> list[str]:
        """Return every installed kind as `Kind.in_brief` has it."""
        return [self.kind(name).in_brief() for name in self.names()]

    def schema(self) -> dict[str, Any]:
        """Return the JSON schema of terms of any installed kind, loosely: the fields are those of the kind."""
        return {
            "type": "object",
            "description": f"terms of a {self.of.__name__.lower()}, one of {'; '.join(self.in_brief())}",
            "properties": {"kind": {"type": "string", "enum": self.names()}},
            "required": ["kind"],
            "additionalProperties": True,
        }

    def kind(self, name: str) -> type[Kind]:
        """Return the class of an installed kind."""
        return _loaded(self.group, name)


@cache
def _entries(group: str) -> dict[str, Callable[[], type[Kind]]]:
    return {entry.name: entry.load for entry in entry_points(group=group)}


@cache
def _loaded(group: str, name: str) -> type[Kind]:
    return _entries(group)[name]()
