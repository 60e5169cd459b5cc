"""What chaos happens to: a cluster behind a proxy, a store, and the outside world with a chain that takes weights."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import redis

from app.cluster.embedded import EmbeddedCluster
from app.settings import Settings, get_settings
from app.store.database import Store, get_store
from app.store.schema import migrate
from tests.chain.world import World, scores_for_any_challenge, world
from tests.cluster.proxy import Proxy
from tests.pool import pool_children

PROJECT: Final = Path(__file__).parents[2]
DEMO: Final = PROJECT / "app" / "demo" / "recording"
WORK: Final = ("chain", "cpu", "gpu")
MINERS: Final = frozenset({3, 5, 8, 17, 18, 22, 23})

# The reconciler's pace; everything else is as shipped. Two processes suffice for a small machine.
PACE: Final = {"RECONCILE_EVERY": "PT2S", "RECONCILE_AFTER": "PT6S", "CPU_CONCURRENCY": "2", "METRICS_PORT": "0"}

# Settings of the world that make it quicker than what is shipped.
QUICKER: Final = ("WATCH_EVERY", "WEIGHTS_PAUSE", "FETCH_BUDGET")

# Room of the small disk that is filled up (MiB); on a machine where one can be mounted.
DISK: Final = 700


@dataclass
class Scene:
    """A running cluster and all that can be done to it."""

    kind: str
    folder: Path
    cluster: EmbeddedCluster
    proxy: Proxy
    database_proxy: Proxy | None
    world: World
    redis: redis.Redis
    store: Store
    expected: str
    small_disk: bool
    ended: threading.Event = field(default_factory=threading.Event)

    def key(self, name: str) -> str:
        """A key of this cluster in Redis."""
        return get_settings().key_prefix + name

    def pid(self, name: str) -> int | None:
        """The main process of a worker, of beat or of Redis."""
        return self.cluster.processes().get(name)

    def pool(self, name: str) -> list[int]:
        """The children that run a worker's tasks."""
        return pool_children(self.pid(name))

    def kill(self, pid: int | None, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to a process that may be gone."""
        with suppress(ProcessLookupError, TypeError):
            os.kill(pid, number)  # type: ignore[arg-type]

    def kill_group(self, name: str) -> None:
        """Kill a process and all it started."""
        with suppress(ProcessLookupError, TypeError):
            os.killpg(self.pid(name), signal.SIGKILL)  # type: ignore[arg-type]


@contextmanager
def scene(kind: str, folder: Path) -> Iterator[Scene]:
    """Start everything; ``kind`` is sqlite or postgresql."""
    with ExitStack() as stack:
        small_disk = stack.enter_context(_small_disk(folder))
        outside = folder / "outside"
        outside.mkdir()
        universe = stack.enter_context(world(outside, uids=MINERS))
        settings = {name: value for name, value in universe.environment(folder).items() if name not in QUICKER}
        settings["REHEARSAL_SCORES"] = str(scores_for_any_challenge(outside / "scores"))
        os.environ.update(settings, **PACE)
        database_proxy = None
        if kind == "postgresql":
            socket = stack.enter_context(_postgresql(folder.with_name(f"{folder.name}-postgresql")))
            database_proxy = Proxy(socket)
            os.environ["DATABASE_URL"] = f"postgresql://postgres@127.0.0.1:{database_proxy.port}/postgres"
        get_settings.cache_clear()
        cluster = EmbeddedCluster(Settings(_env_file=None), flower=False, name="chaos")
        proxy = Proxy(cluster.port)
        direct = redis.Redis.from_url(cluster.broker_url, socket_timeout=3)
        cluster.broker_url = cluster.broker_url.replace(f":{cluster.port}/", f":{proxy.port}/")
        expected = _undisturbed(folder)
        os.environ.update(cluster.environment)
        get_settings.cache_clear()
        migrate(get_store())
        stack.enter_context(cluster)
        from app.celery import app

        cluster.await_workers(app)
        running = Scene(
            kind, folder, cluster, proxy, database_proxy, universe, direct, get_store(), expected, small_disk
        )
        keeper = threading.Thread(target=_supervise, args=(running,), daemon=True)
        keeper.start()
        yield running
        running.ended.set()
        keeper.join()


def _supervise(running: Scene) -> None:
    """Start again what ended, as ``up`` does."""
    while not running.ended.wait(1.0):
        # a full disk has no room for a log either
        with suppress(OSError):
            for name in running.cluster.revive():
                print(f"    {name} was started again", flush=True)


def _undisturbed(folder: Path) -> str:
    """The bundled epoch's result, worked out in one process without a broker."""
    alone = folder / "alone"
    alone.mkdir()
    environment = {**os.environ, "DATA_DIR": str(alone), "PYTHONPATH": str(PROJECT), "LIVE": "0"}
    environment.pop("DATABASE_URL", None)
    environment.pop("REHEARSAL_SCORES", None)
    command = [sys.executable, "-m", "app", "epoch", "replay", str(DEMO), "--cluster", "eager"]
    subprocess.run([*command, "--out", str(alone / "result.json")], env=environment, check=True, capture_output=True)
    result: dict[str, Any] = json.loads((alone / "result.json").read_text())
    shutil.rmtree(alone)
    return json.dumps(result, sort_keys=True)


@contextmanager
def _small_disk(folder: Path) -> Iterator[bool]:
    """A disk of its own for the data folder where this user may mount one; whether there is one."""
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK}m", "tmpfs", str(folder)]
    mounted = sys.platform == "linux" and subprocess.run(command, capture_output=True, check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=False)


@contextmanager
def _postgresql(folder: Path) -> Iterator[str]:
    """The socket of a PostgreSQL of its own, on the ordinary disk."""
    folder.mkdir(parents=True)
    runtime = folder / "runtime"
    runtime.mkdir(mode=0o700)
    os.environ["XDG_RUNTIME_DIR"] = str(runtime)
    import pgserver

    # the server runs as a user of its own when this process runs as root
    for parent in (folder, *folder.parents):
        if parent.is_relative_to("/tmp") and parent != Path("/tmp"):
            parent.chmod(0o755)
    server = pgserver.get_server(folder / "data", cleanup_mode="stop")
    yield f"{parse_qs(urlsplit(server.get_uri()).query)['host'][0]}/.s.PGSQL.5432"
    server.cleanup()
