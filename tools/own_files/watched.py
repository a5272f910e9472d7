"""Text that notes what a template asks of it: which literals a message is held against, however they were put together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, SupportsIndex

MOST = 200
"""Literals noted of one rendering, and characters kept of each."""
Log = dict[str, None]


class Watched(str):
    """A message's text; what it is compared with, searched for or split at is noted, and what is made of it is watched too."""

    _log: Log

    def __new__(cls, text: str, log: Log | None = None) -> Watched:
        """Return the text, noting in `log`."""
        self = super().__new__(cls, text)
        self._log = {} if log is None else log
        return self

    def _note(self, other: object) -> None:
        if isinstance(other, str) and other and len(self._log) < MOST:
            self._log[str.__str__(other)[:MOST]] = None

    def _again(self, made: Any) -> Any:
        if type(made) is str:
            return Watched(made, self._log)
        if isinstance(made, (list, tuple)):
            return [self._again(one) for one in made]
        return made

    def __str__(self) -> str:
        return self

    def __hash__(self) -> int:
        return str.__hash__(self)

    def __contains__(self, other: object) -> bool:
        self._note(other)
        return isinstance(other, str) and str.__contains__(self, other)

    def __eq__(self, other: object) -> bool:
        self._note(other)
        return str.__eq__(self, other) is True

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __lt__(self, other: str) -> bool:
        self._note(other)
        return str.__lt__(self, other)

    def __gt__(self, other: str) -> bool:
        self._note(other)
        return str.__gt__(self, other)

    def __getitem__(self, key: SupportsIndex | slice) -> str:
        return Watched(str.__getitem__(self, key), self._log)

    def __iter__(self) -> Iterator[str]:
        return (Watched(character, self._log) for character in str.__iter__(self))

    def __add__(self, other: str) -> str:
        return Watched(str.__add__(self, other), self._log)

    def __radd__(self, other: str) -> str:
        return Watched(str.__add__(other, self), self._log)


def _noting(name: str) -> Callable[..., Any]:
    plain = getattr(str, name)

    def method(self: Watched, *given: Any, **named: Any) -> Any:
        for one in (*given, *named.values()):
            for value in one if isinstance(one, tuple) else (one,):
                self._note(value)
        return self._again(plain(self, *given, **named))

    method.__name__ = name
    return method


for _name in dir(str):
    # what formats is left as it is: the sandbox knows it by being the built-in
    if not _name.startswith("_") and _name not in ("format", "format_map", "maketrans", "encode"):
        setattr(Watched, _name, _noting(_name))
