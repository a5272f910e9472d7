"""The process that renders templates and reads with tokenizers: a stranger's run here, in transformers' sandbox, within bounds.

One request a line on stdin, one answer a line on stdout. Whoever started it ends it when an answer takes too long.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable
from datetime import date
from functools import lru_cache
from typing import Any

MOST_TEXT = 100_000
"""Characters of one rendering that are kept; a longer one is an error."""
MOST_BYTES = 1 << 30
"""Memory that rendering may take beside the interpreter's own, where the platform can bound it."""


def main() -> None:
    """Say that requests can come, then answer them until there are no more."""
    answers: dict[str, Callable[..., dict[str, Any]]] = {"look": _look, "render": _render, "read": _read}
    _import()
    _bound_memory()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = answers[request.pop("do")](**request)
        except BaseException as error:  # whatever a hostile file brings about is its error, a panic of Rust's too
            answer = {"error": f"{type(error).__name__}: {error}"[:300]}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _import() -> None:
    """Import what answers need while memory is not bounded yet."""
    importlib.import_module("transformers.utils.chat_template_utils")
    importlib.import_module("tools.own_files.look")
    importlib.import_module("tokenizers")


def _bound_memory() -> None:
    """Let this process take no more memory than it needs, where the platform can."""
    try:
        resource: Any = importlib.import_module("resource")
        with open("/proc/self/statm") as stream:
            now = int(stream.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + MOST_BYTES, now + MOST_BYTES))
    except (ImportError, OSError, ValueError):
        return


def _look(template: str) -> dict[str, Any]:
    from tools.own_files.look import look

    return look(template).as_json()


def _render(template: str, messages: list[dict[str, Any]], day: str, variables: dict[str, Any]) -> dict[str, Any]:
    """Return the text, and the literals that the messages' texts were held against.

    Raises:
        ValueError: the template writes too much.
    """
    from transformers.utils.chat_template_utils import _compile_jinja_template

    from tools.own_files.watched import Log, Watched

    asked: Log = {}

    def watch(said: Any) -> Any:
        return (
            Watched(said, asked) if isinstance(said, str) else [{**part, "text": watch(part["text"])} for part in said]
        )

    watched = [{"role": m["role"], "content": watch(m["content"])} for m in messages]
    told = date.fromisoformat(day)
    parts: list[str] = []
    room = MOST_TEXT
    for part in _compile_jinja_template(template).generate(
        **{"tools": None, "documents": None, "date_string": told.strftime("%d %b %Y"), **variables},
        messages=watched, add_generation_prompt=True, strftime_now=told.strftime,
    ):  # fmt: skip
        parts.append(str.__str__(part))
        room -= len(part)
        if room < 0:
            raise ValueError(f"the template writes more than {MOST_TEXT:,} characters")
    return {"text": "".join(parts), "asked": list(asked)}


@lru_cache(maxsize=2)
def _tokenizer(path: str, changed: float) -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(path)


def _read(tokenizer: str, texts: list[str], write: list[list[int]]) -> dict[str, Any]:
    """Return the ids of every text, with the token of each id, and what some ids are written as."""
    loaded = _tokenizer(tokenizer, os.path.getmtime(tokenizer))
    ids = [one.ids for one in loaded.encode_batch(texts, add_special_tokens=False)]
    return {"ids": ids, "written": [loaded.decode(one, skip_special_tokens=False) for one in write]}


if __name__ == "__main__":
    main()
