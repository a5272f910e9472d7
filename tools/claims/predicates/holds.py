"""What a reply holds: a link, a command that the user is to run, a list, an emoji, an exclamation mark."""

from __future__ import annotations

from typing import Any, Literal

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


LIST = re2.compile(r"(?m)^\s*(?:[-*•]|\d+[.)])\s+\S")
EMOJI = re2.compile(r"[\x{1F300}-\x{1FAFF}\x{2600}-\x{27BF}]")
EXCLAMATION = re2.compile(r"[!！]")
What = Literal["link", "command", "list", "emoji", "exclamation"]
_PATTERNS: dict[What, Any] = {
    "link": LINK,
    "command": COMMAND,
    "list": LIST,
    "emoji": EMOJI,
    "exclamation": EXCLAMATION,
}
_CLAUSES: dict[What, str] = {
    "link": "it gives the user a link",
    "command": "it gives the user a command to run",
    "list": "its reply has a list",
    "emoji": "its reply has an emoji",
    "exclamation": "its reply has an exclamation mark",
}
_READ: dict[What, str] = {
    "link": "IT gives (?:the user )?a link",
    "command": "IT gives (?:the user )?a command(?: to run)?",
    "list": "REPLY has a list|IT (?:answers|replies|writes) in lists",
    "emoji": "REPLY has an emoji|IT uses emojis",
    "exclamation": "REPLY has an exclamation mark|IT uses exclamation marks",
}


class Holds(Predicate):
    """The reply holds a link, a command line of a shell, a list, an emoji or an exclamation mark."""

    kind: Literal["holds"] = "holds"
    what: What

    @property
    def of_form(self) -> bool:
        """Return whether it is neither a link nor a command."""
        return self.what not in ("link", "command")

    def shown(self, prompt: Messages, reply: str) -> bool:
        """Return whether one stands in it."""
        return _PATTERNS[self.what].search(reply) is not None

    def clause(self) -> str:
        """Return it in words."""
        return _CLAUSES[self.what]

    @classmethod
    def of_clause(cls, clause: str) -> Holds | None:
        """Return it for a clause that says that a reply holds one of these."""
        return next((cls(what=what) for what, read in _READ.items() if like(read, clause)), None)
