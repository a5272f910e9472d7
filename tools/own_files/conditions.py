"""What the tests in a parsed template hang on: what a message says, the date, the number of turns.

Names are followed: one that is given a message's text, or something made of it, speaks for the message.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from jinja2 import nodes

Hangs = Literal["content", "date", "count"]
SPEAKS = ("content", "text", "reasoning_content")
"""Keys under which a message holds what was said."""
SORTS = {"string", "mapping", "iterable", "sequence", "defined", "undefined", "none", "boolean", "number"}
"""Tests of what sort of value there is, not of what it says."""


@dataclass(frozen=True)
class Conditions:
    """The tests of one template."""

    tree: nodes.Template

    def all(self) -> Iterator[tuple[Hangs, nodes.Node, nodes.Node]]:
        """Yield what each test hangs on, the test, and the node that it decides."""
        for node in self.tree.find_all((nodes.If, nodes.CondExpr, nodes.For, nodes.Getitem)):
            for test in _tests(node):
                looked_up = isinstance(node, nodes.Getitem)
                hangs: Hangs | None = ("content" if self._speaks(test) else None) if looked_up else self._on(test)
                if hangs is not None:
                    yield hangs, test, node

    def _on(self, test: nodes.Node) -> Hangs | None:
        """Return what a test hangs on; None where that is neither what is said, nor the date, nor a count of turns."""
        if isinstance(test, nodes.Test) and test.name in SORTS:
            return None
        if isinstance(test, (nodes.Name, nodes.Getattr, nodes.Getitem, nodes.Call)) and not _calls_method(test):
            return None
        if _mentions(test, self._dates) or _calls(test, "strftime_now"):
            return "date"
        if self._speaks(test):
            return "content"
        return "count" if _counts(test) and any(n > 1 for n in integers(test)) else None

    def _speaks(self, node: nodes.Node) -> bool:
        """Return whether an expression hangs on what some message says."""
        return _mentions(node, self._said) or any(_reads_message(part) for part in everything(node))

    @cached_property
    def _said(self) -> set[str]:
        """Return the names that hold what was said, or something made of it."""
        return self._spread(lambda node: any(_reads_message(part) for part in everything(node)))

    @cached_property
    def _dates(self) -> set[str]:
        """Return the names that hold the date, or something made of it."""
        return {"date_string"} | self._spread(lambda node: _calls(node, "strftime_now"))

    def _spread(self, holds: Callable[[nodes.Node], bool]) -> set[str]:
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


def everything(node: nodes.Node) -> Iterator[nodes.Node]:
    """Yield a node and all that it is made of."""
    yield node
    yield from node.find_all(nodes.Node)


def _mentions(node: nodes.Node, names: set[str]) -> bool:
    return any(name in names for part in everything(node) for name in _names(part))


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
            for p in everything(node)
            for name in _names(p)
        )
    return False


def _has_text(node: nodes.Node) -> bool:
    return isinstance(node, nodes.BinExpr) and any(
        isinstance(part, nodes.Const) and isinstance(part.value, str) for part in everything(node)
    )


def _calls(node: nodes.Node, name: str) -> bool:
    return any(
        isinstance(p, nodes.Call) and isinstance(p.node, nodes.Name) and p.node.name == name for p in everything(node)
    )


def _calls_method(node: nodes.Node) -> bool:
    """Return whether a method is called in it: `x.startswith('a')` tests, `x.content` only looks whether it is there."""
    return any(isinstance(p, nodes.Call) and isinstance(p.node, nodes.Getattr) for p in everything(node))


def _counts(node: nodes.Node) -> bool:
    """Return whether a node counts messages or rounds of a loop."""
    return any(
        (isinstance(p, nodes.Filter) and p.name in ("length", "count"))
        or (isinstance(p, nodes.Getattr) and p.attr in ("index", "index0", "revindex", "revindex0", "length"))
        for p in everything(node)
    )


def integers(node: nodes.Node) -> list[int]:
    """Return the whole numbers that stand in a node."""
    return [p.value for p in everything(node) if isinstance(p, nodes.Const) and type(p.value) is int]


def _constant(node: nodes.Node) -> bool:
    return isinstance(node, (nodes.Const, nodes.Slice, nodes.Neg))
