"""A scripted chat-completions server on a loopback socket: in a thread of a test, or in a process of its own.

An answer of its script is (status, body), or (status, body, how): `raw` for bytes that are no JSON, `cut` for a
connection that ends in the middle of the body, `hang` for one that is silent.
"""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

ENDED = (400, {"error": {"message": "the script has ended"}})


class Scripted(ThreadingHTTPServer):
    """Answers each POST with the next of its script, then by what it was told, and keeps what it was sent."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script: list[Any] = []
        self.key: dict[str, Any] = {}
        self.hears: dict[str, Any] = {}
        self.then: Any = ENDED
        self.requests: list[dict[str, Any]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def text(self, request: int = -1) -> str:
        """All that the model was told in one request."""
        return "\n".join(message["content"] for message in self.requests[request]["body"]["messages"])

    def next(self, body: dict[str, Any]) -> Any:
        """The answer to one request: the script's, the key's to its last message, that to a text in it, or the one for all others."""
        if self.script:
            return self.script.pop(0)
        told = body["messages"][-1]["content"]
        heard = next((answer for text, answer in self.hears.items() if text in told), self.then)
        return self.key.get(told, heard)


class _Handler(BaseHTTPRequestHandler):
    server: Scripted

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append({"path": self.path, "headers": self.headers, "body": body})
        status, said, *how = self.server.next(body)
        if how == ["hang"]:
            time.sleep(1)
        data = said.encode() if how == ["raw"] else json.dumps(said).encode()
        self._send(status, data, len(data) + 100 * (how == ["cut"]))

    def do_GET(self) -> None:
        sent = [{**one, "headers": dict(one["headers"])} for one in self.server.requests]
        self._send(200, json.dumps(sent).encode())

    def do_PUT(self) -> None:
        told = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.script, self.server.key, self.server.then = told["script"], told["key"], told["then"]
        self.server.hears = told["hears"]
        self.server.requests.clear()
        self._send(200, b"{}")

    def _send(self, status: int, data: bytes, length: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data) if length is None else length))
        self.send_header("retry-after-ms", "1")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def says(*calls: tuple[str, Any], text: str | None = None, usage: bool = True) -> tuple[int, Any]:
    """Return an assistant message; a call's arguments are an object, or the raw text of broken ones."""
    tool_calls = [
        {
            "id": f"call_{i}",
            "type": "function",
            "function": {"name": name, "arguments": args if isinstance(args, str) else json.dumps(args)},
        }
        for i, (name, args) in enumerate(calls)
    ]
    message = {"role": "assistant", "content": text, **({"tool_calls": tool_calls} if calls else {})}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if calls else "stop"}
    body = {"id": "x", "object": "chat.completion", "created": 0, "model": "scripted", "choices": [choice]}
    if usage:
        body["usage"] = {"prompt_tokens": 100, "completion_tokens": 7, "total_tokens": 107}
    return 200, body


class Process:
    """The server in a process of its own."""

    def __init__(self) -> None:
        self._process = subprocess.Popen([sys.executable, __file__], stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()

    def play(
        self, *script: Any, key: dict[str, Any] | None = None, hears: dict[str, Any] | None = None, then: Any = ENDED
    ) -> None:
        """Set what is answered from now on, and forget what was asked."""
        self._ask("PUT", json.dumps({"script": script, "key": key or {}, "hears": hears or {}, "then": then}))

    @property
    def requests(self) -> list[dict[str, Any]]:
        """What it was sent."""
        sent: list[dict[str, Any]] = json.loads(self._ask("GET"))
        return sent

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()

    def _ask(self, method: str, body: str | None = None) -> bytes:
        at = urlsplit(self.url)
        connection = http.client.HTTPConnection(str(at.hostname), at.port, timeout=10)
        connection.request(method, at.path, body)
        said = connection.getresponse().read()
        connection.close()
        return said


if __name__ == "__main__":
    with Scripted() as server:
        sys.stdout.write(f"{server.url}\n")
        sys.stdout.flush()
        server.serve_forever(poll_interval=0.02)
