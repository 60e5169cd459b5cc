"""A miner's model as a real HTTP server: the contract of the containers, and what a hostile one may do instead."""

from __future__ import annotations

import base64
import contextlib
import functools
import io
import json
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

import numpy as np

SAMPLE_RATE: Final = 16_000

Answer = Callable[[np.ndarray, int], str]
Speech = Callable[[np.ndarray, int], np.ndarray]
Caption = Callable[[list[float]], str]


def encoded(wave: np.ndarray) -> str:
    """An array as the contract carries it: base64 of a ``.npy`` file."""
    buffer = io.BytesIO()
    np.save(buffer, wave)
    return base64.b64encode(buffer.getvalue()).decode()


def decoded(text: str) -> np.ndarray:
    """The array of the contract's base64 text."""
    array = np.load(io.BytesIO(base64.b64decode(text)), allow_pickle=False)
    assert isinstance(array, np.ndarray)
    return array


def tone(seconds: float = 0.5, pitch: float = 220.0, rate: int = SAMPLE_RATE) -> np.ndarray:
    """A sine, float32, shape ``(T,)``."""
    time_axis = np.arange(int(seconds * rate)) / rate
    return (0.3 * np.sin(2 * np.pi * pitch * time_axis)).astype(np.float32)


@functools.cache
def gzip_bomb() -> bytes:
    """A quarter of a megabyte that says it is a quarter of a gigabyte of text."""
    press = zlib.compressobj(level=6, wbits=31)
    block = b"a" * 2**20
    return b"".join([press.compress(b'{"text": "'), *(press.compress(block) for _ in range(256)), press.flush()])


