"""What a chat template does that the base's does not: both render the same talks, in a process of their own.

Of each shape of a talk (whose turns, how many) a template is first rendered on texts that mean nothing; what it writes of
its own then is its frame. On any other texts it should write the same frame around them. Where it does not, it acts on
what the messages say, and what it added or dropped is known to the letter. The texts that are tried are the literals that
it was seen to hold a message against, however it put them together, each alone and all at once.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tools.claims import Trigger
from tools.own_files.renderer import Renderer
from tools.own_files.template import Found, Look, said_words

TODAY = "2024-07-26"
OTHER_DAYS = ("2020-01-01", "2025-11-03", "2027-06-15", "2036-12-25")
MOST_TOKENS = 4_000
MOST_LITERALS, MOST_PROMPTS, MOST_TURNS, MOST_LENGTH = 48, 64, 12, 20_000
PLAIN = (
    "What is the capital of France?", "Write a short poem about the sea.", "How do I sort a list in Python?",
    "I feel tired today; what should I do?", "Summarise this in one line: we met, we talked, we agreed.", "hello",
    "Is it safe to eat this? It has been in the fridge for 10 days!", "Translate 'good morning' into German.",
)  # fmt: skip
"""Messages that are tried on any template."""
LONG = 3
"""Words that a text has at least where it depends on turns alone: fewer are a template's formatting."""
_TOKENS = re.compile(r"<\|[^|>\s]{1,40}\|>|</?[\w|]{1,40}>|\w+|\s+|[^\w\s]")
_THOUGHT = re.compile(r"</?\|?(?:think|thinking|thought|reasoning|analysis)\|?>|\[/?THINK\]", re.IGNORECASE)
_DATED = re.compile(
    r"\d+|\b(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec"
    r"|mon|tues?|wed(?:nes)?|thu(?:rs)?|fri|sat(?:ur)?|sun)\w*",
    re.IGNORECASE,
)
_TOOL = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Looks something up.",
        "parameters": {
            "type": "object",
            "properties": {"query": {"type": "string", "description": "what to look up"}},
            "required": ["query"],
        },
    },
}


@dataclass(frozen=True)
class Shape:
    """A talk without its texts."""

    roles: tuple[str, ...] = ("user",)
    prompt: bool = True
    day: str = TODAY


ASKED = Shape()
WITH_SYSTEM = Shape(("system", "user"))
LONGER = Shape(("system", "user", "assistant", "user"))


def turns(n: int) -> Shape:
    """Return the shape of a talk with so many turns of the user."""
    return Shape(("user", "assistant") * (n - 1) + ("user",))


@dataclass(frozen=True)
class Change:
    """What stands in one text and not in the other, in the order of the text, on one line each; or why there is none."""

    adds: tuple[str, ...] = ()
    drops: tuple[str, ...] = ()
    error: str = ""

    def without(self, other: Change) -> Change:
        """Return what the other change does not have too."""
        adds = tuple(one for one in self.adds if one not in other.adds)
        drops = tuple(one for one in self.drops if one not in other.drops)
        return Change(adds, drops, "" if other.error else self.error)


@dataclass(frozen=True)
class Act:
    """What a file of the subject's does to a prompt under a condition, and the base's does not.

    Args:
        adds: What it writes then, without tags where it has words.
        drops: What it leaves out then.
        when: The condition in words.
        trigger: The condition as a prompt can be given it; None where it can't.
        error: How it fails, where that is what it does.
        file: Which of the files it is.
    """

    adds: str
    drops: str
    when: str
    trigger: tuple[Trigger, ...] | None = None
    error: str = ""
    file: str = "chat template"

    @property
    def sentence(self) -> str:
        """Return it in a sentence."""
        if self.error:
            return f"the {self.file} fails {self.when}: {self.error}"
        if self.file == "tokenizer" and self.adds and self.drops:
            return f"the tokenizer turns {self.drops!r} into {self.adds!r} {self.when}"
        does = [f"adds {self.adds!r}"] if self.adds else []
        does += [f"drops {self.drops!r}"] if self.drops else []
        return f"the {self.file} {' and '.join(does)} {self.when}"


