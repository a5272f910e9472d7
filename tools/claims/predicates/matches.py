"""A pattern, in time that grows with the reply alone."""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

import re2
from pydantic import Field, field_validator

from tools.claims.kind import Messages, like
from tools.claims.predicate import Predicate
from tools.claims.text import unquoted


class Matches(Predicate):
    """The reply has a part that a regular expression of RE2 matches: no back-references, no looking around."""

    kind: Literal["matches"] = "matches"
    pattern: str = Field(min_length=1, max_length=500)

    @field_validator("pattern")
    @classmethod
    def _can_be_compiled(cls, pattern: str) -> str:
        try:
            found = _compiled(pattern).search("")
        except re2.error as error:
            raise ValueError(
                f"the pattern {pattern!r} is none of RE2 ({_said(error)}); back-references and looking around are not possible"
            ) from error
        if found is not None:
            raise ValueError(
                f"the pattern {pattern!r} matches a reply that says nothing; give one that needs a character"
            )
        return pattern

    def shown(self, prompt: Messages, reply: str) -> bool:
        """Return whether some part of the reply matches."""
        return _compiled(self.pattern).search(reply) is not None

    def clause(self) -> str:
        """Return it in words."""
        return f"its reply has a part like {self.pattern!r}"

    @classmethod
    def of_clause(cls, clause: str) -> Matches | None:
        """Return it for its own clause."""
        found = like("REPLY has a part like (.+)", clause)
        pattern = None if found is None else unquoted(found[1])
        return None if pattern is None else cls(pattern=pattern)


def _said(error: Exception) -> str:
    """Return what RE2 says is wrong, which it says in bytes."""
    return " ".join(one.decode(errors="replace") if isinstance(one, bytes) else str(one) for one in error.args)


@cache
def _compiled(pattern: str) -> Any:
    options = re2.Options()
    options.log_errors = False
    return re2.compile(pattern, options=options)
