"""``python -m app run --netuid 21`` from miners' commitments on a node to weights on it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import bittensor_core
import httpx
import pytest

from app.clock import now
from app.store.competitions import Competitions
from app.store.database import Store
from app.store.model_queue import ScoreHistory
from tests.app.api.test_server import free_port
from tests.app.competitions.competition_fixtures import NETUID, model
from tests.chain.fake_subtensor import FakeChain, FakeNode
from tests.chain.nodes import subnet
from tests.chain.scoring_node import ScoringNode
from tests.cluster.kept_alive import client_of

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
MINERS = (3, 4, 5)


def keyfile(path: Path, uri: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bittensor_core.serialized_keypair_to_keyfile_data(bittensor_core.Keypair.create_from_uri(uri)))


def until(happens: Callable[[], Any], log: Path, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.3)


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
def test_commitments_become_weights(store: Store, store_url: str, tmp_path: Path) -> None:
    keyfile(tmp_path / "wallets" / "validator" / "hotkeys" / "default", "//hotkey0")
    keyfile(tmp_path / "wallets" / "validator" / "coldkeypub.txt", "//coldkey0")
    with store.writing() as session:
        Competitions(session).add("voicebench", 1.0, "test")
        Competitions(session).set_baseline("voicebench", 0.5, "test")
    chain = FakeChain()
    chain.put_subnet(subnet(netuid=NETUID))
    hotkeys = [neuron.hotkey for neuron in chain.neurons_at(NETUID, chain.head)]
    for uid in MINERS:
        chain.commit(NETUID, hotkeys[uid], model(uid).model.text.encode(), block=chain.head - 50)
    data, port, log = tmp_path / "run", free_port(), tmp_path / "run.log"
    environment = {
        **os.environ,
        "DATABASE_URL": store_url,
        "DATA_DIR": str(data),
        "PYTHONPATH": str(ROOT),
        "WALLET_PATH": str(tmp_path / "wallets"),
        "SUBTENSOR_FALLBACKS": "none",
        "SUBTENSOR_ARCHIVES": "none",
        "HF_ENDPOINT": "http://127.0.0.1:1",
        "SCORING_POLL": "0.3",
        "CPU_CONCURRENCY": "2",
        "API_PORT": str(port),
        "BITTENSOR_RUNTIME_CACHE_DIR": str(tmp_path / "runtime"),
    }
    words = ["run", "--netuid", str(NETUID), "--wallet.name", "validator", "--run_api", "--alpha", "0", "--no-flower"]

    def scored() -> bool:
        node = gpu.working_on
        if node is not None and gpu.answer["status"] == "scoring":
            gpu.answer = {"status": "completed", "score": 0.4 + int(node["hf_repo_id"][-1]) / 20}
        with store.reading() as session:
            return len(ScoreHistory(session).since(now() - timedelta(days=1), 10)) >= len(MINERS)

    with FakeNode(chain, block_seconds=2) as node, ScoringNode(hotkeys[0]) as gpu, log.open("wb") as output:
        words += ["--subtensor.network", node.url, "--scoring_api_url", gpu.url]
        process = subprocess.Popen(
            [sys.executable, "-m", "app", *words], env=environment, cwd=tmp_path, stdout=output, stderr=output
        )
        try:
            until(scored, log)
            assert httpx.get(f"http://127.0.0.1:{port}/").json()["status"] == "ok"
            broker = json.loads((data / "embedded" / "cluster.json").read_text())["broker_url"]
            with client_of(broker, "default") as client:
                client.send_task("workers.competitions.set_model_weights", queue="chain")
            until(lambda: chain.weights_of(NETUID, 0), log)
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(90) == 0
    weights = chain.weights_of(NETUID, 0)
    assert max(weights, key=lambda uid: weights[uid]) == 5
    assert set(weights) <= set(MINERS)
