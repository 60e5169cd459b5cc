"""The edge of every request: slow and broken-off bodies, whom a body is read from, types and names in JSON."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from bittensor_core import Keypair
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient
from starlette.types import Message, Receive, Scope, Send

from app.api.application import create_app
from app.api.request_edge import RequestEdge
from app.observability.exporter import PortOffset
from app.settings import get_settings
from app.store.database import Store
from chain.hotkey import KeypairSigner, signed_headers
from tests.app.api.conftest import Call
from tests.app.api.test_server import free_port, results, server
from tests.app.competitions.competition_fixtures import SECOND, VALIDATOR, fill, miner

on_sqlite = pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)

Application = Callable[[Scope, Receive, Send], Awaitable[None]]


def asked(application: Application, receive: Receive, headers: dict[str, str] | None = None) -> list[Message]:
    """What an application answers to ``POST /score-model`` whose body comes from ``receive``."""
    answers: list[Message] = []

    async def send(message: Message) -> None:
        answers.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/score-model",
        "raw_path": b"/score-model",
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
            lines = [f"{name}: {value}" for name, value in headers.items()]
            head = "\r\n".join(["POST /score-model HTTP/1.1", "Host: x", "Content-Length: 1000", *lines, "", "half a "])
            with socket.create_connection(("127.0.0.1", port)) as connection:
                connection.sendall(head.encode())
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
