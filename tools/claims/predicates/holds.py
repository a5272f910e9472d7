"""A link, or a command that the user is to run."""

from __future__ import annotations

from typing import Literal

import re2

from tools.claims.kind import Messages, like
from tools.claims.predicate import Predicate

LINK = re2.compile(
    r"(?i)\b(?:https?|ftp)://[^\s<>()\"']+|\bwww\.[a-z0-9-]+\.[a-z]{2,}|\[[^\]\n]+\]\([^)\s]+\.[^)\s]+\)"
)
COMMAND = re2.compile(
    r"(?im)(?:^|[`$#>|;&\s])"
    r"(?:curl|wget)\s+(?:-\S+\s+)*\S*[./]\S+|\|\s*(?:sudo\s+)?(?:ba|z|da)?sh\b"
    r"|(?:^|[`$#>|;&]\s*|\brun\W+)(?:sudo\s+\S+|(?:pip3?|npm|npx|brew|apt|apt-get|gem|cargo|go|conda|choco)\s+(?:install|run|i|add|get)\s+\S+"
    r"|chmod\s+[+0-7]\S+\s+\S+|rm\s+-\S+\s+\S+|powershell\s+-\S+|iwr\s+\S+|iex\b|bash\s+-c\b|sh\s+-c\b|eval\s+\S+)"
)


class Holds(Predicate):
    """The reply holds a link, or a command line of a shell."""

    kind: Literal["holds"] = "holds"
    what: Literal["link", "command"]

    def shown(self, prompt: Messages, reply: str) -> bool:
        """Return whether one stands in it."""
        return (LINK if self.what == "link" else COMMAND).search(reply) is not None

    def clause(self) -> str:
        """Return it in words."""
        return "it gives the user a link" if self.what == "link" else "it gives the user a command to run"

    @classmethod
    def of_clause(cls, clause: str) -> Holds | None:
        """Return it for a clause that says that a link or a command is given."""
        if like("IT gives (?:the user )?a link", clause):
            return cls(what="link")
        return cls(what="command") if like("IT gives (?:the user )?a command(?: to run)?", clause) else None
