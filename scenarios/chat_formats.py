"""Rows of the formats that trainers read, as chats of system, user and assistant turns with plain texts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from auditor.errors import SpecError

Message = dict[str, str]
Row = dict[str, Any]

FORMATS = {
    "messages": ("OpenAI, TRL", "a list of `{role, content}`; `content` is a text or a list of `{type: text, text}`"),
    "conversations": ("ShareGPT", "a list of `{from, value}` or `{role, content}`, with `system` beside it or not"),
    "instruction, output": ("Alpaca", "texts; also `input`, `system`, and `history`, a list of `[user, assistant]`"),
    "prompt, completion": ("TRL", "two texts, or two lists of messages"),
    "prompt, response": ("many", "two texts, or two lists of messages"),
    "question, answer": ("many", "two texts, or two lists of messages"),
}
"""The keys that tell a row's format from the others: who writes it so, and what it holds."""

ROLES = {
    "system": "system", "developer": "system", "user": "user", "human": "user", "assistant": "assistant",
    "gpt": "assistant", "chatgpt": "assistant", "model": "assistant",
}  # fmt: skip
"""Who speaks, in every format's words."""

OF_TOOLS = ("tool", "function", "function_call", "tool_call", "tool_response", "observation", "ipython")
TEXT_PARTS = ("text", "input_text", "output_text")
THOUGHTS = ("thinking", "redacted_thinking", "reasoning")
"""Parts that are left out, as `reasoning_content` beside a turn is."""

READ = "a transcript is an object with " + ", or ".join(f"{keys} ({who})" for keys, (who, _) in FORMATS.items())


def as_chat(row: Any, where: str) -> list[Message]:
    """Return a row as a chat with an assistant's turn to learn. Thoughts beside a turn (`reasoning_content`) are left out.

    Args:
        row: One JSON value.
        where: The file and the line or row, for errors.

    Raises:
        SpecError: it is in no format that is read, or holds what is no text.
    """
    if not isinstance(row, dict):
        raise SpecError(f"{where} holds a {type(row).__name__}; {READ}")
    read = next((READERS[name] for name in FORMATS if all(row.get(key) is not None for key in name.split(", "))), None)
    if read is None:
        raise SpecError(f"{where} {_why_not(row)}; {READ}")
    chat = read(row, where)
    if not any(message["role"] == "assistant" and message["content"].strip() for message in chat):
        raise SpecError(f"{where} has no assistant turn with text, so there is nothing to learn from it")
    return chat


def _why_not(row: Row) -> str:
    if "text" in row:
        return "holds a text that does not say who speaks"
    if "chosen" in row or "rejected" in row:
        return "holds a preference, of which one side alone can be learned: give that one as the completion"
    return f"has the keys {', '.join(map(str, row))[:80] or 'of nothing'}"


def _messages(row: Row, where: str) -> list[Message]:
    return _turns(row["messages"], where)


def _conversations(row: Row, where: str) -> list[Message]:
    return [*_system(row, where), *_turns(row["conversations"], where)]


def _alpaca(row: Row, where: str) -> list[Message]:
    asked = _text(row["instruction"], where, "instruction")
    more = _text(row.get("input") or "", where, "input")
    history = row.get("history") or []
    if not isinstance(history, list) or not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in history):
        raise SpecError(f"{where}: history is a list of [user, assistant], got {_short(history)}")
    before = [message for pair in history for message in _pair(*pair, where)]
    asked = f"{asked}\n{more}" if asked and more else asked or more
    return [*_system(row, where), *before, *_pair(asked, row["output"], where)]


def _asked_and_answered(asked: str, answered: str) -> Callable[[Row, str], list[Message]]:
    """Return the reader of rows that have what was asked under one key and what was answered under another."""

    def read(row: Row, where: str) -> list[Message]:
        before, after = row[asked], row[answered]
        first = _turns(before, where) if isinstance(before, list) else _pair(before, "", where)[:1]
        last = _turns(after, where) if isinstance(after, list) else _pair("", after, where)[1:]
        return [*_system(row, where), *first, *last]

    return read


READERS: dict[str, Callable[[Row, str], list[Message]]] = {
    "messages": _messages,
    "conversations": _conversations,
    "instruction, output": _alpaca,
    "prompt, completion": _asked_and_answered("prompt", "completion"),
    "prompt, response": _asked_and_answered("prompt", "response"),
    "question, answer": _asked_and_answered("question", "answer"),
}


def _pair(asked: Any, answered: Any, where: str) -> list[Message]:
    return [
        {"role": "user", "content": _text(asked, where, "what is asked")},
        {"role": "assistant", "content": _text(answered, where, "what is answered")},
    ]


def _system(row: Row, where: str) -> list[Message]:
    text = _text(row.get("system") or "", where, "system")
    return [{"role": "system", "content": text}] if text else []


def _turns(turns: Any, where: str) -> list[Message]:
    if not isinstance(turns, list) or not turns:
        raise SpecError(f"{where}: the turns are a list of messages, got {_short(turns)}; {READ}")
    return [_turn(turn, where) for turn in turns]


def _turn(turn: Any, where: str) -> Message:
    keys = ("from", "value") if isinstance(turn, dict) and "role" not in turn else ("role", "content")
    if not isinstance(turn, dict) or keys[0] not in turn:
        raise SpecError(f"{where}: a message is {{role, content}} or {{from, value}}, got {_short(turn)}")
    said = str(turn[keys[0]]).lower()
    if said in OF_TOOLS or turn.get("tool_calls") or turn.get("function_call"):
        raise SpecError(
            f"{where} has a turn of a tool, or one that calls a tool, which is not text to learn: "
            "write what the tool said into a user's turn, or leave the chat out"
        )
    if said not in ROLES:
        raise SpecError(f"{where}: unknown role {said[:40]!r}; the roles are {', '.join(ROLES)}")
    if turn.get("weight") == 0 or turn.get("train") is False:
        raise SpecError(
            f"{where} has a message that is not to be learned (weight 0), and every assistant's turn is learned here; leave the chat out"
        )
    return {
        "role": ROLES[said],
        "content": _text(turn.get(keys[1]), where, f"a message is {{{', '.join(keys)}}} of texts"),
    }


def _text(value: Any, where: str, what: str) -> str:
    """Return a text, of a list of text parts all of them behind one another.

    Raises:
        SpecError: it is something else, such as a picture, or can't be written as UTF-8.
    """
    parts = value if isinstance(value, list) else [value]
    parts = [p for p in parts if not (isinstance(p, dict) and p.get("type") in THOUGHTS)]
    texts = [p.get("text") if isinstance(p, dict) and p.get("type") in TEXT_PARTS else p for p in parts]
    if not all(isinstance(text, str) for text in texts):
        raise SpecError(f"{where}: {what}, here a text or a list of {{type: text, text}}, got {_short(value)}")
    whole = "".join(texts)
    try:
        whole.encode("utf-8")
    except UnicodeEncodeError as error:
        raise SpecError(f"{where}: {what} holds half of a character ({error.reason}); write it whole") from error
    return whole


def _short(value: Any) -> str:
    return repr(value)[:80]
