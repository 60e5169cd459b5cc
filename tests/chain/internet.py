"""The rest of the outside world on loopback: GitHub (raw and API), drand, UniProt and the Hugging Face hub.

Each is a real HTTP server with the real routes. ``faults`` maps a path's beginning to what goes wrong there.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
import zlib
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

Reply = tuple[int, dict[str, str], bytes]


class Host:
    """One HTTP server. Subclasses answer; this class counts, delays and breaks."""

    def __init__(self, latency: float = 0.0) -> None:
        self.latency = latency
        self.requests: list[str] = []
        self.posts: list[tuple[str, dict[str, str], Any]] = []
        # path prefix → what to do instead; called with the handler, returns True where it has answered
        self.faults: dict[str, Callable[[BaseHTTPRequestHandler], bool]] = {}
        self._lock = threading.Lock()

    def answer(self, path: str, query: dict[str, list[str]], headers: dict[str, str]) -> Reply:
        raise NotImplementedError

    def __enter__(self) -> Any:
        host = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                host._serve(self, head=False)

            def do_HEAD(self) -> None:
                host._serve(self, head=True)

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                host.posts.append((self.path, dict(self.headers), json.loads(body)))
                host._serve(self, head=False)

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            request_queue_size = 128

        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def count(self, part: str = "") -> int:
        """Requests whose path holds ``part``."""
        return sum(part in request for request in self.requests)

    def _serve(self, handler: BaseHTTPRequestHandler, *, head: bool) -> None:
        with self._lock:
            self.requests.append(handler.path)
        if self.latency:
            time.sleep(self.latency)
        for prefix, fault in list(self.faults.items()):
            if handler.path.startswith(prefix) and fault(handler):
                return
        parts = urlsplit(handler.path)
        status, headers, body = self.answer(unquote(parts.path), parse_qs(parts.query), dict(handler.headers))
        handler.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            handler.send_header(name, value)
        handler.end_headers()
        if not head:
            handler.wfile.write(body)


def status(code: int, **headers: str) -> Callable[[BaseHTTPRequestHandler], bool]:
    """Answers with a bare status; ``Retry_After="3"`` becomes a header."""

    def fault(handler: BaseHTTPRequestHandler) -> bool:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return True

    return fault


def document(body: str) -> Callable[[BaseHTTPRequestHandler], bool]:
    """Answers 200 with this JSON document, whatever was asked."""

    def fault(handler: BaseHTTPRequestHandler) -> bool:
        handler.send_response(200)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body.encode())
        return True

    return fault


def refuse_token() -> Callable[[BaseHTTPRequestHandler], bool]:
    """401 to a caller with a token."""
    return lambda handler: "Authorization" in handler.headers and status(401)(handler)


def first(times: int, fault: Callable[[BaseHTTPRequestHandler], bool]) -> Callable[[BaseHTTPRequestHandler], bool]:
    """The fault the first few times only."""
    left = [times]

    def limited(handler: BaseHTTPRequestHandler) -> bool:
        left[0] -= 1
        return left[0] >= 0 and fault(handler)

    return limited


def hang(seconds: float) -> Callable[[BaseHTTPRequestHandler], bool]:
    """Says nothing for a while, then closes."""

    def fault(handler: BaseHTTPRequestHandler) -> bool:
        time.sleep(seconds)
        handler.close_connection = True
        return True

    return fault


def endless(size: int = 1 << 30) -> Callable[[BaseHTTPRequestHandler], bool]:
    """Serves a gigabyte, whatever range was asked for."""

    def fault(handler: BaseHTTPRequestHandler) -> bool:
        handler.send_response(200)
        handler.send_header("Content-Length", str(size))
        handler.end_headers()
        try:
            for _ in range(size >> 16):
                handler.wfile.write(b"x" * (1 << 16))
        except OSError:
            pass
        handler.close_connection = True
        return True

    return fault


def drip(seconds: float) -> Callable[[BaseHTTPRequestHandler], bool]:
    """A byte now and then, for ever."""

    def fault(handler: BaseHTTPRequestHandler) -> bool:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        try:
            for _ in range(200):
                handler.wfile.write(b"x")
                time.sleep(seconds)
        except OSError:
            pass
        return True

    return fault


def break_off(body: bytes, after: int) -> Callable[[BaseHTTPRequestHandler], bool]:
    """Promises the whole body, sends a part, closes."""

    def fault(handler: BaseHTTPRequestHandler) -> bool:
        if handler.command == "HEAD":
            return False
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body[:after])
        handler.wfile.flush()
        handler.close_connection = True
        return True

    return fault


class GitHub(Host):
    """``/raw/<owner>/<repo>/<branch>/<path>`` and ``/api/repos/<owner>/<repo>/commits``.

    ``allowance``: calls of the API that are left in this hour; with a token, an answer that did not change
    costs none. ``tokens``: what each may read, by the beginning of the path; another is not known.
    """

    def __init__(self, latency: float = 0.0) -> None:
        super().__init__(latency)
        self.allowance: int | None = None
        self.tokens: dict[str, str] | None = None
        self.authorized: list[str] = []
        self.contents: dict[str, bytes] = {}
        self.push_times: dict[str, str] = {}

    @property
    def raw_url(self) -> str:
        return f"{self.url}/raw"

    @property
    def api_url(self) -> str:
        return f"{self.url}/api"

    def answer(self, path: str, query: dict[str, list[str]], headers: dict[str, str]) -> Reply:
        token = headers.get("Authorization", "").removeprefix("Bearer ")
        if token:
            self.authorized.append(path)
        if token and self.tokens is not None and not path.startswith(self.tokens.get(token, "/none")):
            # GitHub's raw host does not tell a missing file from one that the token may not read
            return (404 if path.startswith("/raw/") else 401), {}, b"{}"
        if path.startswith("/api/") and self.allowance is not None:
            return self._within_allowance(path, query, headers)
        return self._answer(path, query, headers)

    def _within_allowance(self, path: str, query: dict[str, list[str]], headers: dict[str, str]) -> Reply:
        code, extra, body = self._answer(path, query, headers)
        with self._lock:
            assert self.allowance is not None
            spent = self.allowance <= 0
            self.allowance -= 0 if spent or (code == 304 and "Authorization" in headers) else 1
            left = {
                "X-RateLimit-Limit": "60",
                "X-RateLimit-Remaining": str(self.allowance),
                "X-RateLimit-Reset": str(int(time.time()) + 1800),
            }
        return (403, left, b"{}") if spent else (code, extra | left, body)

    def _answer(self, path: str, query: dict[str, list[str]], headers: dict[str, str]) -> Reply:
        if path.startswith("/raw/"):
            body = self.contents.get(path.removeprefix("/raw/"))
            if body is None:
                return 404, {}, b"404: Not Found"
            asked = re.fullmatch(r"bytes=0-(\d+)", headers.get("Range", ""))
            if not asked:
                return 200, {}, body
            if not body:
                return 416, {}, b""
            end = min(int(asked[1]) + 1, len(body))
            return 206, {"Content-Range": f"bytes 0-{end - 1}/{len(body)}"}, body[:end]
        found = re.fullmatch(r"/api/repos/([^/]+)/([^/]+)/commits", path)
        if not found:
            return 404, {}, b"{}"
        owner, repository = found.groups()
        wanted = query["path"][0]
        for known, date in self.push_times.items():
            parts = known.split("/", 3)
            if parts[:2] == [owner, repository] and parts[3] == wanted and query.get("sha", parts[2:3]) == parts[2:3]:
                etag = {"ETag": f'"{zlib.crc32(date.encode()):08x}"'}
                if headers.get("If-None-Match") == etag["ETag"]:
                    return 304, etag, b""
                return 200, etag, json.dumps([{"sha": "0" * 40, "commit": {"committer": {"date": date}}}]).encode()
        return 200, {}, b"[]"


class Drand(Host):
    """``/<chain hash>/public/<round>``."""

    def __init__(self, signatures: dict[str, str] | None = None) -> None:
        super().__init__()
        self.signatures = dict(signatures or {})

    def answer(self, path: str, query: dict[str, list[str]], headers: dict[str, str]) -> Reply:
        found = re.fullmatch(r"/52db9ba70e0cc0f6eaf7803dd07447a1f5477735fd3f661792ba94600c84e971/public/(\d+)", path)
        if not found or found[1] not in self.signatures:
            return 404 if found else 400, {}, b"{}"
        signature = self.signatures[found[1]]
        randomness = hashlib.sha256(bytes.fromhex(signature)).hexdigest()
        return 200, {}, json.dumps({"round": int(found[1]), "randomness": randomness, "signature": signature}).encode()


class UniProt(Host):
    """``/uniprotkb/<entry>.fasta``."""

    def __init__(self, sequences: dict[str, str] | None = None) -> None:
        super().__init__()
        self.sequences = dict(sequences or {})

    def answer(self, path: str, query: dict[str, list[str]], headers: dict[str, str]) -> Reply:
        code = Path(path).stem
        if code not in self.sequences:
            return 404, {}, b"Error messages\nResource not found"
        text = self.sequences[code]
        lines = "\n".join(text[start : start + 60] for start in range(0, len(text), 60))
        return 200, {}, f">sp|{code}|NAME_HUMAN A protein OS=Homo sapiens\n{lines}\n".encode()


class Hub(Host):
    """``/api/datasets/<id>[/revision/<sha>]`` and ``/datasets/<id>/resolve/<sha>/<file>``, with ranges."""

    def __init__(self) -> None:
        super().__init__()
        self.datasets: dict[str, dict[str, bytes]] = {}
        self.wrong: dict[str, bytes] = {}

    def revision(self, dataset: str) -> str:
        digest = hashlib.sha1(dataset.encode(), usedforsecurity=False)
        for name, body in sorted(self.datasets[dataset].items()):
            digest.update(name.encode() + body)
        return digest.hexdigest()

    def answer(self, path: str, query: dict[str, list[str]], headers: dict[str, str]) -> Reply:
        if found := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)(?:/revision/(\w+))?", path):
            return self._info(found[1], found[2])
        found = re.fullmatch(r"/datasets/([^/]+/[^/]+)/resolve/(\w+)/(.+)", path)
        if not found or found[1] not in self.datasets:
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        dataset, _, name = found.groups()
        body = self.datasets[dataset].get(name)
        if body is None:
            return 404, {"X-Error-Code": "EntryNotFound"}, b""
        common = {
            "X-Repo-Commit": self.revision(dataset),
            "ETag": f'"{hashlib.sha256(body).hexdigest()}"',
            "Accept-Ranges": "bytes",
        }
        body = self.wrong.get(name, body)
        if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", headers.get("Range", "")):
            start = int(asked[1])
            if start >= len(body):
                return 416, common, b""
            end = min(int(asked[2]) + 1, len(body)) if asked[2] else len(body)
            content_range = {"Content-Range": f"bytes {start}-{end - 1}/{len(body)}"}
            return 206, common | content_range, body[start:end]
        return 200, common, body

    def _info(self, dataset: str, _revision: str | None) -> Reply:
        if dataset not in self.datasets:
            return 404, {"X-Error-Code": "RepoNotFound"}, b"{}"
        siblings = []
        for name, body in sorted(self.datasets[dataset].items()):
            blob = hashlib.sha1(f"blob {len(body)}\0".encode() + body, usedforsecurity=False).hexdigest()
            entry: dict[str, Any] = {"rfilename": name, "size": len(body), "blobId": blob}
            if name.endswith((".sqlite", ".parquet")):
                entry["lfs"] = {"sha256": hashlib.sha256(body).hexdigest(), "size": len(body), "pointerSize": 130}
            siblings.append(entry)
        document = {"id": dataset, "sha": self.revision(dataset), "siblings": siblings, "private": False, "tags": []}
        return 200, {"Content-Type": "application/json"}, json.dumps(document).encode()


class Receiver(Host):
    """Takes what is posted."""

    def answer(self, path: str, query: dict[str, list[str]], headers: dict[str, str]) -> Reply:
        return 200, {}, b"{}"
