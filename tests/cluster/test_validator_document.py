"""The subnet's document of its validator, line by line, with real processes, in both of its modes.

API mode is ``run --netuid 21 --run_api`` beside a node of the chain and a scoring API; in standalone mode ``run`` has
this cluster's own gpu worker, a Docker Engine, a hub and a judge instead. Each test is named after its line.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

import beat_schedule
from app.clock import now
from app.settings import Settings
from app.store.competitions import Competitions
from app.store.database import Store
from app.store.metagraph import Metagraph
from app.store.model_queue import ModelQueue, ScoreHistory, ScoreRecord
from app.store.reputations import WeightRound, WeightRounds
from app.store.schema import migrate
from app.store.scorings import Scorings
from tests.app.api.test_server import free_port
from tests.app.competitions.competition_fixtures import NETUID, VALIDATOR, model
from tests.chain.fake_subtensor import FakeChain, FakeNode
from tests.chain.nodes import subnet
from tests.chain.scoring_node import ScoringNode
from tests.cluster.kept_alive import client_of
from tests.cluster.test_run_models import keyfile
from tests.workers.evaluation_scene import Scene, committed, evaluation_scene

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
COMPETITIONS = ("o1", "v2v", "voicebench")


@dataclass
class Validator:
    """``python -m app run --netuid 21`` as a process, and what its operator sees of it."""

    store: Store
    data: Path
    log: Path
    port: int

    @property
    def broker(self) -> str:
        return str(json.loads((self.data / "embedded" / "cluster.json").read_text())["broker_url"])

    def until(self, happens: Callable[[], Any], seconds: float = 180) -> Any:
        deadline = time.monotonic() + seconds
        while not (found := happens()):
            assert time.monotonic() < deadline, self.log.read_text()[-6000:]
            time.sleep(0.3)
        return found

    def now_do(self, task: str, queue: str, *args: Any) -> None:
        """What beat does at its time, done now."""
        with client_of(self.broker, "default") as client:
            client.send_task(f"workers.{task}", args, queue=queue)

    def history(self) -> list[ScoreRecord]:
        with self.store.reading() as session:
            return ScoreHistory(session).since(now() - timedelta(days=1), 100)

    def rounds(self) -> list[WeightRound]:
        with self.store.reading() as session:
            return WeightRounds(session).latest()

    def logs(self) -> str:
        return "".join(path.read_text() for path in [self.log, *self.data.rglob("*.log")])


@contextmanager
def validator(folder: Path, words: list[str], **environment: str) -> Iterator[Validator]:
    """The running validator; at the end it stops as Ctrl-C or a supervisor stops it."""
    keyfile(folder / "wallets" / "validator" / "hotkeys" / "default", environment.pop("HOTKEY"))
    keyfile(folder / "wallets" / "validator" / "coldkeypub.txt", "//coldkey0")
    store = Store(f"sqlite:///{folder / 'store.sqlite'}")
    port, log = free_port(), folder / "run.log"
    inherited = {name: value for name, value in os.environ.items() if name not in environment}
    process_environment = {
        **inherited,
        "DATABASE_URL": f"sqlite:///{folder / 'store.sqlite'}",
        "DATA_DIR": str(folder / "run"),
        "PYTHONPATH": str(ROOT),
        "WALLET_PATH": str(folder / "wallets"),
        "SUBTENSOR_FALLBACKS": "none",
        "SUBTENSOR_ARCHIVES": "none",
        "HF_ENDPOINT": "http://127.0.0.1:1",
        "SCORING_POLL": "0.3",
        "CPU_CONCURRENCY": "1",
        "RECONCILE_EVERY": "5",
        "API_PORT": str(port),
        "BITTENSOR_RUNTIME_CACHE_DIR": str(folder / "runtime"),
        **environment,
    }
    command = [sys.executable, "-m", "app", "run", "--netuid", str(NETUID), "--wallet.name", "validator", "--no-flower"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, *words], env=process_environment, cwd=folder, stdout=output, stderr=output
        )
        try:
            yield Validator(store, folder / "run", log, port)
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(120) == 0
            store.close()


# -- API mode ---------------------------------------------------------------------------------------------------------


@dataclass
class ApiMode:
    """The validator, the chain that it talks to, and its scoring API."""

    validator: Validator
    chain: FakeChain
    hotkeys: list[str]
    gpu: ScoringNode
    node: FakeNode

    def commit(self, uid: int, competition: str, name: str | None = None) -> str:
        """A miner commits a model; its repository."""
        identity = model(uid, competition).model
        text = identity.text.replace(f"model{uid}", name) if name else identity.text
        self.chain.commit(NETUID, self.hotkeys[uid], text.encode(), block=self.chain.head)
        self.validator.now_do("competitions.update_models", "chain")
        return f"maker/{name or identity.name}"

    def given(self, repository: str) -> dict[str, Any]:
        """What the scoring API was asked about a repository, once it was."""

        def asked() -> dict[str, Any] | None:
            working_on, busy = self.gpu.working_on, self.gpu.answer["status"] == "scoring"
            if busy and working_on is not None and working_on["hf_repo_id"] != repository:
                # a model whose turn came again
                self.gpu.answer = {"status": "completed", "score": 0.7}
            # a commitment in the newest block may not be read yet
            self.validator.now_do("competitions.update_models", "chain")
            self.validator.now_do("competitions.score_next_models", "cpu")
            return next((one for one in self.gpu.started if one["hf_repo_id"] == repository), None)

        found: dict[str, Any] = self.validator.until(asked)
        return found

    def score_of(self, repository: str) -> ScoreRecord:
        def posted() -> ScoreRecord | None:
            return next((one for one in self.validator.history() if one.model.repository == repository), None)

        found: ScoreRecord = self.validator.until(posted)
        return found


@pytest.fixture(autouse=True)
def own_settings() -> None:
    """The validators run for several tests, each with an environment of its own."""


@pytest.fixture(scope="module")
def api_mode(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiMode]:
    folder = tmp_path_factory.mktemp("api")
    chain = FakeChain()
    chain.put_subnet(subnet(netuid=NETUID))
    hotkeys = [neuron.hotkey for neuron in chain.neurons_at(NETUID, chain.head)]
    store = Store(f"sqlite:///{folder / 'store.sqlite'}")
    migrate(store)
    with store.writing() as session:
        for name, percentage in zip(COMPETITIONS, (0.2, 0.3, 0.5), strict=True):
            Competitions(session).add(name, percentage, "test")
            Competitions(session).set_baseline(name, 0.5, "test")
    store.close()
    with FakeNode(chain, block_seconds=2) as node, ScoringNode(hotkeys[0]) as gpu:
        words = ["--run_api", "--scoring_api_url", gpu.url, "--subtensor.network", node.url]
        words += ["--alpha", "0", "--update_delay_minutes", "1"]
        with validator(folder, words, HOTKEY="//hotkey0") as running:
            running.until((running.data / "embedded" / "cluster.json").exists)
            yield ApiMode(running, chain, hotkeys, gpu, node)


def test_syncs_metagraph(api_mode: ApiMode) -> None:
    def synced() -> bool:
        with api_mode.validator.store.reading() as session:
            return Metagraph(session, NETUID).read().hotkeys == dict(enumerate(api_mode.hotkeys))

    api_mode.validator.until(synced)


def test_query_for_next_model_send_to_scoring_api_wait_post_results_back(api_mode: ApiMode) -> None:
    repository = api_mode.commit(3, "voicebench")
    asked = api_mode.given(repository)
    assert (asked["competition_id"], asked["hotkey"]) == ("voicebench", api_mode.hotkeys[3])
    assert set(asked) == {"hf_repo_id", "competition_id", "hotkey", "block"}
    looks = api_mode.gpu.looks
    api_mode.validator.until(lambda: api_mode.gpu.looks >= looks + 2)
    assert api_mode.validator.history() == []
    api_mode.gpu.answer = {"status": "completed", "score": 0.75, "metric_scores": {"ifeval": 0.5}}
    record = api_mode.score_of(repository)
    # score, metrics and metadata, under this validator's hotkey
    assert (record.score, record.metric_scores, record.uid) == (0.75, {"ifeval": 0.5}, 3)
    assert (record.block, record.scorer_hotkey) == (asked["block"], api_mode.hotkeys[0])
    assert record.model.hash == "hash3"


def test_scoring_failures_model_gets_score_0(api_mode: ApiMode) -> None:
    repository = api_mode.commit(4, "v2v")
    api_mode.given(repository)
    api_mode.gpu.answer = {"status": "failed", "error": "the image does not build"}
    record = api_mode.score_of(repository)
    assert (record.score, record.error) == (0.0, "the image does not build")


def test_api_timeouts_retry_with_exponential_backoff(api_mode: ApiMode) -> None:
    repository = api_mode.commit(5, "o1")
    api_mode.given(repository)
    asked: list[float] = []
    serve = api_mode.gpu.serve

    def noted(request: Any) -> None:
        asked.append(time.monotonic())
        serve(request)

    api_mode.gpu.serve = noted  # type: ignore[method-assign]
    api_mode.gpu.broken = "silent"
    try:
        api_mode.validator.until(lambda: len(asked) >= 9)
    finally:
        api_mode.gpu.broken = None
        api_mode.gpu.serve = serve  # type: ignore[method-assign]
    # from half a pause (0.15 s) doubling to thirty (9 s), with jitter; the first look may still be a regular one
    pauses = [later - earlier for earlier, later in itertools.pairwise(asked)]
    assert sum(pauses[-2:]) > 4 * sum(pauses[1:3])
    assert max(pauses) < 9 + 6
    # and it is nobody's zero
    api_mode.gpu.answer = {"status": "completed", "score": 0.6}
    assert api_mode.score_of(repository).score == 0.6


def test_rotates_through_competitions(api_mode: ApiMode) -> None:
    began = len(api_mode.gpu.started)
    for name, competition in (("a", "o1"), ("b", "v2v"), ("c", "voicebench")):
        api_mode.commit({"a": 5, "b": 4, "c": 3}[name], competition, f"again-{name}")

    def turns() -> list[str]:
        if api_mode.gpu.answer["status"] == "scoring" and api_mode.gpu.working_on is not None:
            api_mode.gpu.answer = {"status": "completed", "score": 0.9}
        api_mode.validator.now_do("competitions.score_next_models", "cpu")
        return [one["competition_id"] for one in api_mode.gpu.started[began:] if "again" in one["hf_repo_id"]]

    api_mode.validator.until(lambda: len(turns()) >= 3)
    assert set(turns()[:3]) == set(COMPETITIONS)


def test_pulls_scores_runs_baseline_incentive_sets_weights_on_chain(api_mode: ApiMode) -> None:
    def all_scored() -> bool:
        if api_mode.gpu.answer["status"] == "scoring" and api_mode.gpu.working_on is not None:
            api_mode.gpu.answer = {"status": "completed", "score": 0.9}
        repositories = {record.model.repository for record in api_mode.validator.history() if record.score == 0.9}
        return repositories >= {f"maker/again-{name}" for name in "abc"}

    api_mode.validator.until(all_scored)
    api_mode.validator.now_do("competitions.set_model_weights", "chain")
    # by the percentages: each competition's vector has one miner alone, and --alpha 0 nothing of an earlier round
    expected = {3: 0.5, 4: 0.3, 5: 0.2}

    def on_chain() -> bool:
        weights = api_mode.chain.weights_of(NETUID, 0)
        shares = {uid: weight / sum(weights.values()) for uid, weight in weights.items() if weight}
        return shares == pytest.approx(expected, abs=1e-4)

    api_mode.validator.until(on_chain, 120)
    (latest, *_) = api_mode.validator.rounds()
    assert {uid: weight for uid, weight in latest.weights.items() if weight} == pytest.approx(expected)


def test_vali_api_database_has_queue_scores_metrics_and_baselines(api_mode: ApiMode) -> None:
    with api_mode.validator.store.reading() as session:
        assert {found.uid for found in ModelQueue(session, NETUID).models()} == {3, 4, 5}
        assert [record.baseline and record.baseline.score for record in Competitions(session).all()] == [0.5] * 3
        assert Scorings(session).recent()
    assert any(record.metric_scores for record in api_mode.validator.history())
    assert httpx.get(f"http://127.0.0.1:{api_mode.validator.port}/").json()["status"] == "ok"


def test_removes_outdated_models_from_local_storage(api_mode: ApiMode) -> None:
    models = api_mode.validator.data / "models"
    outdated, kept = models / "maker" / "old" / "c0ffee", models / "maker" / "again-c" / "c0ffee3"
    for folder in (outdated, kept):
        folder.mkdir(parents=True)
    (models / ".celery-validator-models").touch()
    api_mode.validator.now_do("competitions.clean_models", "gpu")
    api_mode.validator.until(lambda: not outdated.exists())
    assert kept.is_dir()


def test_chain_errors_log_and_continue(api_mode: ApiMode) -> None:
    api_mode.node.refuse_with = 503
    api_mode.node.drop_connections()
    refused = api_mode.node.refused

    def logged() -> bool:
        api_mode.validator.now_do("competitions.sync_metagraph", "chain")
        return (
            api_mode.node.refused > refused
            and "sync_metagraph" in api_mode.validator.logs()
            and any("503" in line for line in api_mode.validator.logs().splitlines())
        )

    try:
        api_mode.validator.until(logged)
    finally:
        api_mode.node.refuse_with = None
    assert "Traceback" not in api_mode.validator.logs()
    repository = api_mode.commit(6, "voicebench", "after-the-outage")
    api_mode.given(repository)
    api_mode.gpu.answer = {"status": "completed", "score": 0.5}
    assert api_mode.score_of(repository).score == 0.5


def test_updates_models_in_the_background_every_update_delay(api_mode: ApiMode) -> None:
    """The document's update thread: nobody asks for it, and a miner's new commitment is in the queue."""
    identity = model(6, "o1").model
    text = identity.text.replace("model6", "by-itself")
    api_mode.chain.commit(NETUID, api_mode.hotkeys[6], text.encode(), block=api_mode.chain.head)

    def queued() -> bool:
        with api_mode.validator.store.reading() as session:
            models = ModelQueue(session, NETUID).models()
        return any(one.commitment.model.name == "by-itself" for one in models)

    api_mode.validator.until(queued)


def test_a_host_that_fails_is_logged_and_the_jobs_go_on(api_mode: ApiMode) -> None:
    api_mode.validator.now_do("competitions.check_repository", "cpu", api_mode.hotkeys[3])
    api_mode.validator.until(lambda: "repository date" in api_mode.validator.logs())
    # the jobs go on
    repository = api_mode.commit(6, "voicebench")
    api_mode.given(repository)
    api_mode.gpu.answer = {"status": "completed", "score": 0.5}
    assert api_mode.score_of(repository).score == 0.5


# -- standalone mode --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def standalone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Validator, Scene]]:
    folder = tmp_path_factory.mktemp("s")
    with ExitStack() as stack:
        scene = stack.enter_context(evaluation_scene(folder))
        store = Store(f"sqlite:///{folder / 'store.sqlite'}")
        migrate(store)
        committed(store)
        store.close()
        words = ["--offline", "--dont_set_weights", "--immediate"]
        running = stack.enter_context(validator(folder, words, **{**scene.environment, "HOTKEY": "//Validator"}))
        running.until((running.data / "embedded" / "cluster.json").exists)
        yield running, scene


def test_selects_models_runs_scoring_locally_without_external_api(standalone: tuple[Validator, Scene]) -> None:
    running, scene = standalone
    commitment = scene.publish(2)
    committed(running.store, commitment)

    def scored() -> list[ScoreRecord]:
        running.now_do("competitions.score_next_models", "cpu")
        return running.history()

    (record, *_) = running.until(scored)
    assert (record.hotkey, record.scorer_hotkey) == (commitment.hotkey, VALIDATOR.ss58_address)
    assert 0.5 < record.score <= 1
    assert scene.left() == []


def test_docker_failures_cleanup_and_penalize_model(standalone: tuple[Validator, Scene]) -> None:
    running, scene = standalone
    commitment = scene.publish(3, dockerfile=b'FROM docker.io/library/python:3.11\nCMD ["no-such-program"]\n')
    committed(running.store, commitment)

    def scored() -> list[ScoreRecord]:
        running.now_do("competitions.score_next_models", "cpu")
        return [record for record in running.history() if record.hotkey == commitment.hotkey]

    (record, *_) = running.until(scored)
    assert record.score == 0.0
    assert record.error
    assert scene.left() == []
    assert scene.folders(running.data) == []


def test_calculates_weights_and_immediate_and_dont_set_weights(standalone: tuple[Validator, Scene]) -> None:
    running, _ = standalone
    # --immediate: at the start, without waiting for :00, :20 or :40
    (first, *_) = running.until(lambda: list(reversed(running.rounds())))
    assert first.mark.startswith("immediate")
    assert first.state.value == "not_set"


# -- the timetable, with the clock in our hands -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("minute", "next_minute"), [(0, 20), (1, 20), (19, 20), (20, 40), (39, 40), (40, 60), (59, 60)]
)
def test_weight_job_runs_at_00_20_40(minute: int, next_minute: int) -> None:
    entry = beat_schedule.timetable(Settings(_env_file=None, netuid=NETUID))["set the models' weights"]
    last = datetime(2026, 11, 22, 7, minute, 30, tzinfo=UTC)
    schedule = entry["schedule"]
    schedule.nowfun = lambda: last
    wait = schedule.remaining_estimate(last)
    assert last + wait == datetime(2026, 11, 22, 7, 0, tzinfo=UTC) + timedelta(minutes=next_minute)


def test_metagraph_every_5_minutes_models_and_cleaning_by_config() -> None:
    settings = Settings(_env_file=None, netuid=NETUID, update_delay_minutes=3, clean_period_minutes=7)
    pauses = {entry["task"].rsplit(".")[-1]: entry["schedule"] for entry in beat_schedule.timetable(settings).values()}
    assert pauses["sync_metagraph"] == timedelta(minutes=5)
    assert pauses["update_models"] == timedelta(minutes=3)
    assert pauses["clean_models"] == timedelta(minutes=7)
