"""A GPU node's scoring API on a real socket: checks signatures, works on one model, fails as told."""

from __future__ import annotations

import base64
import json
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, urlsplit

from chain.hotkey import request_message
from chain.subtensor import signed_by_hotkey


@dataclass
class ScoringNode:
    """Set ``answer`` to what the next status says; ``broken`` to a status code, or to a word of
    :meth:`serve` or :meth:`_break`.
    """

    hotkey: str
    only_basic: bool = False
    broken: int | str | None = None
    answer: dict[str, Any] = field(default_factory=lambda: {"status": "scoring"})
    busy: bool = False
    working_on: dict[str, Any] | None = None
    task_id: str | None = None
    started: list[dict[str, Any]] = field(default_factory=list)
    used: set[str] = field(default_factory=set)
    looks: int = 0

    def __enter__(self) -> ScoringNode:
        node = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                node.serve(self)

            def do_GET(self) -> None:
                node.serve(self)

            def log_message(self, *_: object) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def serve(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        if isinstance(self.broken, int):
            self._send(request, self.broken, {"detail": "broken"})
            return
        if self.broken == "silent":
            request.connection.close()
            return
        if self.broken == "garbage":
            self._raw(request, 200, b"<html>")
            return
        if isinstance(self.broken, str):
            self._break(request, self.broken)
            return
        if not self._signed(request, body):
            self._send(request, 401, {"detail": "no signature"})
            return
        path = urlsplit(request.path)
        if (request.command, path.path) == ("POST", "/api/start_model_scoring"):
            self._start(request, json.loads(body))
        elif (request.command, path.path) == ("GET", "/api/check_scoring_status"):
            self.looks += 1
            asked = parse_qs(path.query).get("task_id", [None])[0]
            known = self.working_on is not None and asked in {None, self.task_id}
            self._send(request, 200, {**self.answer, "inputs": self.working_on} if known else None)
        else:
            self._send(request, 404, {"detail": "Not Found"})

    def _start(self, request: BaseHTTPRequestHandler, inputs: dict[str, Any]) -> None:
        assert set(inputs) == {"hf_repo_id", "competition_id", "hotkey", "block"}
        if self.busy or (self.working_on is not None and self.answer["status"] == "scoring"):
            self._send(request, 200, {"success": False, "message": "already scoring", "task_id": None})
            return
        self.started.append(inputs)
        self.working_on, self.task_id = inputs, f"task{len(self.started)}"
        self.answer = {"status": "scoring"}
        self._send(request, 200, {"success": True, "message": "started", "task_id": self.task_id})

    def _signed(self, request: BaseHTTPRequestHandler, body: bytes) -> bool:
        headers = request.headers
        if basic := headers.get("Authorization"):
            user, password = base64.b64decode(basic.removeprefix("Basic ")).decode().split(":")
            return user == self.hotkey and signed_by_hotkey(user, user.encode(), password)
        if self.only_basic or headers.get("X-Hotkey") != self.hotkey:
            return False
        stamp, signature = headers["X-Timestamp"], headers["X-Signature"]
        path = urlsplit(request.path).path
        message = request_message(self.hotkey, stamp, request.command, path, body)
        fresh = abs(time.time() - float(stamp)) < 60 and signature not in self.used
        self.used.add(signature)
        return fresh and signed_by_hotkey(self.hotkey, message, signature)

    def _break(self, request: BaseHTTPRequestHandler, how: str) -> None:
        header, begin = {
            "cut": ("Content-Length: 1000", b'{"success": true'),
            "chunk": ("Transfer-Encoding: chunked", b"zz\r\n{}\r\n0\r\n\r\n"),
            "gzip": ("Content-Encoding: gzip", b"{}"),
            "dripping": ("Content-Length: 1000", b"{"),
        }[how]
        request.wfile.write(f"HTTP/1.1 200 OK\r\nConnection: close\r\n{header}\r\n\r\n".encode() + begin)
        with suppress(ConnectionError):
            for _ in range(200 if how == "dripping" else 0):
                time.sleep(0.05)
                request.wfile.write(b" ")

    def _send(self, request: BaseHTTPRequestHandler, code: int, answer: Any) -> None:
        self._raw(request, code, json.dumps(answer).encode())

    def _raw(self, request: BaseHTTPRequestHandler, code: int, content: bytes) -> None:
        request.send_response(code)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)
