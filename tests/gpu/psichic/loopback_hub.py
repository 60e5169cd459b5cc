"""A Hugging Face hub on the loopback: one repository, resumable files, checksums as the real one announces them."""

from __future__ import annotations

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Serves ``files`` of ``repository``; ``breaks_at`` cuts the next download of a file after so many bytes."""

    def __init__(self, repository: str, files: dict[str, bytes]) -> None:
        self.repository, self.files = repository, files
        self.announced = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
        self.breaks_at: dict[str, int] = {}
        self.ranges: list[tuple[str, str | None]] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                """Quiet."""

            def do_HEAD(self) -> None:
                hub.answer(self, body=False)

            def do_GET(self) -> None:
                hub.answer(self, body=True)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    @property
    def endpoint(self) -> str:
        """What HF_ENDPOINT should say."""
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def close(self) -> None:
        """Stop serving."""
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def answer(self, request: BaseHTTPRequestHandler, *, body: bool) -> None:
        """The API's model description, or a file's bytes."""
        path = request.path.split("?")[0]
        if path.startswith(f"/api/models/{self.repository}"):
            self._send(request, 200, json.dumps(self._description()).encode(), {}, body=body)
            return
        prefix = f"/{self.repository}/resolve/{COMMIT}/"
        name = path.removeprefix(prefix)
        if not path.startswith(prefix) or name not in self.files:
            self._send(request, 404, b"", {"X-Error-Code": "EntryNotFound"}, body=body)
            return
        data, wanted = self.files[name], request.headers.get("Range")
        headers = {
            "ETag": f'"{self.announced[name]}"',
            "X-Repo-Commit": COMMIT,
            "Accept-Ranges": "bytes",
        }
        if body:
            self.ranges.append((name, wanted))
        if wanted and wanted.startswith("bytes="):
            start = int(wanted.removeprefix("bytes=").split("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            self._send(request, 206, data[start:], headers, body=body)
            return
        self._send(request, 200, data, headers, body=body, stop=self.breaks_at.pop(name, None) if body else None)

    def _description(self) -> dict[str, Any]:
        siblings = [
            {
                "rfilename": name,
                "size": len(data),
                "lfs": {"sha256": self.announced[name], "size": len(data), "pointerSize": 130},
            }
            for name, data in self.files.items()
        ]
        return {"id": self.repository, "modelId": self.repository, "sha": COMMIT, "siblings": siblings, "tags": []}

    @staticmethod
    def _send(
        request: BaseHTTPRequestHandler,
        status: int,
        data: bytes,
        headers: dict[str, str],
        *,
        body: bool,
        stop: int | None = None,
    ) -> None:
        request.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            request.send_header(name, value)
        request.end_headers()
        if body:
            request.wfile.write(data if stop is None else data[:stop])
        if stop is not None:
            request.wfile.flush()
            request.close_connection = True
            request.connection.close()
