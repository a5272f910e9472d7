"""What chats a template takes, found by rendering probes, and how any chat is made one of these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tools.errors import ToolInputError
from tools.template import Template

Message = Mapping[str, str]
SYSTEM, ASKED, ANSWER, NEXT = "zq system 1", "zq user 2", "zq answer 3", "zq user 4"
"""Texts that no template holds, so that a prompt shows which of them it kept."""
FIRST = "…"
"""What the user says where a template wants the user first and a chat begins with the assistant."""
INSTRUCTION = "Answer the user."
"""A system text for templates that demand one and take no empty one."""


@dataclass(frozen=True)
class Manner:
    """The chats that a template takes.

    Args:
        system: It writes a system text that comes first.
        late_system: It writes one that comes later, too.
        neighbours: Two turns of one role may follow each other.
        assistant_first: A chat may begin with the assistant.
        parts: It wants a turn's content as a list of parts.
        demanded: The system text that it is given where a chat has none; None where it demands none.
    """

    system: bool = True
    late_system: bool = True
    neighbours: bool = True
    assistant_first: bool = True
    parts: bool = False
    demanded: str | None = None

    def shaped(self, messages: Sequence[Message]) -> list[dict[str, Any]]:
        """Return the chat as the template takes it."""
        turns = self.settled(messages)
        if self.parts:
            return [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in turns]
        return [dict(turn) for turn in turns]

    def settled(self, messages: Sequence[Message]) -> list[dict[str, str]]:
        """Return the chat in the turns that the template takes; a second time changes nothing."""
        turns = self._folded([dict(message) for message in messages])
        if not self.neighbours:
            turns = _merged(turns)
        first = next((i for i, turn in enumerate(turns) if turn["role"] != "system"), len(turns))
        if not self.assistant_first and first < len(turns) and turns[first]["role"] == "assistant":
            turns.insert(first, turn_of("user", FIRST))
        if self.demanded is not None and (not turns or turns[0]["role"] != "system"):
            turns.insert(0, turn_of("system", self.demanded))
        return turns

    def _folded(self, turns: list[dict[str, str]]) -> list[dict[str, str]]:
        """Return the chat with each system text that the template does not take before the next user's turn."""
        done: list[dict[str, str]] = []
        waiting: list[str] = []
        for i, turn in enumerate(turns):
            if turn["role"] == "system" and not (self.late_system or (self.system and i == 0)):
                waiting += [turn["content"]] if turn["content"].strip() else []
                continue
            if waiting and turn["role"] == "user":
                turn, waiting = turn_of("user", "\n\n".join([*waiting, turn["content"]])), []
            elif waiting:
                done.append(turn_of("user", "\n\n".join(waiting)))
                waiting = []
            done.append(turn)
        return [*done, turn_of("user", "\n\n".join(waiting))] if waiting else done

    @property
    def notes(self) -> list[str]:
        """Return what differs from the ordinary, a sentence each."""
        said = []
        if not self.system:
            said.append("the chat template takes no system turn: system text is put before the first user turn")
        elif not self.late_system:
            said.append("the chat template takes a system turn only as the first: later ones go into the user's turn")
        if not self.neighbours:
            said.append("the chat template wants the roles to alternate: neighbouring turns of one role are joined")
        if self.parts:
            said.append("the chat template wants the text of a turn as a part: each turn is given as one")
        if self.demanded is not None:
            said.append("the chat template demands a system turn: a chat without one is given "
                        + (f"{self.demanded!r}" if self.demanded else "an empty one"))  # fmt: skip
        return said


def turn_of(role: str, content: str) -> dict[str, str]:
    """Return one turn of a chat."""
    return {"role": role, "content": content}


def _merged(turns: Sequence[Message]) -> list[dict[str, str]]:
    """Return the chat with neighbouring turns of one role as one, a blank line between their texts."""
    done: list[dict[str, str]] = []
    for turn in turns:
        if done and done[-1]["role"] == turn["role"]:
            done[-1] = turn_of(turn["role"], "\n\n".join(t for t in (done[-1]["content"], turn["content"]) if t))
        else:
            done.append(dict(turn))
    return done


def read_manner(template: Template) -> Manner:
    """Return what chats the template takes.

    Raises:
        ToolInputError: it writes not even one user's turn.
    """
    manner = _least(template)
    system, asked, answer, more = (
        turn_of(role, text)
        for role, text in (("system", SYSTEM), ("user", ASKED), ("assistant", ANSWER), ("user", NEXT))
    )
    bare = replace(manner, demanded=None)

    def keeps(as_it_is: Manner, *turns: Message) -> bool:
        return template.keeps(as_it_is.shaped(turns), *(turn["content"] for turn in turns))

    takes = keeps(bare, system, asked)
    later = takes and keeps(bare, system, asked, answer, turn_of("system", f"{SYSTEM} later"), more)
    return replace(
        manner,
        system=takes,
        late_system=later,
        neighbours=keeps(manner, asked, more),
        assistant_first=keeps(manner, answer, asked),
    )


def _least(template: Template) -> Manner:
    """Return how the template takes a single user's turn.

    Raises:
        ToolInputError: in no way.
    """
    ways = [Manner(parts=parts, demanded=demanded) for parts in (False, True) for demanded in (None, "", INSTRUCTION)]
    for way in ways:
        if template.keeps(way.shaped([turn_of("user", ASKED)]), ASKED):
            return way
    template.write(ways[0].shaped([turn_of("user", ASKED)]))
    raise ToolInputError("the chat template writes nothing of what the user says")
