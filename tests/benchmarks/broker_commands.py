"""Redis commands that a task costs: an epoch replayed on the embedded cluster, Redis watched meanwhile.

What the idle cluster asks (waiting for messages, heartbeats, beat) is measured before and taken off.
"""

from __future__ import annotations

import os
import re
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import redis

MOST = 12
IDLE_SECONDS = 10.0
REPLAYS = 10
DEMO = Path(__file__).parents[2] / "app" / "demo" / "recording"


class Watched:
    """Every command that clients send, counted by name; what scripts call in turn is not one."""

    def __init__(self, url: str) -> None:
        self._counts: Counter[str] = Counter()
        self._monitor = redis.Redis.from_url(url).monitor()
        self._monitor.__enter__()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        # until Redis ends
        with suppress(redis.ConnectionError):
            for line in self._monitor.listen():
                if line["client_type"] != "lua":
                    self._counts[line["command"].split(" ", 1)[0].upper()] += 1

    def taken(self) -> Counter[str]:
        """What was counted since the last time."""
        taken, self._counts = self._counts, Counter()
        return taken


def main() -> None:
    """Print the commands a task, by name."""
    from app.cluster.embedded import EmbeddedCluster
    from app.settings import Settings, get_settings

    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(DATA_DIR=folder, METRICS_PORT="0")
        get_settings.cache_clear()
        cluster = EmbeddedCluster(Settings(_env_file=None), flower=False, name="commands")
        os.environ.update(cluster.environment)
        get_settings.cache_clear()
        with cluster:
            from app.celery import app
            from app.store.database import get_store
            from app.store.schema import migrate

            migrate(get_store())
            cluster.await_workers(app)
            _replay()
            time.sleep(2)
            watched = Watched(cluster.broker_url)
            time.sleep(IDLE_SECONDS)
            idle = watched.taken()
            before, began = _finished(cluster.logs), time.monotonic()
            for _ in range(REPLAYS):
                _replay()
            seconds = time.monotonic() - began
            busy, tasks = watched.taken(), _finished(cluster.logs) - before
    own = {name: (count - idle[name] * seconds / IDLE_SECONDS) / tasks for name, count in busy.items()}
    total = sum(own.values())
    print(", ".join(f"{name} {count:.1f}" for name, count in sorted(own.items(), key=lambda one: -one[1])[:12]))
    print(
        f"{total:.1f} Redis commands a task, over {tasks} tasks ({'met' if total <= MOST else 'MISSED'}: {MOST}); "
        f"the idle cluster sends {sum(idle.values()) / IDLE_SECONDS:.1f} a second"
    )


def _finished(logs: Path) -> int:
    return sum(len(re.findall(r" finished in ", path.read_text())) for path in logs.glob("*.log"))


def _replay() -> None:
    from app.epochs.recording import Recording
    from app.settings import get_settings
    from app.store.database import get_store
    from app.store.epochs import Epochs
    from app.store.records import FINAL_STAGES
    from workers.epochs import open_epoch

    store = get_store()
    with store.writing() as session:
        epoch_id = Recording(DEMO).announce(session, "recorded", get_settings().cluster_name, without_boltz=False)
    open_epoch.delay(epoch_id)
    while True:
        with store.reading() as session:
            if Epochs(session).summary(epoch_id).stage in FINAL_STAGES:
                return
        time.sleep(0.1)


if __name__ == "__main__":
    main()
