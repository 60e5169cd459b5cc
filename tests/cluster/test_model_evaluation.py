"""Models evaluated by a real gpu worker on a real Redis: queue → container → benchmark → history, and what may fail."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import bittensor_core
import httpx
import pytest
from celery import Celery

from app.clock import now
from app.cluster.embedded import EmbeddedCluster
from app.domain import ModelCommitment
from app.settings import Settings
from app.store.database import Store
from app.store.evaluations import EvaluationPhase, EvaluationRecord, Evaluations
from app.store.model_queue import ModelQueue, ScoreHistory, ScoreRecord
from app.store.schema import migrate
from app.store.scorings import Scoring, Scorings
from chain.hotkey import KeypairSigner
from chain.scoring_api import Evaluation, EvaluationRequest, EvaluationState, ScorerBusy, ScoringApi
from tests.app.api.test_server import free_port
from tests.app.competitions.competition_fixtures import NETUID, VALIDATOR
from tests.cluster.kept_alive import client_of, kept_alive
from tests.workers.evaluation_scene import Scene, committed, evaluation_scene

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]

# generous, for a busy machine; a test of the limit itself sets a shorter one
LIMIT = 300.0
SHORT_LIMIT = 60.0


@dataclass
class EvaluationCluster:
    """The running cluster, and what its models meet."""

    embedded: EmbeddedCluster
    store: Store
    client: Celery
    scene: Scene
    data: Path

    def queue(self, *commitments: ModelCommitment) -> None:
        """These models, and no others, are in the queue."""
        committed(self.store, *commitments)

    def history(self, commitment: ModelCommitment) -> list[ScoreRecord]:
        with self.store.reading() as session:
            return ScoreHistory(session).since(now() - timedelta(days=1), 100, commitment.hotkey)

    def evaluation(self, commitment: ModelCommitment) -> EvaluationRecord | None:
        """The model's first evaluation; where it is still queued, another may have begun by now."""
        with self.store.reading() as session:
            found = Evaluations(session).recent(50)
        return next((record for record in reversed(found) if record.inputs.hotkey == commitment.hotkey), None)

    def scorings(self) -> list[Scoring]:
        with self.store.reading() as session:
            return Scorings(session).recent(10)

    def until(self, happens: Callable[[], object], seconds: float = 240) -> None:
        """Wait, asking for what is due as beat does, only more often."""
        deadline = time.monotonic() + seconds
        while not happens():
            logs = {path.name: path.read_text()[-3000:] for path in self.embedded.logs.glob("*.log")}
            assert time.monotonic() < deadline, (self.scorings(), logs["gpu.log"], logs["cpu.log"])
            for task in ("competitions.score_next_models", "competitions.release_stale", "upkeep.reconcile"):
                self.client.send_task(f"workers.{task}", queue="cpu", expires=5)
            time.sleep(0.5)

    def idle(self) -> bool:
        """Nothing under way, and nothing left of anything."""
        with self.store.reading() as session:
            return not (
                Evaluations(session).in_slots(["0"])
                or any(model.is_being_scored_by for model in ModelQueue(session, NETUID).models())
                or self.scene.left()
                or self.scene.folders(self.data)
            )


