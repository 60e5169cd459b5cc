"""A real cluster: redis-server, three workers and beat, as ``up`` starts them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import redis
from sqlalchemy import select

from app.cluster.embedded import EmbeddedCluster
from app.settings import Settings
from app.store.database import Store
from app.store.epochs import Epochs
from app.store.records import FINAL_STAGES, EpochSummary
from app.store.tables.work import WorkRow
from tests.cluster.kept_alive import kept_alive
from tests.cluster.proxy import Proxy
from tests.stores import migrated

PROJECT = Path(__file__).parents[2]
DEMO = PROJECT / "app" / "demo" / "recording"

# The reconciler looks often and waits little, so that a lost chord costs the tests seconds.
QUICK = {"RECONCILE_EVERY": "PT2S", "RECONCILE_AFTER": "PT6S", "CPU_CONCURRENCY": "2"}


@dataclass
class Replay:
    """A replay that runs as its user runs it, in a process of its own."""

    process: subprocess.Popen[str]
    out: Path
    output: str = field(default="")

    def result(self, timeout: float = 150) -> dict[str, Any]:
        """Wait for the end; the result it wrote."""
        try:
            self.output, _ = self.process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.output, _ = self.process.communicate()
        assert self.process.returncode == 0, self.output
        return json.loads(self.out.read_text())


@dataclass
class Cluster:
    """The running cluster and what tests do to it."""

    embedded: EmbeddedCluster
    store: Store
    redis: redis.Redis
    environment: dict[str, str]
    folder: Path
    proxy: Proxy
    replays: list[subprocess.Popen[str]] = field(default_factory=list)

    def replay(self, recording: Path = DEMO, *options: str, environment: Mapping[str, str] | None = None) -> Replay:
        """Start a replay on this cluster, or on the one that the environment names."""
        out = self.folder / f"result-{time.monotonic_ns()}.json"
        command = [sys.executable, "-m", "app", "epoch", "replay", str(recording)]
        command += ["--cluster", self.embedded.broker_url, "--out", str(out), *options]
        process = subprocess.Popen(
            command,
            env=environment or self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.folder,
        )
        self.replays.append(process)
        return Replay(process, out)

    def epoch(self) -> EpochSummary | None:
        """The latest epoch."""
        with self.store.reading() as session:
            return next(iter(Epochs(session).recent(1)), None)

    def when(self, happens: Callable[[EpochSummary], bool], timeout: float = 60) -> EpochSummary:
        """Wait until the latest unfinished epoch is as asked."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            epoch = self.epoch()
            if epoch is not None and epoch.stage not in FINAL_STAGES and happens(epoch):
                return epoch
            time.sleep(0.01)
        raise AssertionError(f"it did not happen: {self.epoch()}")

    def holders(self, epoch_id: int, node: str) -> list[int]:
        """Process ids of the children of a worker that hold a part of the epoch at this moment."""
        with self.store.reading() as session:
            held = select(WorkRow.holder).where(WorkRow.epoch_id == epoch_id, WorkRow.holder.startswith(f"{node}@"))
            return [int(holder.split("/")[1]) for holder in session.execute(held).scalars()]

    @contextmanager
    def write_lock(self) -> Iterator[None]:
        """Hold the store's write lock: whatever task is running stops at its next write."""
        with self.store.writing():
            yield


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster for the tests of one module; its processes reach Redis through a proxy."""
    folder = tmp_path_factory.mktemp("cluster")
    before = dict(os.environ)
    os.environ.update(QUICK, DATA_DIR=str(folder))
    try:
        settings = Settings(data_dir=folder, _env_file=None)
        store = Store(settings.store_url)
        migrated(store)
        embedded = EmbeddedCluster(settings, flower=False, name="tests")
        client = redis.Redis.from_url(embedded.broker_url)
        proxy = Proxy(embedded.port)
        embedded.broker_url = embedded.broker_url.replace(f":{embedded.port}/", f":{proxy.port}/")
        with embedded, kept_alive(embedded):
            environment = {**os.environ, **embedded.environment, "PYTHONPATH": str(PROJECT)}
            cluster = Cluster(embedded, store, client, environment, folder, proxy)
            yield cluster
            for process in cluster.replays:
                process.kill()
                process.communicate()
            client.close()
        proxy.close()
        store.close()
    finally:
        os.environ.clear()
        os.environ.update(before)


def eager_result(folder: Path, recording: Path, *options: str) -> dict[str, Any]:
    """A replay's result, worked out in one process without a broker."""
    out = folder / "result.json"
    environment = {**os.environ, "DATA_DIR": str(folder), "PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-m", "app", "epoch", "replay", str(recording), "--cluster", "eager", "--out", str(out)]
    subprocess.run([*command, *options], env=environment, check=True, capture_output=True, cwd=folder)
    return json.loads(out.read_text())


@pytest.fixture(scope="session")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The bundled epoch's result."""
    return eager_result(tmp_path_factory.mktemp("eager"), DEMO)
