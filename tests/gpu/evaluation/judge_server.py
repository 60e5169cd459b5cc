"""A judge: a local server with the OpenAI-compatible ``POST /v1/chat/completions``."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Rating = Callable[[list[dict[str, str]]], str | int | None]


class Handler(BaseHTTPRequestHandler):
    server: JudgeServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Silence: the tests look at ``questions``."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.questions.append(body)
        self.server.keys.append(self.headers.get("Authorization", ""))
        status = self.server.next_status()
        if self.path != "/v1/chat/completions":
            status = 404
        if status == 0:
            self.server.stopping.wait(30)
            self.close_connection = True
            return
        if status == 1:
            self._drip()
            return
        if status != 200:
            # as some real services do: the refusal repeats the key
            self._json({"error": {"message": f"refused {self.server.keys[-1]}", "type": "error"}}, status)
            return
        content = self.server.rate(body["messages"])
        if isinstance(content, int):
            self._json({"error": {"message": "this content is refused", "type": "error"}}, content)
            return
        self._json(
            {
                "id": "chatcmpl-1",
                "object": "chat.completion",
                "created": 1,
                "model": body["model"],
                "choices": [
                    {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}
                ],
                "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
            }
        )

    def _drip(self) -> None:
        """Never silent for long, and never done."""
        self.send_response(200)
        self.send_header("Content-Length", "100000")
        self.end_headers()
        with contextlib.suppress(OSError):
            while not self.server.stopping.wait(0.05):
                self.wfile.write(b" ")
                self.wfile.flush()
        self.close_connection = True

    def _json(self, value: object, status: int = 200) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class JudgeServer(ThreadingHTTPServer, AbstractContextManager["JudgeServer"]):
    """Rates every answer ``rating``, or what ``rate(messages)`` says; an int there is the HTTP status of a refusal.

    ``statuses`` are the first answers' HTTP statuses in turn (0: hangs, 1: drips); after them 200, or ``always``.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(
        self,
        rating: str | None = "4",
        *,
        rate: Rating | None = None,
        statuses: list[int] | None = None,
        always: int = 200,
    ) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.rate: Rating = rate or (lambda messages: rating)
        self.questions: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.stopping = threading.Event()
        self._statuses = list(statuses or [])
        self._always = always
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def next_status(self) -> int:
        with self._lock:
            return self._statuses.pop(0) if self._statuses else self._always

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is not this server's concern."""

    def __enter__(self) -> JudgeServer:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stopping.set()
        self.shutdown()
        self.server_close()
        self._thread.join(5)
