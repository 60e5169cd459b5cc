"""What an operator sees of a running cluster: Flower, metrics, logs, queues; and that none of it tells a secret."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.cluster.embedded import EmbeddedCluster
from app.domain import QueueName
from app.observability import broker as queues
from app.observability.exporter import PortOffset
from app.settings import Settings, get_settings
from app.store.database import Store
from app.store.schema import migrate
from tests.pool import pool_children

pytestmark = pytest.mark.cluster

PROJECT = Path(__file__).parents[2]
DEMO = PROJECT / "app" / "demo" / "recording"
EPOCH = 18949

MARKED = {
    "FLOWER_BASIC_AUTH": "operator:marked-flower-pw",
    "GITHUB_TOKEN": "marked-github-token",
    "HF_TOKEN": "marked-hf-token",
    "SUBMIT_RESULTS_KEY": "marked-results-key",
    "MONITORING_KEY": "marked-monitoring-key",
}


class Observed:
    """A running cluster that has replayed the bundled epoch."""

    def __init__(self, embedded: EmbeddedCluster, settings: Settings, environment: dict[str, str]) -> None:
        self.embedded = embedded
        self.settings = settings
        self.environment = environment
        self.output = ""

    def page(self, port: int, path: str, *, password: str | None = None, data: bytes | None = None) -> str:
        """One page over HTTP."""
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data=data)
        if password:
            request.add_header("Authorization", "Basic " + base64.b64encode(password.encode()).decode())
        with urllib.request.urlopen(request, timeout=20) as answer:
            return str(answer.read().decode())

    def flower(self, path: str) -> str:
        """One page of Flower."""
        return self.page(self.settings.flower_port, path, password=MARKED["FLOWER_BASIC_AUTH"])

    def samples(self, port: int) -> dict[tuple[str, str], float]:
        """Series → value; labels as sorted JSON."""
        families = text_string_to_metric_families(self.page(port, "/metrics"))
        return {(s.name, json.dumps(s.labels, sort_keys=True)): s.value for f in families for s in f.samples}

    def total(self, name: str, **labels: str) -> float:
        """A counter's sum over all workers."""
        ports = range(self.settings.metrics_port, self.settings.metrics_port + 4)
        found = [sample for port in ports for sample in self.samples(port).items()]
        return sum(
            value for (series, text), value in found if series == name and labels.items() <= json.loads(text).items()
        )


def free_ports(count: int) -> int:
    """The first of some free ports in a row."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            first = int(probe.getsockname()[1])
        taken = []
        try:
            for port in range(first, first + count):
                taken.append(socket.socket())
                taken[-1].bind(("127.0.0.1", port))
        except (OSError, OverflowError):
            continue
        else:
            return first
        finally:
            for each in taken:
                each.close()


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    """The cluster, with JSON logs, at the level that operators run it at."""
    folder = tmp_path_factory.mktemp("observed")
    before = dict(os.environ)
    first = free_ports(8)
    os.environ.update(
        MARKED,
        DATA_DIR=str(folder),
        LOG_FORMAT="json",
        CPU_CONCURRENCY="1",
        METRICS_PORT=str(first),
        FLOWER_PORT=str(first + 6),
        API_PORT=str(first + 7),
    )
    try:
        settings = Settings(_env_file=None)
        store = Store(settings.store_url)
        migrate(store)
        store.close()
        with EmbeddedCluster(settings, flower=True, api=True, name="observed") as embedded:
            environment = {**os.environ, **embedded.environment, "PYTHONPATH": str(PROJECT)}
            found = Observed(embedded, settings, environment)
            command = [sys.executable, "-m", "app", "epoch", "replay", str(DEMO), "--out", str(folder / "result.json")]
            done = subprocess.run(
                [*command, "--cluster", embedded.broker_url],
                env=environment,
                cwd=folder,
                capture_output=True,
                text=True,
                check=False,
            )
            found.output = done.stdout + done.stderr
            assert done.returncode == 0, found.output
            yield found
    finally:
        os.environ.clear()
        os.environ.update(before)


def until(happens: Callable[[], Any], seconds: float = 30) -> Any:
    """Wait for something to be true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := happens():
            return found
        time.sleep(0.2)
    return happens()


# -- Flower ------------------------------------------------------------------------------------------------------------


def test_flower_asks_for_the_password(observed: Observed) -> None:
    assert until(lambda: status(observed, "/healthcheck", MARKED["FLOWER_BASIC_AUTH"]) == 200)
    for path in ("/", "/api/tasks", "/tasks"):
        assert status(observed, path, None) == 401
    assert status(observed, "/api/tasks", "operator:wrong") == 401
    for pid in observed.embedded.processes().values():
        assert b"marked" not in Path(f"/proc/{pid}/cmdline").read_bytes()


def status(observed: Observed, path: str, password: str | None) -> int:
    """Flower's answer; 0 where it does not answer yet."""
    try:
        observed.page(observed.settings.flower_port, path, password=password)
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code
    except OSError:
        return 0
    return 200


def test_flower_shows_tasks_in_words(observed: Observed) -> None:
    tasks = json.loads(observed.flower("/api/tasks?limit=200")).values()
    examined = [task for task in tasks if task["name"].endswith("examine_submission")]
    assert {task["args"] for task in examined} >= {f"epoch={EPOCH} uid={uid}" for uid in (1, 17)}
    assert all(task["kwargs"].startswith("stage=examining") for task in examined)
    (closed,) = [task for task in tasks if task["name"].endswith("close_epoch")]
    assert closed["args"] == f"epoch={EPOCH}"
    assert closed["kwargs"].startswith("stage=closing")
    sort = {"order[0][column]": 0, "columns[0][data]": "name", "order[0][dir]": "asc"}
    query = urllib.parse.urlencode({"draw": 1, "start": 0, "length": 100, "search[value]": "examine", **sort})
    rows = json.loads(observed.flower(f"/tasks/datatable?{query}"))["data"]
    assert rows
    assert {row["name"] for row in rows} == {"examine_submission"}
    assert {row["result"] for row in rows} == {"valid", "rejected"}
    page = observed.flower(f"/task/{examined[0]['uuid']}")
    assert examined[0]["args"] in page


