"""The models' validator on a real cluster: two GPU nodes, real messages, and a worker that is killed."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta

import bittensor_core
import pytest
from celery import Celery

from app.clock import now
from app.cluster.embedded import EmbeddedCluster
from app.settings import Settings
from app.store.competitions import Competitions
from app.store.database import Store
from app.store.model_queue import ModelQueue, ScoreHistory, ScoreRecord
from app.store.reputations import WeightRounds
from app.store.schema import migrate
from tests.app.competitions.competition_fixtures import NETUID, VALIDATOR, fill, miner
from tests.chain.scoring_node import ScoringNode
from tests.cluster.kept_alive import client_of

pytestmark = pytest.mark.cluster

MODELS = 8


@dataclass
class ModelCluster:
    """The running cluster, its two nodes and a client that sends tasks."""

    embedded: EmbeddedCluster
    store: Store
    client: Celery
    nodes: list[ScoringNode]

    def history(self) -> list[ScoreRecord]:
        with self.store.reading() as session:
            return ScoreHistory(session).since(now() - timedelta(days=1), 1000)

    def send(self, task: str, queue: str) -> None:
        self.client.send_task(f"workers.competitions.{task}", queue=queue)

    def until(self, happens: Callable[[], bool], seconds: float = 90) -> None:
        """Wait, asking for the next models as beat does, only more often."""
        deadline = time.monotonic() + seconds
        while not happens():
            assert time.monotonic() < deadline, (self.history(), self.nodes)
            self.send("score_next_models", "cpu")
            time.sleep(0.5)


@pytest.fixture(autouse=True)
def own_settings() -> None:
    """The cluster's settings stay in the environment between tests: what is started again reads them there."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelCluster]:
    folder = tmp_path_factory.mktemp("models")
    hotkey = folder / "wallets" / "validator" / "hotkeys" / "default"
    hotkey.parent.mkdir(parents=True)
    hotkey.write_bytes(bittensor_core.serialized_keypair_to_keyfile_data(VALIDATOR))
    before = dict(os.environ)
    with ScoringNode(VALIDATOR.ss58_address) as one, ScoringNode(VALIDATOR.ss58_address) as two:
        os.environ.update(
            NETUID=str(NETUID),
            DATA_DIR=str(folder),
            WALLET_NAME="validator",
            WALLET_PATH=str(folder / "wallets"),
            OFFLINE="1",
            RUN_API="1",
            SCORING_API_URL=f"{one.url},{two.url}",
            SCORING_POLL="PT0.2S",
            CPU_CONCURRENCY="2",
        )
        try:
            settings = Settings(_env_file=None)
            store = Store(settings.store_url)
            migrate(store)
            fill(store, MODELS)
            with store.writing() as session:
                Competitions(session).set_baseline("voicebench", 0.5, "test")
            with EmbeddedCluster(settings, flower=False, name="models") as embedded:
                stop = threading.Event()
                reviver = threading.Thread(target=keep_alive, args=(embedded, [one, two], stop))
                reviver.start()
                client = client_of(embedded.broker_url, "models")
                yield ModelCluster(embedded, store, client, [one, two])
                client.close()
                stop.set()
                reviver.join()
            store.close()
        finally:
            os.environ.clear()
            os.environ.update(before)


def keep_alive(embedded: EmbeddedCluster, nodes: list[ScoringNode], stop: threading.Event) -> None:
    """Let the nodes finish what they began a moment ago, and start again what ends, as ``up`` does."""
    while not stop.wait(0.5):
        embedded.revive()
        for node in nodes:
            if node.working_on is not None and node.answer["status"] == "scoring":
                uid = int(node.working_on["hf_repo_id"].removeprefix("maker/model"))
                node.answer = {"status": "completed", "score": 0.4 + uid / 20, "metric_scores": {"ifeval": 0.5}}


def test_a_killed_worker_loses_no_score_and_keeps_no_model(cluster: ModelCluster) -> None:
    cluster.until(lambda: len(cluster.history()) >= 2)
    os.killpg(cluster.embedded.processes()["cpu"], signal.SIGKILL)
    os.killpg(cluster.embedded.processes()["beat"], signal.SIGKILL)
    before = cluster.history()
    cluster.until(lambda: {record.uid for record in cluster.history()} == set(range(2, 2 + MODELS)))
    after = cluster.history()
    assert after[-len(before) :] == before
    assert all(record.score == 0.4 + record.uid / 20 for record in after)
    assert {record.scorer_hotkey for record in after} == {VALIDATOR.ss58_address}
    assert all(len(node.started) >= 2 for node in cluster.nodes)

    def nobody_is_stuck() -> bool:
        with cluster.store.reading() as session:
            held = [m for m in ModelQueue(session, NETUID).models() if m.is_being_scored_by]
        return all(m.taken_at is not None and now() - m.taken_at < timedelta(seconds=30) for m in held)

    cluster.until(nobody_is_stuck)


def test_weights_and_reputation_follow_from_the_scores(cluster: ModelCluster) -> None:
    cluster.until(lambda: len(cluster.history()) >= MODELS)
    cluster.send("set_model_weights", "chain")

    def computed() -> bool:
        with cluster.store.reading() as session:
            found = WeightRounds(session).latest()
        return bool(found) and found[0].state.value == "not_set" and "--offline" in (found[0].detail or "")

    cluster.until(computed)
    with cluster.store.reading() as session:
        (latest,) = WeightRounds(session).latest()
    assert latest.pools["voicebench"]["above"] == [9, 8, 7]
    assert sum(latest.by_hotkey.values()) == pytest.approx(1.0)
    assert latest.by_hotkey[miner(9)] == max(latest.by_hotkey.values())
