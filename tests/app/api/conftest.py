"""An API over a filled store, and callers that sign."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from bittensor_core import Keypair
from starlette.testclient import TestClient

from app.api.application import create_app
from app.settings import get_settings
from app.store.competitions import Competitions
from app.store.database import Store
from chain.hotkey import KeypairSigner, basic_credentials, signed_headers
from tests.app.competitions.competition_fixtures import VALIDATOR, fill

Call = Callable[..., httpx.Response]


@pytest.fixture
def client(store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """The application on a store with three miners and a baseline."""
    monkeypatch.setenv("NETUID", "21")
    get_settings.cache_clear()
    fill(store, 3)
    with store.writing() as session:
        Competitions(session).set_baseline("voicebench", 0.5, "test")
    with TestClient(create_app(), raise_server_exceptions=False) as found:
        yield found


@pytest.fixture
def call(client: TestClient) -> Call:
    """Calls an endpoint with signed headers."""

    def send(
        method: str, path: str, body: Any = None, *, key: Keypair = VALIDATOR, age: float = 0.0, **options: Any
    ) -> httpx.Response:
        raw = b"" if body is None else json.dumps(body).encode()
        headers = signed_headers(KeypairSigner(key), method, path, raw, time.time() - age)
        headers["Content-Type"] = "application/json"
        return client.request(method, path, content=raw, headers=headers | options.pop("headers", {}), **options)

    return send


def basic(key: Keypair = VALIDATOR) -> dict[str, str]:
    """The header existing clients send."""
    user, password = basic_credentials(KeypairSigner(key))
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}
