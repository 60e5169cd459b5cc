"""The watch over a worker's loop."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

PROJECT = Path(__file__).parents[3]

FORKED = """
import os
from app.cluster import watchdog

watchdog.start(60)
if os.fork() == 0:
    # a child connects to the broker, which feeds the watch where there is one
    watchdog.feed(30)
    os._exit(0)
raise SystemExit(os.wait()[1])
"""


# what Celery does where the broker goes away between the first connection and the first event
UNCONNECTED = """
import time
from celery.worker.heartbeat import Heart
from app.celery import app

def for_ever(self):
    print("connecting", flush=True)
    while True:
        time.sleep(1)

Heart.start = for_ever
app.Worker(queues=["cpu"], concurrency=1, without_gossip=True, without_mingle=True).start()
"""


def test_a_worker_that_never_connected_ends_when_told(tmp_path: Path) -> None:
    environment = os.environ | {
        "BROKER_URL": "memory://",
        "RESULT_BACKEND": "cache+memory://",
        "DATA_DIR": str(tmp_path),
        "METRICS_PORT": "0",
        "PYTHONPATH": str(PROJECT),
    }
    command = [sys.executable, "-c", UNCONNECTED]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as worker:
        try:
            assert worker.stdout is not None
            assert any("connecting" in line for line in worker.stdout)
            worker.terminate()
            output, _ = worker.communicate(timeout=60)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(worker.pid, signal.SIGKILL)
    assert worker.returncode not in (None, -signal.SIGKILL), output


def test_a_child_that_a_watched_worker_forks_does_not_wait_for_the_watch() -> None:
    done = subprocess.run([sys.executable, "-c", FORKED], cwd=PROJECT, timeout=20, check=False)
    assert done.returncode == 0
