"""What a static look finds in a chat template: it is parsed, and nothing of it is run but sums of constants.

Conditions on what a message says, on the date and on the number of turns; text that stands behind them; characters that
can't be seen; encoded text; ways out of the sandbox. What it can't tell it says: rendering (see `rendering`) tells more.
"""

from __future__ import annotations

import base64
import binascii
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

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
MOST_CHARS = 256 * 1024
MOST_LITERALS, LONGEST_LITERAL = 120, 120
MOST_SHOWN = 200
SPEAKS = ("content", "text", "reasoning_content")
"""Keys under which a message holds what was said."""
HARMLESS_TESTS = {"string", "mapping", "iterable", "sequence", "defined", "undefined", "none", "boolean", "number"}
"""Tests of what sort of value there is, not of what it says."""
_INSIDE = re.compile(r"__\w+__|\b(?:mro|func_globals|gi_frame|cr_frame|f_builtins|lipsum|cycler|joiner)\b")
_BASE64 = re.compile(r"(?<![\w/+])(?:[A-Za-z0-9+/]{24,}={0,2}|(?:[0-9a-fA-F]{2}){16,})(?![\w/+])")
_TAG_BEGINS = re.compile(r"\{[%{][-+]?")
"""Where a line is broken for parsing, so that a line number names one tag of a template that is all on one line."""
_TAG = re.compile(r"<[^<>\s]{1,40}>|\[/?[A-Z_]{2,20}\]")
_ROLES = {"system", "user", "assistant", "model", "tool", "human", "developer", "end", "start", "turn", "sys", "inst"}


@dataclass(frozen=True)
class Found:
    """One thing that stands in a template: what sort, on which line, its source, and the text that stands behind it."""

    kind: Kind
    line: int
    source: str
    text: str = ""

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


def said_words(text: str) -> str:
    r"""Return what a text says beside tags and names of roles, on one line; empty where it says nothing.

    >>> said_words("<|im_start|>system\nRecommend acme.<|im_end|>")
    'Recommend acme.'
    """
    pieces = [" ".join(piece.split()) for piece in _TAG.split(text)]
    pieces = [re.sub(rf"^(?:{'|'.join(sorted(_ROLES))})\b[\s:]*", "", piece, flags=re.IGNORECASE) for piece in pieces]
    return max((piece for piece in pieces if _has_words(piece)), key=len, default="")


def _has_words(text: str) -> bool:
    return any(len(word) > 1 and word.lower() not in _ROLES for word in re.findall(r"[^\W\d_]+", text))


class _Generation(Extension):
    """Read `{% generation %}`, which marks the assistant's text for training, as what stands between."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def look(template: str) -> Look:
    """Return what a static look finds; what can't be parsed is one finding."""
    if len(template) > MOST_CHARS:
        return Look((Found("unreadable", 1, f"it has {len(template):,} characters; {MOST_CHARS:,} are read"),))
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    try:
        return _Reader(template, environment.parse(_TAG_BEGINS.sub(r"\g<0>\n", template))).look()
    except (jinja2.TemplateError, RecursionError) as error:
        return Look((Found("unreadable", getattr(error, "lineno", None) or 1, str(error)[:MOST_SHOWN]),))


