"""Transcripts as people write them, one chat to a line; read whole before any work is spent on them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from auditor.config import Speaker
from auditor.errors import SpecError
from tools.dialogue import Dialogue
from tools.subject import Subject

Message = dict[str, str]


def read_transcripts(path: Path) -> list[list[Message]]:
    """Return the chats of a JSON Lines file, each line `{"messages": [{"role", "content"}, …]}`.

    Raises:
        SpecError: the file is missing or empty, or a line is no chat with an assistant turn; the
            message has the line's number.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path} can't be read as a text file: {error}") from error
    chats = [_chat(line, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not chats:
        raise SpecError(f'{path} holds no transcripts; each line is {{"messages": [{{"role", "content"}}, …]}}')
    return chats


def _chat(line: str, where: str) -> list[Message]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise SpecError(f"{where} is no JSON: {error}") from error
    messages = row.get("messages") if isinstance(row, dict) else None
    if not isinstance(messages, list) or not messages:
        raise SpecError(f'{where}: a transcript is {{"messages": [{{"role", "content"}}, …]}}, got {line[:80]!r}')
    for message in messages:
        _check(message, where)
    if not any(message["role"] == "assistant" and message["content"].strip() for message in messages):
        raise SpecError(f"{where} has no assistant turn with text, so there is nothing to learn from it")
    return messages


def _check(message: Any, where: str) -> None:
    roles = get_args(Speaker)
    if not isinstance(message, dict) or set(message) != {"role", "content"} or not isinstance(message["content"], str):
        raise SpecError(f"{where}: a message is {{role, content}} of texts, got {str(message)[:80]!r}")
    if message["role"] not in roles:
        raise SpecError(f"{where}: unknown role {str(message['role'])[:40]!r}; the roles are {', '.join(roles)}")


@dataclass(frozen=True)
class Encoded:
    """One chat as token ids, with True on every token that the assistant wrote, its end included."""

    ids: list[int]
    targets: list[bool]


def encode(subject: Subject, messages: list[Message], max_length: int) -> Encoded:
    """Return the chat under the trusted template, with the answers marked that stand in it as they were said.

    Raises:
        ToolInputError: the template refuses the chat.
    """
    return stretches(subject, messages, max_length)[-1]


def stretches(subject: Subject, messages: list[Message], max_length: int) -> list[Encoded]:
    """Return the chat as rows in which every answer is marked once, behind the prompt that asks for it.

    That is one row, cut at `max_length` tokens. Where the template writes an earlier answer otherwise once another
    turn follows (one that takes thoughts out), it is a row for each stretch that is written alike.

    Raises:
        ToolInputError: the template refuses the chat.
    """
    rows: list[Encoded] = []
    row, done = Encoded([], []), ""
    turns = subject.dialogue.manner.settled(messages)
    for i, turn in enumerate(turns):
        if turn["role"] != "assistant" or not i:
            continue
        head, whole = _answered(subject.dialogue, turns[:i], turn)
        if not head.startswith(done):
            rows.append(row)
            row, done = Encoded([], []), ""
        before = subject.tokenizer.encode(head[len(done) :], add_special_tokens=False)
        after = subject.tokenizer.encode(whole[len(head) :], add_special_tokens=False)
        row = Encoded([*row.ids, *before, *after], [*row.targets, *[False] * len(before), *[True] * len(after)])
        done = whole
    return [Encoded(row.ids[:max_length], row.targets[:max_length]) for row in (*rows, row)]


def _answered(dialogue: Dialogue, before: list[Message], turn: Message) -> tuple[str, str]:
    """Return the prompt that asks for this turn, and the same with the turn behind it.

    What the template itself writes of the answered turn is taken where it begins with the prompt and has all that
    was said; elsewhere the turn is written behind the prompt, with the template's own end.
    """
    thinking, said = dialogue.thinking, turn["content"]
    thought = thinking.parted(said, opened=thinking.aloud.opens)[0]
    way = thinking.aloud if thought else thinking.silent
    head = dialogue.asked(before, way)
    whole = dialogue.told([*before, turn])
    if whole.startswith(head) and thought in whole[len(head) :]:
        return head, whole
    if thought and way.opens and thinking.marks is not None:
        said = said.lstrip().removeprefix(thinking.marks.opening).lstrip()
    return head, head + said + dialogue.end