class Handler(BaseHTTPRequestHandler):
    server: ModelServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Silence: the tests look at ``requests``."""

    def do_GET(self) -> None:
        self.server.requests.append(("GET", self.path))
        if self.path == "/api/v1/health":
            self._json({"status": self.server.health, "initialization_status": {"model_loaded": True, "error": None}})
        elif self.path == "/elsewhere":
            self._json({"text": "an answer from elsewhere"})
        else:
            self._json({"detail": "Not Found"}, 404)

    def do_POST(self) -> None:
        self.server.requests.append(("POST", self.path))
        self.server.headers_seen.append({name.lower(): value for name, value in self.headers.items()})
        body = self.rfile.read(int(self.headers["Content-Length"]))
        misbehaviour = self.server.next_misbehaviour()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError, OSError):
            if misbehaviour is not None:
                getattr(self, f"_{misbehaviour}")()
            else:
                self._good(json.loads(body))

    def _good(self, body: dict[str, Any]) -> None:
        if self.path == "/api/v1/inference":
            width = self.server.embedding_width
            vectors = [body["embedding"][start : start + width] for start in range(0, len(body["embedding"]), width)]
            self._json({"texts": [self.server.caption(vector) for vector in vectors]})
            return
        wave = decoded(body["audio_data"])
        rate = body["sample_rate"]
        if self.path == "/api/v1/v2t":
            self._json({"text": self.server.answer(wave.reshape(-1), rate)})
        elif self.path == "/api/v1/v2v":
            self._json({"audio_data": encoded(self.server.speech(wave.reshape(-1), rate)), "text": ""})
        else:
            self._json({"detail": "Not Found"}, 404)

    def _json(self, value: object, status: int = 200) -> None:
        self._bytes(json.dumps(value).encode(), status)

    def _bytes(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    # what a model may do instead of answering

    def _hang(self) -> None:
        self.server.stopping.wait(60)
        self.close_connection = True

    def _drip(self) -> None:
        """A byte of a good answer now and then, for ever."""
        self.send_response(200)
        self.send_header("Content-Length", "1000000")
        self.end_headers()
        for byte in b'{"text": "' + b"a" * 999_000:
            if self.server.stopping.wait(0.05):
                return
            self.wfile.write(bytes([byte]))
            self.wfile.flush()

    def _drip_headers(self) -> None:
        for byte in b"HTTP/1.1 200 OK\r\nX-Slow: " + b"a" * 60_000:
            if self.server.stopping.wait(0.05):
                return
            self.wfile.write(bytes([byte]))
            self.wfile.flush()

    def _endless_headers(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\n")
        self._pour(b"X-Filler: " + b"a" * 4000 + b"\r\n")

    def _status_500(self) -> None:
        self._json({"detail": "CUDA out of memory"}, 500)

    def _garbage(self) -> None:
        self._bytes(b"<html>no model here</html>")

    def _binary(self) -> None:
        self._bytes(bytes(range(256)) * 64)

    def _wrong_type(self) -> None:
        self._json({"text": ["not", "text"], "audio_data": 7, "texts": "one"})

    def _not_an_object(self) -> None:
        self._json(["text"])

    def _empty(self) -> None:
        self._json({"text": "   ", "audio_data": encoded(np.zeros(0, np.float32)), "texts": ["  "]})

    def _nested(self) -> None:
        self._bytes(b'{"text": ' + b"[" * 90_000)

    def _long_text(self) -> None:
        self._json({"text": "word " * 20_000, "texts": ["word " * 20_000]})

    def _gigabytes(self) -> None:
        """Chunks without end, no length declared."""
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        block = b"a" * 65_536
        self.wfile.write(b'c\r\n{"text": "aa\r\n')
        self._pour(b"%x\r\n" % len(block) + block + b"\r\n")

    def _gigabytes_declared(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(8 * 2**30))
        self.end_headers()
        self._pour(b"a" * 65_536)

    def _gzip_bomb(self) -> None:
        self._bytes(gzip_bomb(), Content_Encoding="gzip")

    def _redirect(self) -> None:
        self._bytes(b"", 307, Location=f"{self.server.url}/elsewhere")

    def _close_early(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "500")
        self.end_headers()
        self.wfile.write(b'{"text": "cut')
        self.close_connection = True

    def _reset(self) -> None:
        """Closes without a word."""
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def _cookie(self) -> None:
        self._bytes(b'{"text": "an answer with a cookie"}', Set_Cookie="tracker=1; Path=/")

    def _empty_containers(self) -> None:
        """Sixteen million bytes of JSON that would be gigabytes of objects."""
        self._bytes(b'{"audio_data": [' + b"{}," * 5_000_000 + b"{}]}")

    def _huge_shape(self) -> None:
        header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (10000000000,), }"
        header += b" " * (118 - len(header) - 1) + b"\n"
        npy = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"\0" * 64
        self._json({"audio_data": base64.b64encode(npy).decode()})

    def _pickled_audio(self) -> None:
        buffer = io.BytesIO()
        np.save(buffer, np.array([{"an": "object"}], dtype=object), allow_pickle=True)
        self._json({"audio_data": base64.b64encode(buffer.getvalue()).decode()})

    def _not_finite(self) -> None:
        self._json({"audio_data": encoded(np.full(8000, np.nan, np.float32))})

    def _pour(self, block: bytes) -> None:
        until = time.monotonic() + 60
        while time.monotonic() < until and not self.server.stopping.is_set():
            self.wfile.write(block)


class ModelServer(ThreadingHTTPServer, AbstractContextManager["ModelServer"]):
    """Answers by the contract: ``/api/v1/health``, ``/v2t``, ``/v2v``, ``/inference`` (captions).

    ``misbehaviour`` names what it does instead: of every request, or, where it is a list, of the first ones in turn
    (None: a good answer). ``answer(wave, rate)``, ``speech(wave, rate)`` and ``caption(embedding)`` make the good ones.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(
        self,
        misbehaviour: str | list[str | None] | None = None,
        *,
        answer: Answer | None = None,
        speech: Speech | None = None,
        caption: Caption | None = None,
        embedding_width: int = 1024,
        health: str = "healthy",
    ) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer: Answer = answer or (lambda wave, rate: "I can't help with that.")
        self.speech: Speech = speech or (lambda wave, rate: tone()[np.newaxis])
        self.caption: Caption = caption or (lambda embedding: "a video")
        self.embedding_width = embedding_width
        self.health = health
        self.requests: list[tuple[str, str]] = []
        self.headers_seen: list[dict[str, str]] = []
        self.stopping = threading.Event()
        if misbehaviour == "gzip_bomb" or "gzip_bomb" in (misbehaviour or ()):
            gzip_bomb()
        self._script: Iterator[str | None] | None = iter(misbehaviour) if isinstance(misbehaviour, list) else None
        self._always = misbehaviour if isinstance(misbehaviour, str) else None
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def asked(self) -> int:
        """How many requests for an answer came."""
        return sum(method == "POST" for method, _ in self.requests)

    def next_misbehaviour(self) -> str | None:
        return next(self._script, None) if self._script is not None else self._always

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is what these tests are about."""

    def __enter__(self) -> ModelServer:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stopping.set()
        self.shutdown()
        self.server_close()
        self._thread.join(5)