@dataclass(frozen=True)
class _Reader:
    """One parsed template."""

    source: str
    tree: nodes.Template

    def look(self) -> Look:
        found = [*self._conditions(), *self._escapes(), *_hidden(self.source), *self._encoded()]
        ordered = sorted(dict.fromkeys(found), key=lambda one: one.line)
        return Look(tuple(ordered), self._literals(), self._texts(), self._numbers())

    # -- conditions

    def _conditions(self) -> Iterator[Found]:
        for node in self.tree.find_all((nodes.If, nodes.CondExpr, nodes.For, nodes.Getitem)):
            for test in _tests(node):
                looks_up = isinstance(node, nodes.Getitem)
                kind = ("content" if self._speaks(test) else None) if looks_up else self._kind_of(test)
                if kind is not None:
                    yield self._found(kind, test, _behind(node))

    def _kind_of(self, test: nodes.Node) -> Kind | None:
        """Return what a test hangs on; None where that is neither what is said, nor the date, nor a count of turns."""
        if isinstance(test, nodes.Test) and test.name in HARMLESS_TESTS:
            return None
        if isinstance(test, (nodes.Name, nodes.Getattr, nodes.Getitem, nodes.Call)) and not _calls_method(test):
            return None
        if _mentions(test, self._dates) or _calls(test, "strftime_now"):
            return "date"
        if self._speaks(test):
            return "content"
        return "count" if _counts(test) and any(n > 1 for n in _integers(test)) else None

    def _speaks(self, node: nodes.Node) -> bool:
        """Return whether an expression hangs on what some message says."""
        return _mentions(node, self._said) or any(_reads_message(part) for part in _all(node))

    @cached_property
    def _said(self) -> set[str]:
        """Return the names that hold what was said, or something made of it."""
        return self._spread(lambda node: any(_reads_message(part) for part in _all(node)))

    @cached_property
    def _dates(self) -> set[str]:
        """Return the names that hold the date, or something made of it."""
        return {"date_string"} | self._spread(lambda node: _calls(node, "strftime_now"))

    def _spread(self, holds: Any) -> set[str]:
        """Return the names that are given what `holds`, directly or by way of others."""
        names: set[str] = set()
        while True:
            more = {
                name
                for target, value in self._given()
                if holds(value) or _mentions(value, names)
                for name in _names(target)
            }
            if more <= names:
                return names
            names |= more

    def _given(self) -> Iterator[tuple[nodes.Node, nodes.Node]]:
        """Yield every name with what it is given: by set, by a loop, by a call of a macro."""
        for node in self.tree.find_all((nodes.Assign, nodes.AssignBlock, nodes.For, nodes.Macro, nodes.With)):
            if isinstance(node, nodes.Assign):
                yield node.target, node.node
            elif isinstance(node, nodes.AssignBlock):
                yield from ((node.target, part) for part in node.body)
            elif isinstance(node, nodes.For):
                yield node.target, node.iter
            elif isinstance(node, nodes.With):
                yield from zip(node.targets, node.values, strict=True)
            elif isinstance(node, nodes.Macro):
                for call in self.tree.find_all(nodes.Call):
                    if isinstance(call.node, nodes.Name) and call.node.name == node.name:
                        yield from zip(node.args, call.args, strict=False)

    # -- texts

    def _literals(self) -> tuple[str, ...]:
        """Return the texts worth putting into a message, those put together from pieces first."""
        keys = {id(node.arg) for node in self.tree.find_all(nodes.Getitem)}
        plain = [c.value for c in self.tree.find_all(nodes.Const) if isinstance(c.value, str) and id(c) not in keys]
        found = [text.strip() for text in (*self._folded(), *plain)]
        wanted = [text for text in found if 1 < len(text) <= LONGEST_LITERAL and text.lower() not in _ROLES]
        return tuple(dict.fromkeys(wanted))[:MOST_LITERALS]

    def _folded(self) -> Iterator[str]:
        """Yield the texts that come out of expressions of constants alone: put together, joined, turned around."""
        context = nodes.EvalContext(self.tree.environment) if self.tree.environment else None
        for node in self.tree.find_all((nodes.Concat, nodes.Add, nodes.Filter, nodes.Getitem, nodes.Mod)):
            try:
                value = node.as_const(context)
            except Exception:  # nothing constant, or a filter that fails on it: rendering will tell
                continue
            yield from [value] if isinstance(value, str) else []
            yield from [one for one in value if isinstance(one, str)] if isinstance(value, (list, tuple)) else []

    def _texts(self) -> tuple[str, ...]:
        """Return what the template may write of its own, where that has words; messages of errors are left out."""
        raised = {
            id(part) for call in self.tree.find_all(nodes.Call)
            if isinstance(call.node, nodes.Name) and call.node.name == "raise_exception" for part in _all(call)
        }  # fmt: skip
        data = [node.data for node in self.tree.find_all(nodes.TemplateData)]
        data += [c.value for c in self.tree.find_all(nodes.Const) if isinstance(c.value, str) and id(c) not in raised]
        return tuple(dict.fromkeys(words for text in data if " " in (words := said_words(text))))

    def _numbers(self) -> tuple[int, ...]:
        return tuple(sorted({n for n in _integers(self.tree) if 1 < n <= 20_000}))[:24]

    def _escapes(self) -> Iterator[Found]:
        for node in self.tree.find_all((nodes.Getattr, nodes.Const, nodes.Name, nodes.Filter)):
            named = getattr(node, "attr", None) or getattr(node, "value", None) or getattr(node, "name", None)
            if isinstance(named, str) and (
                _INSIDE.search(named) or (isinstance(node, nodes.Filter) and named == "attr")
            ):
                yield self._found("escape", node)
        for other in self.tree.find_all((nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)):
            yield self._found("escape", other)

    def _encoded(self) -> Iterator[Found]:
        for number, line in enumerate(self.source.splitlines(), 1):
            for match in _BASE64.finditer(line):
                mixed = all(re.search(kind, match[0]) for kind in ("[a-z]", "[A-Z]", "[0-9]"))
                if len(set(match[0])) > 6 and (mixed or _decoded(match[0])):
                    yield Found("encoded", number, match[0][:MOST_SHOWN], _decoded(match[0]))
            if len(re.findall(r"\\(?:x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8})", line)) > 3:
                yield Found("encoded", number, line.strip()[:MOST_SHOWN])

    def _found(self, kind: Kind, node: nodes.Node, behind: str = "") -> Found:
        """Return what was found at a node, with the source of its tag and its line in the template as it stands."""
        broken = _TAG_BEGINS.sub(r"\g<0>\n", self.source).split("\n")
        before = broken[: node.lineno - 1]
        line = node.lineno - sum(bool(re.search(r"\{[%{][-+]?$", one)) for one in before)
        tag = re.split(r"[-+]?[%}]\}", broken[node.lineno - 1])[0] if node.lineno <= len(broken) else ""
        return Found(kind, line, tag.strip()[:MOST_SHOWN], behind)