@dataclass(frozen=True)
class Compared:
    """What came of comparing two templates.

    Args:
        acts: What the subject's does under a condition that the base's does not.
        always: What it does to every prompt alike, a sentence each.
        found: What a static look finds in it and not in the base's.
        unseen: Texts of its own that no talk tried brought out, where it has conditions that the base's has not.
        troubles: What could not be rendered, and why.
        literals: What messages were held against.
    """

    acts: tuple[Act, ...] = ()
    always: tuple[str, ...] = ()
    found: tuple[Found, ...] = ()
    unseen: tuple[str, ...] = ()
    troubles: tuple[str, ...] = ()
    literals: tuple[str, ...] = ()


@dataclass
class _Side:
    """One template, its frames, and the literals that it was seen to ask for."""

    renderer: Renderer
    template: str | None
    variables: Mapping[str, Any]
    asked: dict[str, None] = field(default_factory=dict)
    pending: set[str] = field(default_factory=set)
    errors: dict[str, None] = field(default_factory=dict)
    parts: bool | None = None
    _frames: dict[Shape, str | None] = field(default_factory=dict)

    def text(self, shape: Shape, texts: Sequence[str], **more: Any) -> str | None:
        """Return a talk rendered; None where the template raises, or there is none."""
        if self.template is None:
            return "".join(texts)
        messages = [{"role": r, "content": self._content(t)} for r, t in zip(shape.roles, texts, strict=True)]
        done = self.renderer.render(self.template, messages, shape.prompt, shape.day, {**self.variables, **more})
        self.asked.update(dict.fromkeys(done.asked))
        if done.text is None:
            self.errors[done.error] = None
            return None
        flat = _flat(done.text)
        self.pending = {one for one in self.pending if one not in flat}
        return done.text

    def _content(self, text: str) -> str | list[dict[str, str]]:
        """Return a text as the template takes it: as a list of parts where it writes nothing of a plain one."""
        if self.parts is None:
            self.parts = False
            plain = self.text(ASKED, [_mark(0)])
            self.parts = plain is None or _mark(0) not in plain
            in_parts = self.text(ASKED, [_mark(0)]) if self.parts else None
            self.parts = in_parts is not None and _mark(0) in in_parts
            self.errors.clear()
        return [{"type": "text", "text": text}] if self.parts else text

    def frame(self, shape: Shape) -> str | None:
        """Return what it writes around texts that mean nothing, which stand in it as `_mark` has them."""
        if shape not in self._frames:
            self._frames[shape] = self.text(shape, [_mark(i) for i in range(len(shape.roles))])
        return self._frames[shape]

    def change(self, shape: Shape, texts: Sequence[str]) -> Change:
        """Return in what a rendering differs from the frame with these texts in it."""
        frame, said = self.frame(shape), self.text(shape, texts)
        if frame is None or said is None:
            return Change(error=next(reversed(self.errors))) if frame is not None else Change()
        for given in (texts, [text.strip() for text in texts]):
            expected = frame
            for i, text in enumerate(given):
                expected = expected.replace(_mark(i), text)
            if _flat(expected) == _flat(said):
                return Change()
        return difference(expected, said)


def _mark(i: int) -> str:
    return f"q{i}x7z v{i}y8w"


def _flat(text: str) -> str:
    return " ".join(text.split())


def difference(before: str, after: str) -> Change:
    """Return what stands in one text and not in the other, by words, tags and signs; white space does not count."""
    a, b = (_TOKENS.findall(text) for text in (before, after))
    head = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    a, b = a[head:], b[head:]
    tail = next((i for i, (x, y) in enumerate(zip(a[::-1], b[::-1], strict=False)) if x != y), min(len(a), len(b)))
    a, b = a[: len(a) - tail], b[: len(b) - tail]
    if max(len(a), len(b)) > MOST_TOKENS:
        return Change(_pieces([b]), _pieces([a]))
    blocks = [op for op in difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes() if op[0] != "equal"]
    parted = [_parted("".join(a[i:j]), "".join(b[k:m])) for _, i, j, k, m in blocks]
    return Change(_pieces(new for _, new in parted), _pieces(old for old, _ in parted))


def _parted(old: str, new: str) -> tuple[str, str]:
    """Return what was replaced and by what; of words that were only run together with further text, that text alone."""
    for rest in (new.removeprefix(old), new.removesuffix(old)):
        if old and rest != new and " " in rest.strip():
            return "", rest
    return old, new


def _pieces(parts: Iterable[str | Sequence[str]]) -> tuple[str, ...]:
    return tuple(flat for part in parts if (flat := _flat("".join(part))))


