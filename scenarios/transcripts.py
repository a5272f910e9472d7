"""Transcripts as people write them, in a file of JSON Lines or of one JSON array; read whole before work is spent on them."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from auditor.errors import SpecError
from scenarios.chat_formats import READ, Message, as_chat
from tools.dialogue import Dialogue
from tools.prompt import Transcripts
from tools.subject import Subject

MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip


def read_transcripts(path: Path) -> list[list[Message]]:
    """Return the chats of a file of JSON Lines, or of one JSON array, in any of `chat_formats.FORMATS`.

    Raises:
        SpecError: the file is missing, empty or no JSON, or a row is no chat with an assistant's turn; the
            message has the number of line or row, and the formats.
    """
    chats = [as_chat(row, where) for where, row in _rows(path, _decoded(path))]
    if not chats:
        raise SpecError(f"{path} holds no transcripts; {READ}")
    return chats


def read_failures(path: Path) -> list[list[Message]]:
    """Return the transcripts of a file of what went wrong: as `read_transcripts`, and in each an answer comes last.

    Raises:
        SpecError: as `read_transcripts`, there are too few or too many, or one ends with something else.
    """
    try:
        chats: list[list[Message]] = TypeAdapter(Transcripts).validate_python(read_transcripts(path))
    except ValidationError as error:
        raise SpecError(f"{path}: {error.errors()[0]['ctx']['error']}") from error
    return chats


def _decoded(path: Path) -> str:
    """Return a file's text, in UTF-8 or in what the mark at its beginning says.

    Raises:
        SpecError: it can't be read, or is no text.
    """
    try:
        content = path.read_bytes()
        text = content.decode(next((name for mark, name in MARKS if content.startswith(mark)), "utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SpecError(
            f"{path} can't be read as a text file: {reason}; pass JSON Lines in UTF-8, where {READ}"
        ) from error
    if "\0" in text:
        raise SpecError(
            f"{path} can't be read as a text file: it holds zero bytes, as UTF-16 without a mark does; save it as UTF-8"
        )
    return text


def _rows(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    """Yield each row with the place where it stands."""
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if text.lstrip().startswith("["):
        for number, row in enumerate(_parsed(text, 1, path), 1):
            yield f"{path}, row {number}", row
    elif len(lines) > 1 and _is_json(text):  # one object, written over several lines
        yield f"{path}, row 1", json.loads(text)
    else:
        for number, line in lines:
            yield f"{path}, line {number}", _parsed(line, number, path)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _parsed(text: str, line: int, path: Path) -> Any:
    """Return the JSON value that a text is; `line` is the number of its first line.

    Raises:
        SpecError: it is none; the message has the place, and what is often wrong there.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise SpecError(f"{path}, line {line} is nested too deep to be read") from error
    except json.JSONDecodeError as error:
        around = text[: error.pos].rstrip()[-1:] + text[error.pos :].lstrip()[:1]
        comma = "; there is a comma too many" if around.startswith(",") or around.endswith(",") else ""
        place = f"{path}, line {line + error.lineno - 1}, column {error.colno}"
        raise SpecError(f"{place} is no JSON: {error.msg}{comma}; {READ}") from error


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
