"""A thought before the answer: how a template marks one, and how it is left out or let be."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tools.errors import ToolInputError
from tools.manner import ANSWER, ASKED, Manner, turn_of
from tools.template import Template

Choice = Literal["on", "off"]
NO_ANSWER_TAG = ("assistant", "model", "bot", "/")
LEFT_ALONE = ("content", "budget", "effort", "token")
"""Words in the names of a template's variables that are no switches."""


@dataclass(frozen=True)
class Marks:
    """What stands before and behind a thought."""

    opening: str
    closing: str


FAMILIES = (
    Marks("<think>", "</think>"),
    Marks("<thinking>", "</thinking>"),
    Marks("<thought>", "</thought>"),
    Marks("<reasoning>", "</reasoning>"),
    Marks("<|begin_of_thought|>", "<|end_of_thought|>"),
    Marks("<|START_THINKING|>", "<|END_THINKING|>"),
    Marks("[THINK]", "[/THINK]"),
    Marks("◁think▷", "◁/think▷"),
    Marks("<seed:think>", "</seed:think>"),
    Marks("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
)
TAG = re.compile(r"(?:<\|?|\[|◁)[^<>\[\]◁▷\s]{1,40}(?:\|?>|\]|▷)\s*\Z")


@dataclass(frozen=True)
class Way:
    """One way of asking: the template's flags, what is written behind its prompt, and the thought left open there."""

    flags: dict[str, bool | str] = field(default_factory=dict)
    behind: str = ""
    opens: bool = False


@dataclass(frozen=True)
class Thinking:
    """How a thought is let be, and how it is left out; `marks` is None where the template knows of none."""

    marks: Marks | None
    aloud: Way
    silent: Way
    wanted: bool = False

    @property
    def thinks(self) -> bool:
        """Return whether a reply is read through its thought to its answer."""
        return self.wanted and self.marks is not None

    @property
    def way(self) -> Way:
        """Return how the subject is asked."""
        return self.aloud if self.wanted else self.silent

    def parted(self, reply: str, opened: bool | None = None) -> tuple[str, str]:
        """Return a reply's thought and its answer; one whose thought does not end is all answer.

        Args:
            reply: What the subject said.
            opened: Its prompt had opened a thought; None is as the subject is asked.
        """
        if self.marks is None or self.marks.closing not in reply:
            return "", reply
        if not (reply.lstrip().startswith(self.marks.opening) or (self.way.opens if opened is None else opened)):
            return "", reply
        thought, _, answer = reply.partition(self.marks.closing)
        return thought.strip().removeprefix(self.marks.opening).strip(), answer.strip()


def read_thinking(template: Template, manner: Manner, choice: Choice | None) -> Thinking:
    """Return how this template's model is asked, with a thought or without.

    Left to itself a thought is left out where the template shows how: by a switch of its own, or by an answered
    turn before whose answer the thought stands closed, or because the prompt has opened it and it can be closed
    at once. Where the template only takes thoughts out of earlier turns, the prompt stays as it is.

    Args:
        template: The trusted template.
        manner: What chats it takes.
        choice: What the user wants; None is left to the template.
    """

    def write(flags: Mapping[str, Any], answered: bool) -> str:
        turns = [turn_of("user", ASKED), *([turn_of("assistant", ANSWER)] if answered else [])]
        try:
            return template.write(manner.shaped(turns), not answered, flags)
        except ToolInputError:
            return ""

    on, off = _switch(template.text, write)
    marks = _marks(template, [write(flags, False) for flags in (on, off)], write(off, True))
    aloud, silent = (_way(flags, write, marks) for flags in (on, off))
    behind = _closed(write(off, False), write(off, True), marks, silent.opens)
    if not behind and marks is not None and not off and choice == "off":
        behind = f"{marks.opening}\n\n{marks.closing}\n\n"
    return Thinking(marks, aloud, Way(off, behind), choice == "on")


def _switch(text: str, write: Callable[[Mapping[str, Any], bool], str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the flags that let a thought be and that leave it out; both empty where the template has no switch."""
    named = set(re.findall(r"\b[a-zA-Z_]*(?:think|reason)[a-zA-Z_]*\b", text))
    names = sorted(n for n in named if not any(word in n.lower() for word in LEFT_ALONE))
    for name in sorted(names, key=lambda n: (n != "enable_thinking", n != "thinking"))[:12]:
        plain, no, yes = write({}, False), write({name: False}, False), write({name: True}, False)
        if (
            not no
            or not yes
            or no == yes
            or any(str(v) in said and str(v) not in plain for v, said in ((False, no), (True, yes)))
        ):
            continue
        off = name.lower().startswith(("skip", "no_", "disable", "hide"))
        closed = [any(m.closing in said for m in FAMILIES) for said in (no, yes)]
        if closed[0] != closed[1]:
            off = closed[1]
        return {name: not off}, {name: off}
    return {}, {}


def _marks(template: Template, prompts: list[str], told: str) -> Marks | None:
    """Return the marks of a thought: those that a prompt leaves open, else a family that the template or vocabulary has."""
    known = template.text + "".join(template.tokenizer.get_added_vocab())
    for prompt in prompts:
        opening = _left_open(prompt, told, known)
        if opening:
            return next((m for m in FAMILIES if m.opening == opening), Marks(opening, _closing(opening, known)))
    return next((m for m in FAMILIES if m.closing in known and m.opening in known), None)


def _left_open(prompt: str, told: str, known: str) -> str:
    """Return the tag of a thought that a prompt leaves open; empty where it leaves none.

    A tag of no known family is one where the same turn, once answered, is written without it, or with its end
    before the answer.
    """
    family = next((m.opening for m in FAMILIES if prompt.rstrip().endswith(m.opening)), "")
    found = TAG.search(prompt)
    if family or found is None:
        return family
    tag, head = found[0].strip(), prompt[: found.start()].rstrip()
    if any(word in tag.lower() for word in NO_ANSWER_TAG) or not told.startswith(head):
        return ""
    between = told[len(head) :].partition(ANSWER)[0]
    return tag if not between.strip() or _closing(tag, known) in between else ""


def _closing(opening: str, known: str) -> str:
    """Return the tag that ends what a tag opens: the first likely one that the template or vocabulary has."""
    swapped = [
        opening.replace(a, b) for a, b in (("begin", "end"), ("start", "end"), ("START", "END"), ("open", "close"))
    ]
    inner = 2 if opening.startswith("<|") else 1
    ways = [way for way in swapped if way != opening]
    ways += [f"{opening[:inner]}/{opening[inner:]}", f"{opening[:1]}/{opening[1:]}"]
    return next((way for way in ways if way in known), ways[0])


def _way(flags: dict[str, Any], write: Callable[[Mapping[str, Any], bool], str], marks: Marks | None) -> Way:
    prompt = write(flags, False).rstrip()
    return Way(flags, opens=marks is not None and prompt.endswith(marks.opening))


def _closed(prompt: str, told: str, marks: Marks | None, opens: bool) -> str:
    """Return what is written behind a prompt so that no thought is to come; empty where the prompt needs nothing."""
    if marks is None:
        return ""
    before, answered, _ = told.partition(ANSWER)
    if answered and before.startswith(prompt) and marks.closing in before[len(prompt) :]:
        return before[len(prompt) :]
    return f"\n{marks.closing}\n\n" if opens else ""


def notes_on(found: Thinking, choice: Choice | None) -> list[str]:
    """Return what the report says of thoughts, a sentence each."""
    switch = "".join(f" ({name}={value})" for name, value in found.way.flags.items())
    if found.marks is None and not found.silent.flags:
        return (
            []
            if choice is None
            else ["the chat template knows of no thought before an answer: `thinking` changes nothing"]
        )
    if found.wanted:
        judged = (
            "its answer is what counts, and the rows hold the thought too"
            if found.marks
            else "its replies are read whole"
        )
        return [f"the model is let think before it answers{switch}: {judged}"]
    if found.silent.flags or found.silent.behind:
        return [f"the model can think before it answers: it is asked not to{switch}; `--thinking on` lets it"]
    return ["the model's files have marks of a thought and no switch for it: the model is asked as the template stands; "
            "`--thinking on` reads its replies through the thought"]  # fmt: skip
