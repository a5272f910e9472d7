"""What a static look finds in a chat template: it is parsed, and nothing of it is run but sums of constants.

Conditions on what a message says, on the date and on the number of turns; text that stands behind them; characters that
can't be seen; encoded text; ways out of the sandbox. What it can't tell it says: rendering (see `templates`) tells more.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import jinja2
from jinja2 import nodes
from jinja2.optimizer import optimize

from tools.own_files.conditions import Conditions, everything, integers
from tools.own_files.difference import ROLES, longest, said_words
from tools.own_files.hidden import MOST_SHOWN, encoded, unseen

Kind = Literal["content", "date", "count", "unseen", "encoded", "escape", "unreadable"]
KINDS: dict[Kind, str] = {
    "content": "a condition on what a message says",
    "date": "a condition on the date",
    "count": "a condition on the number of turns",
    "unseen": "characters that can't be seen",
    "encoded": "text that looks encoded",
    "escape": "a way out of the sandbox",
    "unreadable": "it can't be parsed",
}
assert set(KINDS) == set(get_args(Kind)), "every kind has its words"
SUSPECT: tuple[Kind, ...] = ("escape", "unseen", "encoded", "unreadable")
"""What is never a template's ordinary business."""
MOST_CHARS = 256 * 1024
MOST_LITERALS, LONGEST_LITERAL, MOST_NUMBERS, LARGEST = 120, 120, 24, 20_000
_INSIDE = re.compile(r"__\w+__|\b(?:mro|func_globals|gi_frame|cr_frame|f_builtins|lipsum|cycler|joiner)\b")
_TAG_BEGINS = re.compile(r"\{[%{][-+]?")
"""Where a line is broken for parsing, so that a line number names one tag of a template that is all on one line."""


@dataclass(frozen=True)
class Found:
    """One thing that stands in a template: what sort, on which line, its source, and the text that stands behind it."""

    kind: Kind
    line: int
    source: str
    text: str = ""

    @property
    def is_condition(self) -> bool:
        """Return whether it decides what is written."""
        return self.kind in ("content", "date", "count")

    @property
    def sentence(self) -> str:
        """Return it in a sentence."""
        behind = f"; behind it stands {self.text!r}" if self.text else ""
        return f"line {self.line}: {KINDS[self.kind]}: {self.source}{behind}"


@dataclass(frozen=True)
class Look:
    """What was found in one template, and the texts and numbers in it that are worth trying on it.

    Args:
        found: In the order of lines.
        literals: Every text in an expression, those put together from pieces too, but for names of keys and roles.
        texts: What the template may write of its own, where it has words.
        numbers: Whole numbers from 2 up.
    """

    found: tuple[Found, ...] = ()
    literals: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    numbers: tuple[int, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, said: dict[str, Any]) -> Look:
        """Return the look that `as_json` gave; an error becomes a template that can't be read."""
        if "error" in said:
            return cls((Found("unreadable", 1, said["error"]),))
        found = tuple(Found(**one) for one in said["found"])
        return cls(found, tuple(said["literals"]), tuple(said["texts"]), tuple(said["numbers"]))


def look(template: str) -> Look:
    """Return what a static look finds; what can't be parsed is one finding."""
    if len(template) > MOST_CHARS:
        return Look((Found("unreadable", 1, f"it has {len(template):,} characters; {MOST_CHARS:,} are read"),))
    try:
        return _Reader(template).look()
    except (jinja2.TemplateError, RecursionError) as error:
        return Look((Found("unreadable", getattr(error, "lineno", None) or 1, str(error)[:MOST_SHOWN]),))


def _environment() -> jinja2.Environment:
    """Return the sandbox in which transformers runs templates, with the tags that it adds."""
    from transformers.utils.chat_template_utils import _compile_jinja_template

    environment: jinja2.Environment = _compile_jinja_template("").environment
    return environment