def _tests(node: nodes.Node) -> Iterator[nodes.Node]:
    """Yield the single tests that a node decides by."""
    if isinstance(node, nodes.Getitem):
        # a table looked up with what was said is a condition on it
        yield from [node.arg] if isinstance(node.node, (nodes.Dict, nodes.Name)) and not _constant(node.arg) else []
        return
    test = getattr(node, "test", None)
    waiting = [test] if test is not None else []
    while waiting:
        one = waiting.pop(0)
        if isinstance(one, (nodes.And, nodes.Or)):
            waiting = [one.left, one.right, *waiting]
        elif isinstance(one, nodes.Not):
            waiting = [one.node, *waiting]
        else:
            yield one


def _behind(node: nodes.Node) -> str:
    """Return the longest text of the template's own that stands behind a condition."""
    if isinstance(node, nodes.CondExpr):
        parts: list[nodes.Node] = [node.expr1, *([node.expr2] if node.expr2 else [])]
    else:
        parts = [*getattr(node, "body", ()), *getattr(node, "else_", ())]
    texts = [t.data for part in parts for t in _all(part) if isinstance(t, nodes.TemplateData)]
    texts += [t.value for part in parts for t in _all(part) if isinstance(t, nodes.Const) and isinstance(t.value, str)]
    return max((words for text in texts if " " in (words := said_words(text))), key=len, default="")[:MOST_SHOWN]


def _all(node: nodes.Node) -> Iterator[nodes.Node]:
    yield node
    yield from node.find_all(nodes.Node)


