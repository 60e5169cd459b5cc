"""Whatever dies, the epoch ends in exactly one correct result."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from app.demo import RECORDING_2026
from app.store.epochs import Epochs
from app.store.records import Stage
from tests.cluster.conftest import DEMO, Cluster, eager_result
from tests.workers.small_recording import write_small_recording

pytestmark = pytest.mark.cluster

POOLS = """
import json
from app.celery import app
stats = app.control.inspect(timeout=3).stats()
print(json.dumps({node.split("@")[0]: found["pool"]["processes"] for node, found in stats.items()}))
"""


def test_a_replay_on_real_workers_equals_the_eager_one(cluster: Cluster, expected: dict[str, Any]) -> None:
    assert cluster.replay().result() == expected


def test_an_epoch_of_2026_on_real_workers_has_both_tracks(cluster: Cluster) -> None:
    result = cluster.replay(RECORDING_2026).result()
    assert result["era"] == "august-2026"
    assert result["winners"] == {"molecule": 1, "nanobody": 1}
    assert result["unjudged"] == {}
    assert result["weights"] == {"42": 1.0}


def test_a_replay_needs_its_folder_no_longer_than_the_import(
    cluster: Cluster, expected: dict[str, Any], tmp_path: Path
) -> None:
    folder = tmp_path / "recording"
    shutil.copytree(DEMO, folder)
    replay = cluster.replay(folder)
    cluster.when(lambda epoch: epoch.stage in {Stage.ANNOUNCED, Stage.EXAMINING})
    shutil.rmtree(folder)
    assert replay.result() == expected


def test_cpu_children_killed_mid_task_cost_nothing(cluster: Cluster, expected: dict[str, Any]) -> None:
    replay = cluster.replay()
    killed: set[int] = set()
    while len(killed) < 2:
        epoch = cluster.when(lambda epoch: epoch.stage is Stage.EXAMINING)
        for pid in set(cluster.holders(epoch.id, "cpu")) - killed:
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)
    assert replay.result() == expected


def test_a_gpu_child_killed_mid_task_costs_nothing(cluster: Cluster, tmp_path: Path) -> None:
    # recorded scores are asked of no worker, so the model scores here
    recording = write_small_recording(tmp_path / "recording", [1])
    options = ("--scores", "model", "--without-boltz")
    expected = eager_result(tmp_path, recording, *options)
    replay = cluster.replay(recording, *options)
    killed = False
    while not killed:
        epoch = cluster.when(lambda epoch: epoch.stage is Stage.SCORING)
        with cluster.write_lock():
            # a claim that stands while nobody can write is a task between its claim and its scores
            for pid in cluster.holders(epoch.id, "gpu"):
                os.kill(pid, signal.SIGKILL)
                killed = True
    assert replay.result() == expected


def test_a_header_task_delivered_twice_counts_once(cluster: Cluster, expected: dict[str, Any]) -> None:
    replay = cluster.replay()
    copied = 0
    deadline = time.monotonic() + 60
    while not copied and time.monotonic() < deadline:
        messages = cluster.redis.lrange("tests:cpu", 0, -1)
        for message in messages[:5]:
            cluster.redis.lpush("tests:cpu", message)
            copied += 1
    assert copied
    assert replay.result() == expected


def test_redis_restarted_mid_epoch(cluster: Cluster, expected: dict[str, Any]) -> None:
    replay = cluster.replay()
    cluster.when(lambda epoch: epoch.stage is Stage.EXAMINING)
    os.kill(cluster.embedded.processes()["redis"], signal.SIGKILL)
    assert replay.result() == expected


@pytest.mark.parametrize("lost", ["everything", "the timetable alone"])
def test_beat_outlives_a_wiped_redis(cluster: Cluster, lost: str) -> None:
    beat = cluster.embedded.processes()["beat"]
    if lost == "everything":
        cluster.redis.flushall()
    else:
        # as where Redis is wiped while a beat that has written its timetable still waits for its lock
        assert cluster.redis.delete("tests:redbeat::schedule") == 1
    deadline = time.monotonic() + 30
    while not cluster.redis.zcard("tests:redbeat::schedule"):
        assert time.monotonic() < deadline, cluster.redis.keys()
        time.sleep(0.2)
    assert cluster.embedded.processes()["beat"] == beat


def test_each_worker_has_the_pool_of_its_queue_and_cpu_children_stay_small(cluster: Cluster) -> None:
    command = [sys.executable, "-c", POOLS]
    answer = subprocess.run(command, env=cluster.environment, check=True, capture_output=True, cwd=cluster.folder)
    pools: dict[str, list[int]] = json.loads(answer.stdout)
    assert {node: len(children) for node, children in pools.items()} == {"chain": 1, "cpu": 2, "gpu": 1}
    for pid in pools["cpu"]:
        # these children have examined and closed epochs by now
        assert "libtorch" not in Path(f"/proc/{pid}/maps").read_text()
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        assert int(status["VmHWM"].split()[0]) < 200_000


@pytest.mark.parametrize("stage", [Stage.EXAMINING, Stage.SCORING])
def test_redis_wiped_mid_epoch(cluster: Cluster, expected: dict[str, Any], stage: Stage) -> None:
    replay = cluster.replay()
    epoch = cluster.when(lambda epoch: epoch.stage is stage)
    with cluster.write_lock():
        cluster.redis.flushall()
    assert replay.result() == expected
    with cluster.store.reading() as session:
        assert Epochs(session).summary(epoch.id).stage is Stage.DONE


def test_every_tick_twice_and_every_step_twice(cluster: Cluster, expected: dict[str, Any]) -> None:
    replay = cluster.replay()
    epoch = cluster.when(lambda _: True)
    ticks = f"""
from workers.upkeep import reconcile
from workers.epochs import close_epoch, open_epoch, plan_scoring
for _ in range(3):
    reconcile.delay(); open_epoch.delay({epoch.id}); plan_scoring.delay({epoch.id}); close_epoch.delay({epoch.id})
"""
    subprocess.run([sys.executable, "-c", ticks], env=cluster.environment, check=True, cwd=cluster.folder)
    assert replay.result() == expected
    with cluster.store.reading() as session:
        assert len([e for e in Epochs(session).recent(100) if e.id == epoch.id]) == 1


def test_two_clusters_share_one_redis_database(cluster: Cluster, expected: dict[str, Any], tmp_path: Path) -> None:
    other = {**cluster.environment, "CLUSTER_NAME": "other", "DATA_DIR": str(tmp_path), "METRICS_PORT": "0"}
    other["DATABASE_URL"] = f"sqlite:///{tmp_path / 'validator.sqlite'}"
    command = [sys.executable, "-m", "celery", "-A", "app", "worker", "-P", "solo"]
    worker = subprocess.Popen(command, env=other, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=tmp_path)
    try:
        replays = [cluster.replay(environment=environment) for environment in (cluster.environment, other)]
        assert [replay.result() for replay in replays] == [expected, expected]
    finally:
        worker.kill()
        worker.wait()
    keys = [key.decode() for key in [*cluster.redis.keys(), *cluster.redis.pubsub_channels()]]
    assert {key.split(":")[0] for key in keys} == {"tests", "other"}