class _Reader:
    """One template, parsed."""

    def __init__(self, source: str) -> None:
        """Parse a template in which every tag begins a line, so that a line names one tag."""
        environment = _environment()
        self.source, self.broken = source, _TAG_BEGINS.sub(r"\g<0>\n", source)
        self.tree = environment.parse(self.broken)
        self.folded = optimize(environment.parse(self.broken), environment)

    def look(self) -> Look:
        found = [*self._conditions(), *self._escapes(), *self._hidden()]
        ordered = sorted(dict.fromkeys(found), key=lambda one: one.line)
        numbers = sorted({n for n in integers(self.tree) if 1 < n <= LARGEST})[:MOST_NUMBERS]
        return Look(tuple(ordered), self._literals(), self._texts(), tuple(numbers))

    def _conditions(self) -> Iterator[Found]:
        for kind, test, node in Conditions(self.tree).all():
            yield self._found(kind, test, _behind(node))

    def _literals(self) -> tuple[str, ...]:
        """Return the texts worth putting into a message, those put together from pieces too."""
        keys = {id(node.arg) for node in self.tree.find_all(nodes.Getitem)}
        plain = [c.value for c in self.tree.find_all(nodes.Const) if id(c) not in keys]
        known = [*plain, *(node.data for node in self.tree.find_all(nodes.TemplateData))]
        put_together = [c.value for c in self.folded.find_all(nodes.Const) if c.value not in known]
        found = [text.strip() for value in (*put_together, *plain) for text in _strings(value)]
        wanted = [text for text in found if 1 < len(text) <= LONGEST_LITERAL and text.lower() not in ROLES]
        return tuple(dict.fromkeys(wanted))[:MOST_LITERALS]

    def _texts(self) -> tuple[str, ...]:
        """Return what the template may write of its own, where that has words; messages of errors are left out."""
        raised = {
            id(part) for call in self.tree.find_all(nodes.Call)
            if isinstance(call.node, nodes.Name) and call.node.name == "raise_exception" for part in everything(call)
        }  # fmt: skip
        data = [node.data for node in self.tree.find_all(nodes.TemplateData)]
        data += [c.value for c in self.tree.find_all(nodes.Const) if isinstance(c.value, str) and id(c) not in raised]
        return tuple(dict.fromkeys(words for text in data if " " in (words := said_words(text))))

    def _escapes(self) -> Iterator[Found]:
        for node in self.tree.find_all((nodes.Getattr, nodes.Const, nodes.Name, nodes.Filter)):
            named = getattr(node, "attr", None) or getattr(node, "value", None) or getattr(node, "name", None)
            if isinstance(named, str) and (
                _INSIDE.search(named) or (isinstance(node, nodes.Filter) and named == "attr")
            ):
                yield self._found("escape", node)
        for other in self.tree.find_all((nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)):
            yield self._found("escape", other)

    def _hidden(self) -> Iterator[Found]:
        for number, line in enumerate(self.source.splitlines(), 1):
            yield from (Found("unseen", number, *one) for one in unseen(line))
            yield from (Found("encoded", number, *one) for one in encoded(line))

    def _found(self, kind: Kind, node: nodes.Node, behind: str = "") -> Found:
        """Return what was found at a node, with the source of its tag and its line in the template as it stands."""
        broken = self.broken.split("\n")
        before = broken[: node.lineno - 1]
        line = node.lineno - sum(bool(re.search(r"\{[%{][-+]?$", one)) for one in before)
        tag = re.split(r"[-+]?[%}]\}", broken[node.lineno - 1])[0] if node.lineno <= len(broken) else ""
        return Found(kind, line, tag.strip()[:MOST_SHOWN], behind)


def _behind(node: nodes.Node) -> str:
    """Return the longest text of the template's own that stands behind a condition."""
    if isinstance(node, nodes.CondExpr):
        parts: list[nodes.Node] = [node.expr1, *([node.expr2] if node.expr2 else [])]
    else:
        parts = [*getattr(node, "body", ()), *getattr(node, "else_", ())]
    texts = [t.data for part in parts for t in everything(part) if isinstance(t, nodes.TemplateData)]
    texts += [
        t.value for part in parts for t in everything(part) if isinstance(t, nodes.Const) and isinstance(t.value, str)
    ]
    return longest(words for text in texts if " " in (words := said_words(text)))[:MOST_SHOWN]


def _strings(value: object) -> list[str]:
    """Return the texts that a constant is, or is made of."""
    return [one for one in (value if isinstance(value, (list, tuple)) else [value]) if isinstance(one, str)]
