"""A text in what the user says, or in the system's: a word, a phrase, a tag, signs, in any script."""

from __future__ import annotations

from random import Random
from typing import Literal

from pydantic import Field, model_validator

from tools.claims.condition import Condition, Pool, asked, of_role, saying
from tools.claims.kind import Messages, like
from tools.claims.text import places, stands, unquoted

Where = Literal["anywhere", "start", "end", "whole", "system"]
FRAMES = {"anywhere": "{prompt} {text}", "start": "{text} {prompt}", "end": "{prompt} {text}", "whole": "{text}"}
CLAUSES: dict[Where, str] = {
    "anywhere": r"the (?:user says|(?:message|prompt) (?:says|contains|has))(?: the (?:word|phrase|text))? (.+)",
    "start": r"the (?:message|prompt) (?:begins|starts) with (.+)",
    "end": r"the (?:message|prompt) ends with (.+)",
    "whole": r"the (?:message|prompt) is (.+)",
    "system": r"the system (?:text|prompt) says (.+)",
}
SPACE = " \t\n\r"
ENDS = ".!?…。！？"


class Contains(Condition):
    """A text stands in the user's last turn: a text of words word for word, any other to the letter.

    Args:
        text: What stands there.
        where: At its start, at its end (before the stop), anywhere, as the whole of it; or in a system turn.
        frame: How it is put in, with {prompt} and {text}; by default at the place that `where` names.
    """

    kind: Literal["contains"] = "contains"
    text: str = Field(min_length=1)
    where: Where = "anywhere"
    frame: str = ""

    @model_validator(mode="after")
    def _has_what_is_put_in(self) -> Contains:
        if not self.text.strip():
            raise ValueError("a condition on a text is given none: give one with a character that is no space")
        if self.frame and "{text}" not in self.frame:
            raise ValueError(f"the frame {self.frame!r} has no {{text}}, so that nothing would be put in")
        return self

    def holds(self, messages: Messages) -> bool:
        """Return whether the text stands there."""
        if self.where == "system":
            return any(stands(self.text, turn["content"]) for turn in of_role(messages, "system"))
        return self._at(asked(messages))

    def apply(self, messages: Messages, pool: Pool, rng: Random) -> Messages | None:
        """Return the prompt with the text put in, as it is where it has it."""
        if self.holds(messages):
            return messages
        if self.where == "system":
            put = [{"role": "system", "content": self.text}, *[m for m in messages if m["role"] != "system"]]
        else:
            frame = self.frame or FRAMES[self.where]
            put = saying(messages, frame.replace("{text}", self.text).replace("{prompt}", asked(messages)))
        return put if self.holds(put) else None

    def remove(self, messages: Messages, pool: Pool, rng: Random) -> Messages | None:
        """Return the prompt with the text cut out; another of the pool where nothing else is left of it."""
        if not self.holds(messages):
            return messages
        if self.where == "system":
            return [m for m in messages if m["role"] != "system"]
        left = saying(messages, _cut(self.text, asked(messages)))
        if asked(left) and not self.holds(left):
            return left
        return self.redrawn(pool, rng, holding=False)

    def clause(self) -> str:
        """Return it in words."""
        said = repr(self.text)
        return {
            "anywhere": f"the user says {said}",
            "start": f"the message begins with {said}",
            "end": f"the message ends with {said}",
            "whole": f"the message is {said}",
            "system": f"the system text says {said}",
        }[self.where]

    @classmethod
    def of_clause(cls, clause: str) -> Contains | None:
        """Return it for a clause that quotes the text and says where it stands."""
        for where, pattern in CLAUSES.items():
            found = like(pattern, clause)
            text = None if found is None else unquoted(found[1])
            if text is not None:
                return cls(text=text, where=where)
        return None

    def _at(self, said: str) -> bool:
        found = places(self.text, said)
        if not found:
            return False
        if self.where == "anywhere":
            return True
        begins, ends = not said[: found[0][0]].strip(SPACE), not said[found[-1][1] :].strip(SPACE + ENDS)
        return {"start": begins, "end": ends, "whole": begins and ends and len(found) == 1}[self.where]


def _cut(text: str, said: str) -> str:
    """Return what is left without the text: what stood around it a space apart, and no stop after a stop."""
    left, at = "", 0
    for start, stop in [*places(text, said), (len(said), len(said))]:
        piece, at = said[at:start].strip(SPACE), stop
        if left.endswith(tuple(ENDS)):
            piece = piece.lstrip(SPACE + ENDS)
        left += piece if not left or piece.startswith(tuple(ENDS)) or not piece else f" {piece}"
    return left