def compare_templates(
    base: str | None,
    own: str,
    renderer: Renderer,
    prompts: Sequence[str] = (),
    variables: tuple[Mapping[str, Any], Mapping[str, Any]] = ({}, {}),
) -> Compared:
    """Return what the subject's template does that the base's does not.

    Args:
        base: The base's template; None where it has none.
        own: The subject's.
        renderer: Where both are run.
        prompts: Messages to try both on.
        variables: Special tokens, as the templates know them: the base's, the subject's.
    """
    looks = [Look.from_json(renderer.look(text)) if text else Look() for text in (base, own)]
    return _Comparison(_Side(renderer, base, variables[0]), _Side(renderer, own, variables[1]), looks[0], looks[1]).run(
        prompts
    )


@dataclass
class _Comparison:
    """Two templates, and what is known of them so far."""

    base: _Side
    own: _Side
    base_look: Look
    own_look: Look
    acts: dict[tuple[str, str, str], Act] = field(default_factory=dict)

    def run(self, prompts: Sequence[str]) -> Compared:
        self.own.pending = set(self.own_look.texts) - set(self.base_look.texts)
        self._by_turns()
        for text in (*PLAIN, *prompts[:MOST_PROMPTS]):
            self._note(self._change(ASKED, [text]), "on some messages")
        for _ in range(2):  # what is asked once a first condition holds is a literal too
            self._by_literals()
        self._by_length()
        self._by_day()
        self._drop_vague()
        for more in ({"tools": [_TOOL]}, {"enable_thinking": True}, {"enable_thinking": False}):
            self.own.text(WITH_SYSTEM, [_mark(0), _mark(1)], **more)
        known = {(one.kind, one.source, one.text) for one in self.base_look.found}
        found = tuple(f for f in self.own_look.found if (f.kind, f.source, f.text) not in known)
        conditions = any(one.kind in ("content", "date", "count") for one in found)
        held = set(self._literals())
        unseen = tuple(sorted(t for t in self.own.pending if t not in held)) if conditions else ()
        return Compared(
            tuple(self.acts.values()), tuple(self._always()), found, unseen, tuple(self._troubles()), tuple(held)
        )

    # -- what a change comes to

    def _change(self, shape: Shape, texts: Sequence[str]) -> Change:
        """Return what the subject's template does on these texts and the base's does not."""
        own = self.own.change(shape, texts)
        return own if own == Change() else own.without(self.base.change(shape, texts))

    def _note(
        self, change: Change, when: str, trigger: tuple[Trigger, ...] | None = None, tried: Sequence[str] = ()
    ) -> bool:
        """Keep what a change comes to, unless it is only tags of thought, or the very text that brings it about."""
        key = _key(change, tried)
        if key is None:
            return False
        adds, drops, _ = key
        if drops and not adds and not change.error and drops in self._of_own():
            self.acts.setdefault((drops, "", ""), Act(drops, "", when.replace("when ", "unless ", 1), ()))
            return True
        if any(
            one.adds and one.adds in key[0] and one.adds != key[0] and _names_part(one, tried)
            for one in self.acts.values()
        ):
            return True
        before = self.acts.get(key)
        if before is None or (before.trigger is None and trigger is not None):
            self.acts[key] = Act(key[0], key[1], when, trigger, key[2])
        return True

    # -- what it hangs on

    def _by_turns(self) -> None:
        """Note what stands in longer talks alone, or beside a system turn alone."""
        counts = {1, 2, 3, 4, *(k for n in self.own_look.numbers for k in (n, n + 1, n // 2 + 1))}
        shapes = [turns(n) for n in sorted(counts) if n <= MOST_TURNS]
        seen = {shape: self._framed(shape) for shape in (*shapes, WITH_SYSTEM)}
        last = seen[shapes[-1]]
        for text in dict.fromkeys(text for shape in shapes[1:] for text in seen[shape]):
            here = [shape for shape in shapes if text in seen[shape]]
            if shapes[0] in here:
                continue
            n = here[0].roles.count("user")
            lasting = text in last and len(here) == len(shapes) - shapes.index(here[0])
            trigger = (Trigger(kind="at_turn", value=str(n)),) if lasting else None
            self._note(Change((text,)), f"from the user's turn {n} on" if lasting else f"at turn {n}", trigger)
        for text in seen[WITH_SYSTEM] - seen[shapes[0]]:
            self._note(Change((text,)), "when there is a system turn")

    def _framed(self, shape: Shape) -> set[str]:
        """Return the longer texts that the subject's template writes in a shape whatever is said, and the base's does not."""
        own, base = self.own.frame(shape), self.base.frame(shape)
        if own is None:
            return set()
        adds = difference(base or "", own).adds
        return {said for one in adds if len((said := said_words(one)).split()) >= LONG and _mark(0)[:5] not in said}

    def _of_own(self) -> str:
        """Return what the subject's template alone writes around a single message, on one line."""
        own, base = self.own.frame(ASKED), self.base.frame(ASKED)
        return " | ".join(difference(base or "", own or "").adds)

    def _by_literals(self) -> None:
        """Note what each literal brings about alone, then what several do together."""
        literals = self._literals()
        for literal in literals:
            self._one(literal)
        for shape in (ASKED, WITH_SYSTEM, LONGER, *(turns(n) for n in (2, 3, 4, 6)), *map(_on_day, OTHER_DAYS)):
            self._together(shape, literals)

    def _literals(self) -> list[str]:
        """Return what to put into messages: what the subject's template was seen to ask for, then what stands in it."""
        asked = [text.strip() for text in self.own.asked if len(text.strip()) > 1]
        marks = {part for i in range(2 * MOST_TURNS) for part in (_mark(i), *_mark(i).split())}
        here = [text for text in (*asked, *self.own_look.literals) if text not in marks]
        return list(dict.fromkeys(here))[:MOST_LITERALS]

    def _one(self, literal: str) -> None:
        """Note what one literal brings about: at the end of a message, at its beginning, alone, in another turn."""
        carrier = _mark(0)
        for text in dict.fromkeys((literal, literal.lower(), literal.upper(), literal.title(), literal[::-1])):
            placed = (
                ("word", f"{carrier} {text}", "when the message holds"),
                ("begins", f"{text} {carrier}", "when the message begins with"),
                ("whole", text, "when the message is"),
            )
            for kind, content, when in placed:
                trigger = (Trigger.model_validate({"kind": kind, "value": text}),)
                if self._note(self._change(ASKED, [content]), f"{when} {text!r}", trigger, [text]):
                    return
            known = (Trigger(kind="system", value=text),)
            if self._note(self._with(WITH_SYSTEM, [(0, text)]), _when(WITH_SYSTEM, [(0, text)]), known, [text]):
                return
            for i in range(len(LONGER.roles) - 1):
                if self._note(self._with(LONGER, [(i, text)]), _when(LONGER, [(i, text)]), None, [text]):
                    return

    def _together(self, shape: Shape, literals: Sequence[str]) -> None:
        """Note what literals bring about together, in every turn at once, brought down to those it takes."""
        items = [(i, text) for text in literals for i in range(len(shape.roles))]
        whole = self._with(shape, items)
        key = _key(whole, literals)
        if key is None or (key in self.acts and self.acts[key].trigger is not None):
            return
        for item in list(items):
            fewer = [one for one in items if one != item]
            if _key(self._with(shape, fewer), literals) == key:
                items = fewer
        self._note(whole, _when(shape, items), _trigger(shape, items), [text for _, text in items])

    def _with(self, shape: Shape, items: Sequence[tuple[int, str]]) -> Change:
        texts = [" ".join([_mark(i), *(t for at, t in items if at == i)]) for i in range(len(shape.roles))]
        return self._change(shape, texts)

    def _by_length(self) -> None:
        """Note what long messages bring about, around every number that stands in the template."""
        for n in self.own_look.numbers:
            if n > MOST_LENGTH:
                continue
            at, over, far = (self._change(ASKED, [_long(k)]) for k in (n, n + 1, 2 * n + 8))
            if _key(over) is not None and _key(over) == _key(far):
                trigger = (Trigger(kind="length", value=str(n + 1)),)
                self._note(over, f"when the message has {n + 1} characters or more", trigger)
            elif not self._note(at, f"when the message has {n} characters"):
                self._note(self._change(ASKED, [" ".join(["ab"] * (n + 1))]), f"when the message has {n + 1} words")

    def _by_day(self) -> None:
        """Note what one day brings about and another does not, but for the date itself."""
        for day in OTHER_DAYS:
            own, base = (
                difference(_undated(side.frame(ASKED)), _undated(side.frame(_on_day(day))))
                for side in (self.own, self.base)
            )
            self._note(own.without(base), f"on {day}")

    def _drop_vague(self) -> None:
        """Leave out what was only seen on some messages, where a condition for the same text is known."""
        named = [act for act in self.acts.values() if act.when != "on some messages"]
        for key, act in list(self.acts.items()):
            if act.when == "on some messages" and any(act.adds == one.adds and act.adds for one in named):
                del self.acts[key]

    # -- what it does always

    def _always(self) -> Iterator[str]:
        """Yield what the subject's template does to every prompt alike, a sentence for each kind."""
        own, base = self.own.frame(ASKED), self.base.frame(ASKED)
        if own is None or base is None:
            return
        if self.base.template is None:
            yield "the base has no chat template"
            return
        change = difference(base, own)
        if change.adds or change.drops:
            does = [f"adds {' '.join(change.adds)[:200]!r}"] if change.adds else []
            does += [f"drops {' '.join(change.drops)[:200]!r}"] if change.drops else []
            yield f"to every prompt the chat template {' and '.join(does)}"
        elif own != base:
            yield "the chat template writes other white space"

    def _troubles(self) -> Iterator[str]:
        for shape, what in ((ASKED, "a single message"), (WITH_SYSTEM, "a system turn"), (LONGER, "a longer talk")):
            own, base = self.own.frame(shape), self.base.frame(shape)
            if own is None and base is not None and not self.own.renderer.ended:
                yield f"the chat template takes no {what.removeprefix('a ')}, which the base's does"
        for error in self.own.errors:
            if error.startswith(("it did not end", "not rendered", "MemoryError", "ValueError: the template writes")):
                yield f"the chat template could not be rendered: {error}"


def _names_part(act: Act, tried: Sequence[str]) -> bool:
    """Return whether what was tried holds what is known to bring an act about: `unsafe` after `safe`."""
    known = [one.value for one in act.trigger or ()]
    return len(known) == 1 and len(tried) == 1 and known[0] in tried[0]


def _key(change: Change, tried: Sequence[str] = ()) -> tuple[str, str, str] | None:
    """Return what a change comes to: the text added, the text dropped, the error; None where it is formatting."""
    adds = _said([one for one in change.adds if one not in tried])
    drops = _said([one for one in change.drops if all(one not in text and text not in one for text in tried)])
    drops = "" if _mark(0).split()[0] in drops and adds else drops
    return (adds, drops, change.error) if adds or drops or change.error else None


def _said(parts: Sequence[str]) -> str:
    """Return the longest text with words, else the tags, but for those around a thought; empty where there are none."""
    words = max((said_words(part) for part in parts), key=len, default="")
    return words or max((_flat(_THOUGHT.sub("", part)) for part in parts), key=len, default="")


def _on_day(day: str) -> Shape:
    return Shape(day=day)


def _undated(text: str | None) -> str:
    return _DATED.sub("0", text or "")


def _long(n: int) -> str:
    return ("ab " * (n // 3 + 1))[: n - 1] + "b"


def _when(shape: Shape, items: Sequence[tuple[int, str]]) -> str:
    """Return the condition in words: which turn holds what, in how long a talk, on which day."""
    last = len(shape.roles) - 1
    said = {"system": "the system text", "assistant": "an earlier reply", "user": "an earlier message"}
    names = [said[role] for role in shape.roles]
    names[last] = "the message"
    held = [f"{names[i]} holds {text!r}" for i, text in sorted(items, key=lambda item: -item[0])]
    n = shape.roles.count("user")
    held += [f"the user speaks for turn {n}"] if n > 1 else []
    held += [f"the day is {shape.day}"] if shape.day != TODAY else []
    return "when " + " and ".join(held)


def _trigger(shape: Shape, items: Sequence[tuple[int, str]]) -> tuple[Trigger, ...] | None:
    """Return the condition as a prompt can be given it; None where it can't."""
    last, n = len(shape.roles) - 1, shape.roles.count("user")
    if shape.day != TODAY or any(i != last and shape.roles[i] != "system" for i, _ in items):
        return None
    said = [Trigger(kind="word" if i == last else "system", value=text) for i, text in items]
    if sum(one.kind == "system" for one in said) > 1:
        return None
    return (*said, *([Trigger(kind="at_turn", value=str(n))] if n > 1 else []))