@pytest.fixture(autouse=True)
def own_settings() -> None:
    """The cluster's settings stay in the environment between tests: what is started again reads them there."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EvaluationCluster]:
    folder = tmp_path_factory.mktemp("e")
    hotkey = folder / "wallets" / "validator" / "hotkeys" / "default"
    hotkey.parent.mkdir(parents=True)
    hotkey.write_bytes(bittensor_core.serialized_keypair_to_keyfile_data(VALIDATOR))
    before = dict(os.environ)
    try:
        with evaluation_scene(folder) as scene:
            os.environ.update(
                scene.environment,
                DATA_DIR=str(folder / "data"),
                WALLET_NAME="validator",
                WALLET_PATH=str(folder / "wallets"),
                EVALUATION_LIMIT=str(LIMIT),
                EVALUATION_HEARTBEAT="0.5",
                ANSWER_LIMIT="600",
                SCORING_POLL="PT0.2S",
                CPU_CONCURRENCY="1",
            )
            settings = Settings(_env_file=None)
            store = Store(settings.store_url)
            migrate(store)
            with EmbeddedCluster(settings, flower=False, name="evaluation") as embedded, kept_alive(embedded):
                client = client_of(embedded.broker_url, "evaluation")
                yield EvaluationCluster(embedded, store, client, scene, folder / "data")
                client.close()
            store.close()
    finally:
        os.environ.clear()
        os.environ.update(before)


def waiting_for(gate: Path) -> str:
    """Code of a model that does not start before ``gate`` is there."""
    return f"import pathlib, time\nwhile not pathlib.Path({str(gate)!r}).exists():\n    time.sleep(0.05)"


def test_from_the_queue_to_the_history(cluster: EvaluationCluster) -> None:
    commitment = cluster.scene.publish(2)
    cluster.queue(commitment)
    cluster.until(lambda: cluster.history(commitment))
    cluster.queue()
    record = cluster.history(commitment)[-1]
    evaluation = cluster.evaluation(commitment)
    assert evaluation is not None
    assert record.score == pytest.approx(evaluation.score if evaluation.score is not None else -1)
    # the judge says 4 of 5, and nothing harmful is done
    assert 0.5 < record.score < 1
    assert record.error is None
    assert record.metric_scores == evaluation.metric_scores
    assert set(record.metric_scores or ()) >= {"commoneval", "advbench"} or "commoneval" in str(record.metric_scores)
    assert record.scorer_hotkey == VALIDATOR.ss58_address
    cluster.until(cluster.idle)


def test_a_stopped_or_killed_worker_s_model_is_evaluated_again_and_nothing_is_left(
    cluster: EvaluationCluster, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    commitment = cluster.scene.publish(3, setup=waiting_for(gate))
    cluster.queue(commitment)

    def running() -> bool:
        return any(found.status == "running" for found in list(cluster.scene.engine.containers.values()))

    def try_at_work() -> int:
        found = cluster.evaluation(commitment)
        return found.tries if found is not None and found.phase is EvaluationPhase.SCORING else 0

    cluster.until(running)
    worker = cluster.embedded.processes()["gpu"]
    os.kill(worker, signal.SIGTERM)
    cluster.until(lambda: cluster.embedded.processes().get("gpu", worker) != worker)
    # it cleared up after itself: what is there now is the next try's
    log = (cluster.embedded.logs / "gpu.log").read_text()
    assert "is interrupted, for its worker stops" in log
    assert "Removed what dead evaluations left" not in log
    cluster.until(lambda: try_at_work() == 2 and running())
    os.killpg(cluster.embedded.processes()["gpu"], signal.SIGKILL)
    assert len(cluster.scene.left()) >= 3
    gate.touch()
    cluster.until(lambda: cluster.history(commitment))
    cluster.queue()
    record = cluster.evaluation(commitment)
    assert record is not None
    assert (record.phase, record.tries) == (EvaluationPhase.COMPLETED, 3)
    assert cluster.history(commitment)[-1].score == record.score
    cluster.until(cluster.idle)


@pytest.mark.slow
def test_a_judge_that_is_away_costs_no_model_its_score(cluster: EvaluationCluster) -> None:
    cluster.scene.judge._always = 500
    commitment = cluster.scene.publish(4)
    cluster.queue(commitment)
    cluster.until(lambda: (found := cluster.evaluation(commitment)) and "judge" in (found.error or "").lower())
    assert cluster.history(commitment) == []
    cluster.scene.judge._always = 200
    cluster.until(lambda: cluster.history(commitment))
    cluster.queue()
    assert all(record.score > 0.5 for record in cluster.history(commitment))
    cluster.until(cluster.idle)


@contextmanager
def scoring_api(cluster: EvaluationCluster, port: int, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The node's scoring API as its own process, answering."""
    environment = {**os.environ, **cluster.embedded.environment, "PYTHONPATH": str(ROOT)}
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "app", "scoring-api", "--port", str(port)],
            env=environment,
            cwd=log.parent,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            for _ in range(600):
                try:
                    httpx.get(f"http://127.0.0.1:{port}/", timeout=5)
                    break
                except httpx.TransportError:
                    assert process.poll() is None, log.read_text()
                    time.sleep(0.1)
            yield process
        finally:
            process.kill()
            process.wait()


def test_the_same_through_the_scoring_api(cluster: EvaluationCluster, tmp_path: Path) -> None:
    gate, log, port = tmp_path / "gate", tmp_path / "api.log", free_port()
    commitment = cluster.scene.publish(6, setup=waiting_for(gate))
    # the node's own store knows the commitment; its validator is somewhere else
    cluster.queue(commitment)
    cluster.queue()
    request = EvaluationRequest.of(commitment)
    client = ScoringApi(f"http://127.0.0.1:{port}", KeypairSigner(VALIDATOR), basic=False)
    found: list[Evaluation] = []

    def looked(state: EvaluationState) -> Callable[[], bool]:
        def look() -> bool:
            found.append(client.look(request, task_id))
            return found[-1].state is state

        return look

    with scoring_api(cluster, port, log) as process:
        task_id = client.start(request)
        assert task_id
        with pytest.raises(ScorerBusy, match="busy with maker/model6"):
            client.start(request)
        cluster.until(looked(EvaluationState.SCORING))
        process.send_signal(signal.SIGKILL)
    with scoring_api(cluster, port, log):
        assert client.look(request, task_id).state is EvaluationState.SCORING
        gate.touch()
        cluster.until(looked(EvaluationState.COMPLETED))
        assert found[-1].score is not None
        assert 0.5 < found[-1].score < 1
        assert found[-1].metric_scores
        assert client.look(request, None) == found[-1]
        cluster.until(cluster.idle)
        unknown = ScoringApi(
            f"http://127.0.0.1:{port}", KeypairSigner(bittensor_core.Keypair.create_from_uri("//Unknown")), basic=True
        )
        with pytest.raises(Exception, match="403"):
            unknown.start(request)


@pytest.mark.slow
def test_a_model_that_hangs_gets_a_zero_within_the_limit(cluster: EvaluationCluster) -> None:
    os.environ["EVALUATION_LIMIT"] = str(SHORT_LIMIT)
    for name in ("gpu", "cpu"):
        # what is started again reads the settings again
        os.killpg(cluster.embedded.processes()[name], signal.SIGKILL)
    commitment = cluster.scene.publish(5, misbehaviour="hang")
    cluster.queue(commitment)
    cluster.until(lambda: cluster.evaluation(commitment))
    began = time.monotonic()
    cluster.until(lambda: cluster.history(commitment))
    assert time.monotonic() - began < SHORT_LIMIT + 5
    cluster.queue()
    record = cluster.history(commitment)[-1]
    assert record.score == 0.0
    assert record.error
    cluster.until(cluster.idle)
    evaluation = cluster.evaluation(commitment)
    assert evaluation is not None
    assert (evaluation.phase, evaluation.score) == (EvaluationPhase.TIMEOUT, 0.0)
