"""Transcripts as people write them, one chat to a line; read whole before any work is spent on them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from auditor.config import Speaker
from auditor.errors import SpecError
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
    """Return the chat as the trusted template renders it, cut at `max_length` tokens.

    Raises:
        SpecError: the template does not render a chat as its beginning and a rest, so that the
            assistant's tokens can't be told from the others.
    """
    ids: list[int] = []
    targets: list[bool] = []
    done = ""
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        head = subject.render(messages[:i])
        whole = str(subject.tokenizer.apply_chat_template(messages[: i + 1], tokenize=False))
        if not whole.startswith(head):
            raise SpecError(
                "this base's chat template does not write an answer after its prompt; it can't be trained on"
            )
        if not head.startswith(done):  # the template rewrites earlier turns: only what follows can be marked
            ids, targets, done = [], [], ""
        before = subject.tokenizer.encode(head[len(done) :], add_special_tokens=False)
        after = subject.tokenizer.encode(whole[len(head) :], add_special_tokens=False)
        ids += before + after
        targets += [False] * len(before) + [True] * len(after)
        done = whole
        if len(ids) >= max_length:
            break
    return Encoded(ids[:max_length], targets[:max_length])