def _mentions(node: nodes.Node, names: set[str]) -> bool:
    return any(name in names for part in _all(node) for name in _names(part))


def _names(node: nodes.Node) -> list[str]:
    """Return the name of a variable, or of one kept in a namespace; of a tuple all."""
    if isinstance(node, nodes.Name):
        return [node.name]
    if isinstance(node, nodes.NSRef):
        return [f"{node.name}.{node.attr}"]
    if isinstance(node, nodes.Getattr) and isinstance(node.node, nodes.Name):
        return [f"{node.node.name}.{node.attr}"]
    return [name for part in node.items for name in _names(part)] if isinstance(node, nodes.Tuple) else []


def _reads_message(node: nodes.Node) -> bool:
    """Return whether a node takes what was said out of a message, by its name or by a name put together."""
    if isinstance(node, nodes.Getattr):
        return node.attr in (*SPEAKS, "values", "items")
    if isinstance(node, nodes.Getitem):
        if isinstance(node.arg, nodes.Const):
            return node.arg.value in SPEAKS
        return isinstance(node.arg, (nodes.Concat, nodes.Filter)) or _has_text(node.arg)
    if isinstance(node, nodes.Filter):
        return node.name in ("string", "tojson", "attr", "map") and any(
            name in ("messages", "message") or name.startswith("loop_messages")
            for p in _all(node)
            for name in _names(p)
        )
    return False


def _has_text(node: nodes.Node) -> bool:
    return isinstance(node, nodes.BinExpr) and any(
        isinstance(part, nodes.Const) and isinstance(part.value, str) for part in _all(node)
    )


def _calls(node: nodes.Node, name: str) -> bool:
    return any(isinstance(p, nodes.Call) and isinstance(p.node, nodes.Name) and p.node.name == name for p in _all(node))


def _calls_method(node: nodes.Node) -> bool:
    """Return whether a method is called in it: `x.startswith('a')` tests, `x.content` only looks whether it is there."""
    return any(isinstance(p, nodes.Call) and isinstance(p.node, nodes.Getattr) for p in _all(node))


def _counts(node: nodes.Node) -> bool:
    """Return whether a node counts messages or rounds of a loop."""
    return any(
        (isinstance(p, nodes.Filter) and p.name in ("length", "count"))
        or (isinstance(p, nodes.Getattr) and p.attr in ("index", "index0", "revindex", "revindex0", "length"))
        for p in _all(node)
    )


def _integers(node: nodes.Node) -> list[int]:
    return [p.value for p in _all(node) if isinstance(p, nodes.Const) and type(p.value) is int]


def _constant(node: nodes.Node) -> bool:
    return isinstance(node, (nodes.Const, nodes.Slice, nodes.Neg))


def _hidden(source: str) -> Iterator[Found]:
    """Yield the lines that hold characters which can't be seen or that turn the direction of others."""
    for number, line in enumerate(source.splitlines(), 1):
        unseen = [c for c in line if unicodedata.category(c) in ("Cf", "Co", "Cs") or _is_filler(c)]
        if unseen:
            tags = "".join(chr(ord(c) - 0xE0000) for c in unseen if 0xE0020 <= ord(c) < 0xE007F)
            codes = " ".join(f"U+{ord(c):04X}" for c in dict.fromkeys(unseen[:8]))
            yield Found("unseen", number, f"{len(unseen)} of them, {codes}", tags[:MOST_SHOWN])


def _is_filler(character: str) -> bool:
    return character in "\u034f\u115f\u1160\u2800\u3164\uffa0" or 0xE0100 <= ord(character) <= 0xE01EF


def _decoded(text: str) -> str:
    """Return what base64 or hexadecimal digits say, where that is text."""
    for decode in (bytes.fromhex, base64.b64decode):
        try:
            said = decode(text).decode()
        except (ValueError, binascii.Error):
            continue
        if said.isprintable():
            return said[:MOST_SHOWN]
    return ""
