"""A worker that no longer takes tasks is noticed and replaced, by what does not depend on it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from app.cluster import watchdog
from app.store.records import Stage
from tests.cluster.conftest import PROJECT, Cluster
from tests.pool import pool_children

pytestmark = pytest.mark.cluster

# From the end of the fault to a worker that works (s).
RECOVERY = 30.0

ASK = """
import sys
from app.celery import app
nodes = app.control.inspect(timeout=1).active_queues() or {}
sys.exit({"chain", "cpu", "gpu"} - {queue["name"] for queues in nodes.values() for queue in queues} != set())
"""


def healthy(queue: str, environment: dict[str, str]) -> bool:
    """What the container's health check says."""
    command = [sys.executable, "-m", "app", "healthcheck", queue]
    return subprocess.run(command, env=environment, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize(("seconds", "stage"), [(9, Stage.EXAMINING), (14, Stage.SCORING)])
def test_a_connection_that_freezes_and_is_cut(
    cluster: Cluster, expected: dict[str, Any], seconds: int, stage: Stage
) -> None:
    replay = cluster.replay()
    cluster.when(lambda epoch: epoch.stage is stage)
    cluster.proxy.freeze()
    time.sleep(seconds)
    cluster.proxy.cut()
    cluster.proxy.thaw()
    began = time.monotonic()
    while subprocess.run([sys.executable, "-c", ASK], env=cluster.environment, check=False).returncode:
        assert time.monotonic() - began < RECOVERY
    assert replay.result() == expected


@dataclass
class Planted:
    """A hand-started chain worker of its own cluster, with the faults of :mod:`tests.cluster.deaf`."""

    process: subprocess.Popen[bytes]
    environment: dict[str, str]
    folder: Path

    def log(self) -> str:
        """What it wrote."""
        return (self.folder / "log").read_text()


@pytest.fixture
def planted(cluster: Cluster, tmp_path: Path) -> Iterator[Planted]:
    """The worker, once it is healthy."""
    environment = {**cluster.environment, "CLUSTER_NAME": "deaf", "METRICS_PORT": "0"}
    environment["DEAF_WHEN"] = str(tmp_path / "deaf")
    command = [sys.executable, "-m", "celery", "-A", "tests.cluster.deaf", "worker", "-Q", "chain"]
    with (tmp_path / "log").open("wb") as log:
        worker = Planted(
            subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=PROJECT), environment, tmp_path
        )
    deadline = time.monotonic() + 90
    while not healthy("chain", environment):
        assert time.monotonic() < deadline, worker.log()
    yield worker
    worker.process.kill()
    worker.process.wait()


def test_a_worker_whose_loop_stands_still_ends_and_is_unhealthy_meanwhile(planted: Planted) -> None:
    time.sleep(watchdog.TURNING + 5)
    assert planted.process.poll() is None, "a healthy worker is left alone"
    [child] = pool_children(planted.process.pid)
    Path(planted.environment["DEAF_WHEN"]).touch()
    began = time.monotonic()
    time.sleep(1)
    assert not healthy("chain", planted.environment)
    assert planted.process.wait(timeout=watchdog.TURNING + 5) != 0
    assert time.monotonic() - began < RECOVERY
    assert "in look" in planted.log(), "the stack says where it stood"
    _await_end(child)


@pytest.mark.parametrize("signals", [[signal.SIGQUIT], [signal.SIGINT, signal.SIGINT]])
def test_a_cold_shutdown_waits_for_no_task(planted: Planted, signals: list[signal.Signals]) -> None:
    send = "from tests.cluster.deaf import stubborn; stubborn.apply_async(queue='chain')"
    subprocess.run([sys.executable, "-c", send], env=planted.environment, check=True, cwd=PROJECT)
    deadline = time.monotonic() + 60
    while not Path(planted.environment["DEAF_WHEN"]).with_suffix(".running").exists():
        assert time.monotonic() < deadline, planted.log()
        time.sleep(0.1)
    [child] = pool_children(planted.process.pid)
    for number in signals:
        planted.process.send_signal(number)
        time.sleep(1)
    planted.process.wait(timeout=watchdog.COLD + 5)
    _await_end(child)


def _await_end(child: int) -> None:
    deadline = time.monotonic() + 5
    while Path(f"/proc/{child}").exists() and "Z" not in Path(f"/proc/{child}/stat").read_text().split()[2]:
        assert time.monotonic() < deadline, "a child outlives its worker"
        time.sleep(0.1)
