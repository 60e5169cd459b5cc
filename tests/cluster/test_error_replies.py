"""Redis answers with an error for a while: workers and beat wait, as their operator would want, and nothing is lost."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from app.store.records import Stage
from tests.cluster.conftest import Cluster

pytestmark = pytest.mark.cluster

SECONDS = 10.0


def full_memory(server: redis.Redis) -> None:
    """OOM command not allowed when used memory > 'maxmemory'."""
    server.config_set("maxmemory", "1")
    time.sleep(SECONDS)
    server.config_set("maxmemory", "0")


def failover(server: redis.Redis) -> None:
    """READONLY You can't write against a read only replica; blocked clients hear UNBLOCKED."""
    server.execute_command("REPLICAOF", "127.0.0.1", "1")
    time.sleep(SECONDS)
    server.execute_command("REPLICAOF", "NO", "ONE")


def failed_snapshots(server: redis.Redis) -> None:
    """MISCONF Redis is configured to save RDB snapshots, but it is currently not able to persist on disk."""
    before = server.config_get("dir")["dir"]
    folder = tempfile.mkdtemp()
    server.config_set("dir", folder)
    shutil.rmtree(folder)
    server.config_set("save", "3600 1")
    server.bgsave()
    deadline = time.monotonic() + 10
    while server.info("persistence")["rdb_last_bgsave_status"] == "ok":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    with pytest.raises(redis.ResponseError, match="MISCONF"):
        server.set("tests:x", "1")
    time.sleep(SECONDS)
    server.config_set("save", "")
    server.config_set("dir", before)


def unblocked(server: redis.Redis) -> None:
    """UNBLOCKED client unblocked via CLIENT UNBLOCK."""
    end = time.monotonic() + SECONDS / 2
    while time.monotonic() < end:
        for client in server.client_list():
            if client["cmd"] == "brpop":
                server.client_unblock(int(client["id"]), error=True)
        time.sleep(0.05)


@pytest.mark.parametrize("fault", [full_memory, failover, failed_snapshots, unblocked])
def test_an_error_reply_is_waited_out(
    cluster: Cluster, expected: dict[str, Any], fault: Callable[[redis.Redis], None]
) -> None:
    before = cluster.embedded.processes()
    replay = cluster.replay()
    cluster.when(lambda epoch: epoch.stage is Stage.EXAMINING)
    fault(cluster.redis)
    assert replay.result() == expected
    assert cluster.embedded.processes() == before, "no process ended"


def test_what_is_started_by_hand_meanwhile_waits_too(cluster: Cluster, tmp_path: Path) -> None:
    environment = {**cluster.environment, "CLUSTER_NAME": "hand", "METRICS_PORT": "0", "DATA_DIR": str(tmp_path)}
    started: list[subprocess.Popen[bytes]] = []
    cluster.redis.config_set("maxmemory", "1")
    try:
        for arguments in (["worker", "-Q", "chain"], ["beat", "--pidfile", "", "--schedule", str(tmp_path / "s")]):
            with (tmp_path / arguments[0]).open("wb") as log:
                command = [sys.executable, "-m", "celery", "-A", "app", *arguments]
                started.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=tmp_path))
        deadline = time.monotonic() + 90
        while not all("'maxmemory'" in (tmp_path / name).read_text() for name in ("worker", "beat")):
            assert time.monotonic() < deadline, (tmp_path / "worker").read_text() + (tmp_path / "beat").read_text()
            time.sleep(0.1)
        time.sleep(SECONDS)
        assert [process.poll() for process in started] == [None, None]
        cluster.redis.config_set("maxmemory", "0")
        for service in ("chain", "beat"):
            deadline = time.monotonic() + 60
            command = [sys.executable, "-m", "app", "healthcheck", service]
            while subprocess.run(command, env=environment, capture_output=True, check=False).returncode:
                assert time.monotonic() < deadline, (tmp_path / "worker").read_text()
    finally:
        cluster.redis.config_set("maxmemory", "0")
        for process in started:
            process.kill()
            process.wait()
