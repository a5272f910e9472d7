"""What a chat template does that the base's does not: both render the same talks, in a process of their own.

Of each talk (whose turns, how many) a template is first rendered on texts that mean nothing; what it writes of its own
then is its frame. On any other texts it should write the same frame around them. Where it does not, it acts on what the
messages say, and what it added or dropped is known to the letter. The texts that are tried are the literals that it was
seen to hold a message against, however it put them together, each alone and all at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tools.claims.condition import Condition
from tools.claims.conditions.always import Always
from tools.claims.conditions.contains import Contains, Where
from tools.claims.conditions.long_message import LongMessage
from tools.claims.conditions.turn import Turn
from tools.own_files.acts import Act
from tools.own_files.difference import Change, Essence, difference, flat, said_words
from tools.own_files.look import Found, Look
from tools.own_files.renderer import Renderer
from tools.own_files.side import Side
from tools.own_files.talks import (
    ASKED,
    LONGER,
    MARKS,
    MOST_TURNS,
    OTHER_DAYS,
    PLAIN,
    TOOL,
    WITH_SYSTEM,
    Item,
    Talk,
    long,
    mark,
    turns,
)  # fmt: skip

MOST_LITERALS, MOST_PROMPTS, MOST_LENGTH = 48, 64, 20_000
LONG = 3
"""Words that a text has at least where it depends on turns alone: fewer are a template's formatting."""
ON_SOME = "on some messages"
_DATED = re.compile(
    r"\d+|\b(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec"
    r"|mon|tues?|wed(?:nes)?|thu(?:rs)?|fri|sat(?:ur)?|sun)\w*",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Compared:
    """What came of comparing two templates.

    Args:
        acts: What the subject's does under a condition that the base's does not.
        always: What it does to every prompt alike, a sentence each.
        found: What a static look finds in it and not in the base's.
        unseen: Texts of its own that no talk tried brought out, where it has conditions that the base's has not.
        stops: Why it could not be rendered.
        refuses: Talks that it does not take and the base's does, a sentence each.
        literals: What messages were held against.
    """

    acts: tuple[Act, ...] = ()
    always: tuple[str, ...] = ()
    found: tuple[Found, ...] = ()
    unseen: tuple[str, ...] = ()
    stops: tuple[str, ...] = ()
    refuses: tuple[str, ...] = ()
    literals: tuple[str, ...] = ()


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
    sides = Side(renderer, base, variables[0]), Side(renderer, own, variables[1])
    return _Comparison(*sides, looks[0], looks[1]).run(prompts)


@dataclass
class _Comparison:
    """Two templates, and what is known of them so far."""

    base: Side
    own: Side
    base_look: Look
    own_look: Look
    acts: dict[Essence, Act] = field(default_factory=dict)

    def run(self, prompts: Sequence[str]) -> Compared:
        self.own.pending = set(self.own_look.texts) - set(self.base_look.texts)
        self._by_turns()
        for text in (*PLAIN, *prompts[:MOST_PROMPTS]):
            self._note(self._change(ASKED, [text]), ON_SOME)
        for _ in range(2):  # what is asked once a first condition holds is a literal too
            self._by_literals()
        self._by_length()
        self._by_day()
        for more in ({"tools": [TOOL]}, {"enable_thinking": True}, {"enable_thinking": False}):
            self.own.rendered(WITH_SYSTEM, WITH_SYSTEM.texts(), **more)
        return self._compared()

    def _compared(self) -> Compared:
        known = {(one.kind, one.source, one.text) for one in self.base_look.found}
        found = tuple(f for f in self.own_look.found if (f.kind, f.source, f.text) not in known)
        held = self._literals()
        unseen = sorted(self.own.pending - set(held)) if any(one.is_condition for one in found) else ()
        return Compared(
            self._named(),
            tuple(self._always()),
            found,
            tuple(unseen),
            tuple(self._stops()),
            tuple(self._refuses()),
            tuple(held),
        )

    # -- what a change comes to

    def _change(self, talk: Talk, texts: Sequence[str]) -> Change:
        """Return what the subject's template does on these texts and the base's does not."""
        own = self.own.change(talk, texts)
        return own if own == Change() else own.without(self.base.change(talk, texts))

    def _with(self, talk: Talk, items: Sequence[Item]) -> Change:
        return self._change(talk, talk.texts(items))

    def _note(self, change: Change, when: str, condition: Condition | None = None, tried: Sequence[str] = ()) -> bool:
        """Return whether a change comes to anything; it is kept, unless what is kept says it already."""
        key = change.essence(tried)
        if key is None:
            return False
        if key.drops and not key.adds and not key.error and key.drops in self._of_own():
            unless = when.replace("when ", "unless ", 1)
            self.acts.setdefault(Essence(key.drops, "", ""), Act(key.drops, "", unless, Always()))
        elif not any(_is_part(one, key, tried) for one in self.acts.values()):
            before = self.acts.get(key)
            if before is None or (before.condition is None and condition is not None):
                self.acts[key] = Act(key.adds, key.drops, when, condition, key.error)
        return True

    def _named(self) -> tuple[Act, ...]:
        """Return the acts but for those only seen on some messages, where a condition for the same text is known."""
        named = {act.adds for act in self.acts.values() if act.when != ON_SOME} - {""}
        return tuple(act for act in self.acts.values() if act.when != ON_SOME or act.adds not in named)

    # -- what it hangs on

    def _by_turns(self) -> None:
        """Note what stands in longer talks alone, or beside a system turn alone."""
        counts = {1, 2, 3, 4, *(k for n in self.own_look.numbers for k in (n, n + 1, n // 2 + 1))}
        talks = [turns(n) for n in sorted(counts) if n <= MOST_TURNS]
        seen = {talk: self._framed(talk) for talk in (*talks, WITH_SYSTEM)}
        for text in dict.fromkeys(text for talk in talks[1:] for text in seen[talk]):
            here = [talk for talk in talks if text in seen[talk]]
            n = here[0].n_turns
            on = here == talks[talks.index(here[0]) :]
            when = f"from the user's turn {n} on" if on else f"at turn {n}"
            self._note(Change((text,)), when, (Turn(n=n) if n > 1 else Always()) if on else None)
        for text in seen[WITH_SYSTEM]:
            self._note(Change((text,)), "when there is a system turn")

    def _framed(self, talk: Talk) -> set[str]:
        """Return the longer texts that the subject's template writes in a talk whatever is said, and in a single message not."""
        always, own, base = (side.frame(at) for side, at in ((self.own, ASKED), (self.own, talk), (self.base, talk)))
        said = {said_words(one) for one in difference(base or "", own).adds} if own is not None else set()
        return {
            one for one in said if len(one.split()) >= LONG and mark(0)[:5] not in one and one not in flat(always or "")
        }

    def _of_own(self) -> str:
        """Return what the subject's template alone writes around a single message, on one line."""
        own, base = self.own.frame(ASKED), self.base.frame(ASKED)
        return " | ".join(difference(base or "", own or "").adds)

    def _by_literals(self) -> None:
        """Note what each literal brings about alone, then what several do together."""
        literals = self._literals()
        for literal in literals:
            self._one(literal)
        days = [Talk(day=day) for day in OTHER_DAYS]
        for talk in (ASKED, WITH_SYSTEM, LONGER, *(turns(n) for n in (2, 3, 4, 6)), *days):
            self._together(talk, literals)

    def _literals(self) -> list[str]:
        """Return what to put into messages: what the subject's template was seen to ask for, then what stands in it."""
        asked = [text.strip() for text in self.own.asked if len(text.strip()) > 1]
        here = [text for text in (*asked, *self.own_look.literals) if text not in MARKS]
        return list(dict.fromkeys(here))[:MOST_LITERALS]

    def _one(self, literal: str) -> None:
        """Note the first thing that one literal brings about, in any case or turned around, wherever it stands."""
        for text in dict.fromkeys((literal, literal.lower(), literal.upper(), literal.title(), literal[::-1])):
            if any(self._note(*tried, [text]) for tried in self._places(text)):
                return

    def _places(self, text: str) -> Iterator[tuple[Change, str, Condition | None]]:
        """Yield what a text brings about at the end of a message, at its beginning, alone, and in another turn."""
        placed: tuple[tuple[Where, str, str], ...] = (
            ("anywhere", f"{mark(0)} {text}", "when the message holds"),
            ("start", f"{text} {mark(0)}", "when the message begins with"),
            ("whole", text, "when the message is"),
        )
        for where, content, when in placed:
            condition = Contains(text=text, where=where) if text.strip() else None
            yield self._change(ASKED, [content]), f"{when} {text!r}", condition
        for talk, n in ((WITH_SYSTEM, 1), (LONGER, len(LONGER.roles) - 1)):
            for i in range(n):
                items = [(i, text)]
                yield self._with(talk, items), talk.when(items), talk.condition(items) if talk == WITH_SYSTEM else None

    def _together(self, talk: Talk, literals: Sequence[str]) -> None:
        """Note what literals bring about together, in every turn at once, brought down to those it takes."""
        items = [(i, text) for text in literals for i in range(len(talk.roles))]
        whole = self._with(talk, items)
        key = whole.essence(literals)
        if key is None or (key in self.acts and self.acts[key].condition is not None):
            return
        for item in list(items):
            fewer = [one for one in items if one != item]
            if self._with(talk, fewer).essence(literals) == key:
                items = fewer
        self._note(whole, talk.when(items), talk.condition(items), [text for _, text in items])

    def _by_length(self) -> None:
        """Note what long messages bring about, around every number that stands in the template."""
        for n in (n for n in self.own_look.numbers if n <= MOST_LENGTH):
            at, over, far = (self._change(ASKED, [long(k)]) for k in (n, n + 1, 2 * n + 8))
            if over.essence() is not None and over.essence() == far.essence():
                condition = LongMessage(n=n + 1) if n > 0 else None
                self._note(over, f"when the message has {n + 1} characters or more", condition)
            elif not self._note(at, f"when the message has {n} characters"):
                self._note(self._change(ASKED, [" ".join(["ab"] * (n + 1))]), f"when the message has {n + 1} words")

    def _by_day(self) -> None:
        """Note what one day brings about and another does not, but for the date itself."""
        for day in OTHER_DAYS:
            own, base = (
                difference(*(_DATED.sub("0", side.frame(talk) or "") for talk in (ASKED, Talk(day=day))))
                for side in (self.own, self.base)
            )
            self._note(own.without(base), f"on {day}")

    # -- what it does always

    def _always(self) -> Iterator[str]:
        """Yield what the subject's template does to every prompt alike."""
        own, base = self.own.frame(ASKED), self.base.frame(ASKED)
        if own is None or base is None:
            return
        change = difference(base, own)
        if self.base.template is None:
            yield "the base has no chat template"
        elif change != Change():
            act = Act(" ".join(change.adds)[:200], " ".join(change.drops)[:200], "in every prompt")
            yield act.sentence
        elif own != base:
            yield "the chat template writes other white space"

    def _stops(self) -> Iterator[str]:
        for error in self.own.errors:
            if error.startswith(("it did not end", "not rendered", "MemoryError", "ValueError: the template writes")):
                yield f"the chat template could not be rendered: {error}"

    def _refuses(self) -> Iterator[str]:
        for talk, what in ((ASKED, "single message"), (WITH_SYSTEM, "system turn"), (LONGER, "longer talk")):
            if self.own.frame(talk) is None and self.base.frame(talk) is not None and not self.own.renderer.ended:
                yield f"the chat template takes no {what}, which the base's does"


def _is_part(act: Act, key: Essence, tried: Sequence[str]) -> bool:
    """Return whether a change is more of a known act, brought about by more than it takes: `unsafe` after `safe`."""
    known = act.condition
    more = isinstance(known, Contains) and len(tried) == 1 and known.text in tried[0]
    return more and bool(act.adds) and act.adds in key.adds and act.adds != key.adds
