"""``python -m app api`` as its own process: many callers at once, and a kill in the middle."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.clock import now
from app.store.database import Store
from app.store.model_queue import ModelQueue, ScoreHistory
from chain.hotkey import KeypairSigner, signed_headers
from tests.app.competitions.competition_fixtures import NETUID, SECOND, VALIDATOR, fill, miner

ROOT = Path(__file__).parents[3]


@contextmanager
def server(store_url: str, folder: Path, port: int, command: str = "api") -> Iterator[subprocess.Popen[bytes]]:
    """The API, or the scoring API, on a port of its own, answering."""
    environment = {**os.environ, "DATABASE_URL": store_url, "NETUID": "21", "PYTHONPATH": str(ROOT)}
    with (folder / f"api{time.monotonic_ns()}.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "app", command, "--port", str(port)],
            env=environment,
            cwd=folder,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            for _ in range(300):
                try:
                    httpx.get(f"http://127.0.0.1:{port}/", timeout=5)
                    break
                except httpx.TransportError:
                    assert process.poll() is None, Path(log.name).read_text()
                    time.sleep(0.1)
            yield process
        finally:
            process.kill()
            process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def post(client: httpx.Client, path: str, body: Any, key: Any = VALIDATOR) -> httpx.Response:
    raw = json.dumps(body).encode()
    headers = signed_headers(KeypairSigner(key), "POST", path, raw) | {"Content-Type": "application/json"}
    return client.post(path, content=raw, headers=headers)


def results(uid: int) -> dict[str, Any]:
    return {"miner_hotkey": miner(uid), "miner_uid": uid, "model_metadata": {}, "model_score": 0.25}


def test_two_hundred_calls_at_once_hand_out_two_hundred_models(store: Store, store_url: str, tmp_path: Path) -> None:
    fill(store, 200)
    port = free_port()
    with server(store_url, tmp_path, port), httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:

        def take(number: int) -> int:
            answer = post(client, "/get-model-to-score", {}, VALIDATOR if number % 2 else SECOND)
            assert answer.status_code == 200, answer.text
            return int(answer.json()["miner_uid"])

        with ThreadPoolExecutor(40) as pool:
            counts = Counter(pool.map(take, range(200)))
        assert len(counts) == 200
        assert post(client, "/get-model-to-score", {}).json()["success"] is False


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
def test_a_killed_api_loses_no_score_and_keeps_no_model(store: Store, store_url: str, tmp_path: Path) -> None:
    fill(store, 60)
    port = free_port()
    confirmed: list[int] = []

    def work(_: int) -> None:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            while True:
                try:
                    taken = post(client, "/get-model-to-score", {}).json()
                    if not taken["success"]:
                        return
                    if post(client, "/score-model", results(taken["miner_uid"])).json()["success"]:
                        confirmed.append(taken["miner_uid"])
                except httpx.TransportError:
                    return

    with server(store_url, tmp_path, port) as process, ThreadPoolExecutor(4) as pool:
        running = [pool.submit(work, n) for n in range(4)]
        while len(confirmed) < 15:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        for found in running:
            found.result()
    with store.reading() as session:
        kept = Counter(record.uid for record in ScoreHistory(session).since(now().replace(year=2000), 1000))
        held = [model for model in ModelQueue(session, NETUID).models() if model.is_being_scored_by]
    # every score the API confirmed is there; one that was being answered may be there too
    assert all(kept[uid] >= 1 for uid in confirmed)
    assert sum(kept.values()) <= len(confirmed) + 4
    assert len(held) <= 4
    with store.writing() as session:
        ModelQueue(session, NETUID).release_stale(now() - now())
    with server(store_url, tmp_path, port), httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
        for model in held:
            again = post(client, "/score-model", results(model.uid))
            assert again.json()["success"] is False
        assert post(client, "/get-model-to-score", {}).json()["success"] is True