# -- metrics -----------------------------------------------------------------------------------------------------------


def test_workers_count_the_epoch_once(observed: Observed) -> None:
    assert until(lambda: observed.total("validator_epochs_total", outcome="done")) == 1
    accepted, refused = observed.total("validator_submissions_accepted_total"), "validator_submissions_rejected_total"
    result = json.loads((observed.settings.data_dir / "result.json").read_text())
    assert accepted + observed.total(refused) == len(result["submissions"])
    assert observed.total(refused, code="path_malformed") == 1
    # recorded scores are asked of no worker
    assert observed.total("validator_pairs_scored_total") == 0
    assert observed.total("validator_batches_total") == 0
    assert observed.total("validator_weights_total", of="molecules", outcome="recorded") == 1
    assert observed.total("validator_tasks_total", task="examine_submission", outcome="succeeded") >= 21
    assert observed.total("validator_stage_seconds_count", stage="scoring") == 1
    assert until(lambda: observed.total("validator_tasks_sent_total", task="reconcile"), 40) >= 1


def test_the_api_says_what_the_cluster_is_at(observed: Observed) -> None:
    def state() -> dict[tuple[str, str], float]:
        return observed.samples(observed.settings.metrics_port + PortOffset.API)

    until(lambda: ("validator_workers", '{"queue": "cpu"}') in state())
    samples = state()
    for queue in QueueName:
        assert samples["validator_workers", json.dumps({"queue": queue.value})] == 1
    assert samples["validator_epoch_number", "{}"] == EPOCH
    assert samples["validator_epoch_stage", '{"stage": "done"}'] == 1
    assert samples["validator_broker_up", "{}"] == 1
    assert samples["validator_store_up", "{}"] == 1


def test_a_killed_child_takes_no_count_with_it(observed: Observed) -> None:
    before = observed.total("validator_submissions_accepted_total")
    folder = next((observed.settings.data_dir / "metrics").glob("cpu@*"))
    main = observed.embedded.processes()["cpu"]
    for _ in range(2):
        children = until(lambda: pool_children(main))
        for child in children:
            os.kill(child, signal.SIGKILL)
        until(lambda gone=children: not any(Path(f"/proc/{pid}").exists() for pid in gone))
        assert observed.total("validator_submissions_accepted_total") == before
    places = {path.stem.rpartition("_")[2] for path in folder.glob("*.db")}
    assert len(places) <= int(observed.environment["CPU_CONCURRENCY"])


# -- queues ------------------------------------------------------------------------------------------------------------


def test_depths_and_workers_of_a_real_cluster(observed: Observed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROKER_URL", observed.embedded.broker_url)
    monkeypatch.setenv("CLUSTER_NAME", observed.environment["CLUSTER_NAME"])
    get_settings.cache_clear()
    workers = until(queues._ask_workers)
    assert {worker.queues for worker in workers} == {("chain",), ("cpu",), ("gpu",)}
    program = "from workers.upkeep import forget_old; forget_old.apply_async(countdown=60)"
    subprocess.run([sys.executable, "-c", program], env=observed.environment, check=True)
    # the worker holds it until its time has come
    depths = until(lambda: (found := queues._read_depths())[QueueName.CPU].unacknowledged and found)
    assert depths[QueueName.CPU].unacknowledged >= 1
    assert depths[QueueName.GPU] == queues.QueueDepth(0, 0)
    queues._client.cache_clear()


# -- logs --------------------------------------------------------------------------------------------------------------


def test_every_line_is_an_event(observed: Observed) -> None:
    for name in ("chain", "cpu", "gpu", "beat", "flower", "api"):
        text = (observed.embedded.logs / f"{name}.log").read_text()
        # as root, Celery's worker says so before any log is set up
        text = re.sub(r"\A\S+platforms\.py:.*?_warn_or_raise_security_error\([^\n]*\n", "", text, flags=re.DOTALL)
        for line in text.splitlines():
            assert json.loads(line)["process"] == name


def test_a_tasks_lines_say_epoch_uid_and_task(observed: Observed) -> None:
    text = (observed.embedded.logs / "cpu.log").read_text()
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    about = [line for line in lines if line.get("task") == "examine_submission" and line.get("uid") == 17]
    assert [re.sub(r"[\d.]+ s", "N s", line["message"]) for line in about] == ["started", "finished in N s: rejected"]
    assert {line["epoch"] for line in about} == {EPOCH}
    tasks = json.loads(observed.flower("/api/tasks?limit=200"))
    assert {line["task_id"] for line in about} <= set(tasks)


def test_nothing_tells_a_secret(observed: Observed) -> None:
    broker = observed.embedded.broker_url.split("@")[0].rsplit(":", 1)[1]
    secrets = [*(secret.rpartition(":")[2] for secret in MARKED.values()), broker]
    for secret in secrets:
        assert secret not in observed.output
        for log in observed.embedded.logs.glob("*.log"):
            assert secret not in log.read_text(errors="replace"), log.name
    for task in json.loads(observed.flower("/api/tasks?limit=200")).values():
        assert "marked" not in json.dumps(task)
