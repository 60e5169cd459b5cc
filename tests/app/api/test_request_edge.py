"""The edge of every request: slow and broken-off bodies, whom a body is read from, types and names in JSON."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from bittensor_core import Keypair
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.application import create_app
from app.api.request_edge import RequestEdge
from app.api.scoring import create_scoring_app
from app.observability.exporter import PortOffset
from app.observability.metrics import REQUESTS
from app.settings import get_settings
from app.store.database import Store
from chain.hotkey import KeypairSigner, signed_headers
from tests.app.api.conftest import Call, basic
from tests.app.api.test_server import free_port, results, server
from tests.app.competitions.competition_fixtures import SECOND, VALIDATOR, fill, miner

on_sqlite = pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)

Application = Callable[[Scope, Receive, Send], Awaitable[None]]


def asked(
    application: Application, receive: Receive, headers: dict[str, str] | None = None, path: str = "/score-model"
) -> list[Message]:
    """What an application answers to a POST whose body comes from ``receive``."""
    answers: list[Message] = []

    async def send(message: Message) -> None:
        answers.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "http_version": "1.1",
        "server": ("127.0.0.1", 80),
        "client": ("127.0.0.1", 1),
        "headers": [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()],
    }

    async def run() -> None:
        await application(scope, receive, send)

    asyncio.run(run())
    return answers


async def _echo(scope: Scope, receive: Receive, send: Send) -> None:
    body = await Request(scope, receive).body()
    await PlainTextResponse(str(len(body)))(scope, receive, send)


def dripping(pause: float) -> Receive:
    async def receive() -> Message:
        await asyncio.sleep(pause)
        return {"type": "http.request", "body": b"x", "more_body": True}

    return receive


def test_a_body_that_drips_is_cut_off_at_its_deadline() -> None:
    application = RequestEdge(_echo, limit=1_000_000, seconds=0.3)
    began = time.monotonic()
    with pytest.raises(Exception, match=r"408: the body did not come within 0\.3 s"):
        asked(application, dripping(0.01))
    assert time.monotonic() - began < 3


def test_a_client_that_goes_away_is_no_error() -> None:
    messages: list[Message] = [
        {"type": "http.request", "body": b"x", "more_body": True},
        {"type": "http.disconnect"},
    ]

    async def receive() -> Message:
        return messages.pop(0)

    assert asked(RequestEdge(_echo, limit=100), receive)[0]["status"] == 499


@on_sqlite
@pytest.mark.parametrize(
    ("key", "age", "changes", "status"),
    [
        (Keypair.create_from_uri("//Nobody"), 0, {}, 403),
        (VALIDATOR, 61, {}, 401),
        (VALIDATOR, -30, {}, 401),
        (VALIDATOR, 0, {"X-Signature": "0x00"}, 401),
        (VALIDATOR, 0, {"X-Hotkey": "5" * 48}, 401),
        (VALIDATOR, 0, {"X-Timestamp": "soon"}, 401),
    ],
)
def test_whose_headers_do_not_do_nobody_reads_the_body_of(
    store: Store, monkeypatch: pytest.MonkeyPatch, key: Keypair, age: float, changes: dict[str, str], status: int
) -> None:
    monkeypatch.setenv("NETUID", "21")
    get_settings.cache_clear()
    fill(store, 1)
    headers = signed_headers(KeypairSigner(key), "POST", "/score-model", b"", time.time() - age) | changes
    read = 0

    async def receive() -> Message:
        nonlocal read
        read += 1
        return {"type": "http.request", "body": b"{}", "more_body": False}

    answers = asked(create_app(), receive, headers)
    assert answers[0]["status"] == status
    assert read == 0


@contextmanager
def served(application: ASGIApp) -> Iterator[int]:
    """An application on a real socket of this process; its port."""
    listener = socket.create_server(("127.0.0.1", 0))
    running = uvicorn.Server(uvicorn.Config(application, log_config=None))
    thread = threading.Thread(target=running.run, args=([listener],), daemon=True)
    thread.start()
    yield listener.getsockname()[1]
    running.should_exit = True
    thread.join(timeout=20)
    assert not thread.is_alive()


def request_head(path: str, headers: dict[str, str], length: int = 1000) -> bytes:
    lines = [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {length}", *lines, "", ""]).encode()


def answer_to_a_dripping_client(
    port: int, head: bytes, pause: float = 0.05, longest: float = 10.0
) -> tuple[bytes, float]:
    """All that is answered until the server ends the connection, and after how long (s) it does."""
    began, answer = time.monotonic(), b""
    with socket.create_connection(("127.0.0.1", port), timeout=pause) as connection:
        connection.sendall(head)
        while time.monotonic() - began < longest:
            with suppress(TimeoutError):
                try:
                    received = connection.recv(65536)
                except ConnectionError:
                    break
                if not received:
                    break
                answer += received
            with suppress(ConnectionError):
                connection.sendall(b"x")
    return answer, time.monotonic() - began


@on_sqlite
@pytest.mark.parametrize(
    ("path", "signed", "status"),
    [("/score-model", False, 401), ("/nothing", False, 404), ("/score-model", True, 408)],
)
def test_an_answer_before_the_bodys_end_ends_the_connection(
    store: Store, monkeypatch: pytest.MonkeyPatch, path: str, signed: bool, status: int
) -> None:
    monkeypatch.setenv("NETUID", "21")
    get_settings.cache_clear()
    monkeypatch.setattr("app.api.application.BODY_SECONDS", 0.5)
    fill(store, 1)
    headers = signed_headers(KeypairSigner(VALIDATOR), "POST", path, b"") if signed else {}
    with served(create_app()) as port:
        answer, seconds = answer_to_a_dripping_client(port, request_head(path, headers))
    assert answer.startswith(f"HTTP/1.1 {status} ".encode()), answer
    assert b"connection: close" in answer.lower()
    assert seconds < 5


def test_a_client_that_sends_on_still_gets_the_refusal_and_an_arrived_body_costs_no_wait() -> None:
    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse("no", 401)(scope, receive, send)

    with served(RequestEdge(refuse, limit=10_000_000)) as port:
        began = time.monotonic()
        # far more than the buffers of a connection hold
        assert httpx.post(f"http://127.0.0.1:{port}/", content=b"x" * 9_000_000, timeout=10).status_code == 401
        assert time.monotonic() - began < 5


def test_a_keep_alive_connection_outlives_requests_without_a_body() -> None:
    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse("no", 401)(scope, receive, send)

    with served(RequestEdge(refuse, limit=100)) as port, httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        assert "connection" not in client.get("/").headers
        assert "connection" not in client.post("/").headers
        assert client.post("/", content=b"x").headers["connection"] == "close"


@on_sqlite
@pytest.mark.parametrize("create", [create_app, create_scoring_app])
def test_a_basic_caller_that_leaves_is_counted_as_gone(
    store: Store, monkeypatch: pytest.MonkeyPatch, create: Callable[[], Application]
) -> None:
    monkeypatch.setenv("NETUID", "21")
    monkeypatch.setenv("SCORING_API_CALLERS", VALIDATOR.ss58_address)
    get_settings.cache_clear()
    fill(store, 1)
    path = "/score-model" if create is create_app else "/score_model"
    messages: list[Message] = [
        {"type": "http.request", "body": b"x", "more_body": True},
        {"type": "http.disconnect"},
    ]

    async def receive() -> Message:
        return messages.pop(0)

    gone, faulty = (REQUESTS.labels(path, status)._value for status in ("499", "400"))
    before = gone.get(), faulty.get()
    assert asked(create(), receive, basic(), path)[0]["status"] == 499
    assert (gone.get(), faulty.get()) == (before[0] + 1, before[1])


@on_sqlite
def test_a_scoring_api_serves_what_it_counts(
    store: Store, store_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port, metrics = free_port(), free_port()
    monkeypatch.setenv("METRICS_PORT", str(metrics - PortOffset.SCORING_API))
    monkeypatch.setenv("SCORING_API_CALLERS", VALIDATOR.ss58_address)
    monkeypatch.setenv("BROKER_URL", "redis://127.0.0.1:1/0")
    with server(store_url, tmp_path, port, "scoring-api"):
        assert httpx.post(f"http://127.0.0.1:{port}/score_model").status_code == 401
        text = httpx.get(f"http://127.0.0.1:{metrics}/metrics", timeout=30).text
    assert 'validator_http_requests_total{route="/score_model",status="401"} 1.0' in text


@on_sqlite
def test_two_hundred_clients_that_hang_up_leave_no_traceback(
    store: Store, store_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store, 1)
    port = free_port()
    metrics = free_port()
    monkeypatch.setenv("METRICS_PORT", str(metrics - PortOffset.API))
    with server(store_url, tmp_path, port):
        for number in range(200):
            key = VALIDATOR if number % 2 else SECOND
            headers = signed_headers(KeypairSigner(key), "POST", "/score-model", str(number).encode())
            with socket.create_connection(("127.0.0.1", port)) as connection:
                connection.sendall(request_head("/score-model", headers) + b"half a ")
        counted = 'validator_http_requests_total{route="/score-model",status="499"} 200.0'
        deadline = time.monotonic() + 60
        while counted not in httpx.get(f"http://127.0.0.1:{metrics}/metrics", timeout=30).text:
            assert time.monotonic() < deadline
            time.sleep(0.2)
    (log,) = tmp_path.glob("api*.log")
    assert "Traceback" not in log.read_text()
    assert log.stat().st_size < 50_000


@on_sqlite
@pytest.mark.parametrize("path", ["/openapi.json", "/", "/nothing", "/get-all-model-scores"])
def test_no_answer_may_be_guessed_at(client: TestClient, path: str) -> None:
    assert client.get(path).headers["x-content-type-options"] == "nosniff"


@on_sqlite
@pytest.mark.parametrize(
    "change",
    [
        {"model_score": "0.5"},
        {"model_score": True},
        {"model_score": 1.0001},
        {"model_score": 1e6},
        {"model_score": -0.1},
        {"model_score": None},
        {"miner_uid": "2"},
        {"miner_uid": 2.0},
        {"miner_uid": True},
        {"miner_hotkey": 5},
        {"model_hash": "a\0b"},
        {"model_hash": 7},
        {"model_metadata": "{}"},
        {"model_metadata": {"name": "a\0b"}},
        {"model_metadata": {"a\0b": 1}},
        {"metric_scores": {"a": [{"b": "\0"}]}},
        {"metric_scores": [1]},
    ],
)
def test_types_and_bounds_of_a_posted_score_are_meant(call: Call, store: Store, change: dict[str, Any]) -> None:
    assert call("POST", "/get-model-to-score", {"competition_id": "voicebench"}).json()["success"]
    answer = call("POST", "/score-model", results(2) | change)
    assert answer.status_code == 422, answer.text
    (problem,) = answer.json()["detail"]
    assert next(iter(change)) in problem["loc"]


@on_sqlite
@pytest.mark.parametrize(
    "body",
    [
        b'{"model_score": 0.1, "model_score": 0.9, "miner_hotkey": "%s", "miner_uid": 2, "model_metadata": {}}',
        b'{"miner_hotkey": "%s", "miner_uid": 2, "model_score": 0.5, "model_metadata": {"a": 1, "a": 2}}',
        b'{"miner_hotkey": "%s", "miner_uid": 2, "model_score": NaN, "model_metadata": {}}',
        b'{"miner_hotkey": "%s", "miner_uid": 2, "model_score": 0.5, "model_metadata": {"a": "\\ud800"}}',
    ],
)
def test_a_document_that_two_readers_would_read_differently_is_refused(client: TestClient, body: bytes) -> None:
    raw = body % miner(2).encode()
    headers = signed_headers(KeypairSigner(VALIDATOR), "POST", "/score-model", raw) | {
        "Content-Type": "application/json"
    }
    answer = client.post("/score-model", content=raw, headers=headers)
    assert answer.status_code == 422, answer.text
    assert answer.json()["detail"][0]["type"] == "json_invalid"


@on_sqlite
def test_a_whole_number_is_a_score(call: Call) -> None:
    uid = call("POST", "/get-model-to-score", {}).json()["miner_uid"]
    body = results(uid) | {"model_score": 1, "metric_scores": json.loads('{"a": {"b": [1, null, "c"]}}')}
    assert call("POST", "/score-model", body).json()["success"]
