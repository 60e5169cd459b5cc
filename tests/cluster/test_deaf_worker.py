"""A worker that no longer takes tasks is noticed and replaced, by what does not depend on it."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from app.cluster import watchdog
from app.store.records import Stage
from tests.cluster.conftest import PROJECT, Cluster

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


def test_a_worker_whose_loop_stands_still_ends_and_is_ill_meanwhile(cluster: Cluster, tmp_path: Path) -> None:
    sign = tmp_path / "deaf"
    environment = {**cluster.environment, "DEAF_WHEN": str(sign), "CLUSTER_NAME": "deaf", "METRICS_PORT": "0"}
    command = [sys.executable, "-m", "celery", "-A", "tests.cluster.deaf", "worker", "-Q", "chain", "--without-mingle"]
    with (tmp_path / "log").open("wb") as log:
        worker = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=PROJECT)
    try:
        deadline = time.monotonic() + 90
        while not healthy("chain", environment):
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
        time.sleep(watchdog.TURNING + 5)
        assert worker.poll() is None, "a healthy worker is left alone"
        [child] = _children(worker.pid)
        sign.touch()
        began = time.monotonic()
        time.sleep(1)
        assert not healthy("chain", environment)
        assert worker.wait(timeout=watchdog.TURNING + 5) != 0
        assert time.monotonic() - began < RECOVERY
        assert "in look" in (tmp_path / "log").read_text(), "the stack says where it stood"
        deadline = time.monotonic() + 5
        while Path(f"/proc/{child}").exists() and "Z" not in Path(f"/proc/{child}/stat").read_text().split()[2]:
            assert time.monotonic() < deadline, "a child outlives its worker"
            time.sleep(0.1)
    finally:
        worker.kill()
        worker.wait()


def _children(pid: int) -> list[int]:
    """Pool children of a worker: those that were spawned, without the tracker of semaphores."""
    found = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [child for child in found if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text()]
