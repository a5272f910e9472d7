"""What every kind of condition and predicate has: a name, terms that bring it back, and one line in a registry."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from pydantic import BaseModel, ConfigDict

Message = dict[str, str]
Messages = list[Message]
Terms = dict[str, Any]


class Kind(BaseModel):
    """One thing that can be said of prompts or replies. `kind` is its name in the registry."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str

    def terms(self) -> Terms:
        """Return it as JSON, from which `Registry.read` makes it again."""
        return self.model_dump(mode="json")


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

    def kind(self, name: str) -> type[Kind]:
        """Return the class of an installed kind."""
        return _loaded(self.group, name)


@cache
def _entries(group: str) -> dict[str, Callable[[], type[Kind]]]:
    return {entry.name: entry.load for entry in entry_points(group=group)}


@cache
def _loaded(group: str, name: str) -> type[Kind]:
    return _entries(group)[name]()
