"""Templates rendered in a process of their own, with a limit on time: a template is a program of a stranger's."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tools.errors import ToolInputError

TIMEOUT_S = 5.0
"""How long one answer may take, the process's own start aside."""
START_S = 60.0
TOGETHER_S = 60.0
"""How long all answers of a renderer may take together."""
PATIENCE = 2
"""How many times the process may have to be ended before a renderer gives up."""
Message = Mapping[str, Any]
"""Role and content of a turn; the content is a text, or a list of parts that have one."""


@dataclass(frozen=True)
class Rendered:
    """A rendering: its text, None where the template raised, and the literals that messages were held against."""

    text: str | None
    asked: tuple[str, ...] = ()
    error: str = ""


@dataclass
class Renderer:
    """A process that renders, started when it is first needed; safe to use from any thread, one at a time."""

    timeout_s: float = TIMEOUT_S
    ended: int = 0
    spent_s: float = 0.0
    _process: subprocess.Popen[str] | None = None
    _lines: queue.Queue[str] = field(default_factory=queue.Queue)

    def look(self, template: str) -> dict[str, Any]:
        """Return what a static look at a template finds, see `tools.own_files.look`; `error` where it has one."""
        return self._ask({"do": "look", "template": template})

    def render(self, template: str, messages: Sequence[Message], day: str, variables: Mapping[str, Any]) -> Rendered:
        """Return one rendering, in which the assistant is to speak next.

        Args:
            template: The template's text.
            messages: Role and content of each turn.
            day: The ISO date that the template is told.
            variables: Further names that the template knows, special tokens among them.
        """
        said = self._ask({"do": "render", "template": template, "messages": [dict(m) for m in messages],
                          "day": day, "variables": dict(variables)})  # fmt: skip
        return Rendered(said.get("text"), tuple(said.get("asked", ())), said.get("error", ""))

    def read(self, tokenizer: str, texts: Sequence[str], write: Sequence[Sequence[int]] = ()) -> dict[str, Any]:
        """Return the ids of every text under a `tokenizer.json`, and what some ids are written as; `error` where it fails."""
        return self._ask(
            {"do": "read", "tokenizer": tokenizer, "texts": list(texts), "write": [list(w) for w in write]}
        )

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        if self.ended >= PATIENCE or self.spent_s > TOGETHER_S:
            return {"error": "not rendered: the template took too long before"}
        process = self._process or self._start()
        began = time.monotonic()
        assert process.stdin is not None, "the process was started with a pipe"
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            line = self._lines.get(timeout=self.timeout_s)
        except (queue.Empty, OSError):
            line = ""
        self.spent_s += time.monotonic() - began
        if not line:
            self.ended += 1
            self.close()
            return {"error": f"it did not end within {self.timeout_s:g} seconds, or took too much memory"}
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _start(self) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "tools.own_files.child"],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, encoding="utf-8",
        )  # fmt: skip
        self._process, self._lines = process, queue.Queue()
        threading.Thread(target=_pump, args=(process.stdout, self._lines), daemon=True).start()
        weakref.finalize(self, process.kill)
        self._wait()
        return process

    def _wait(self) -> None:
        """Wait until the process has imported what it needs.

        Raises:
            ToolInputError: it does not start.
        """
        try:
            ready = self._lines.get(timeout=START_S)
        except queue.Empty:
            ready = ""
        if not ready:
            self.close()
            raise ToolInputError(
                "the process that renders templates does not start: look at memory and at the installation"
            )

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def _pump(stream: Iterable[str], lines: queue.Queue[str]) -> None:
    """Hand lines on as they come, and an empty one at the end."""
    for line in stream:
        lines.put(line)
    lines.put("")
