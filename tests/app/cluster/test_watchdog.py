"""The watch over a worker's loop."""

from __future__ import annotations

import subprocess
import sys
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


def test_a_child_that_a_watched_worker_forks_does_not_wait_for_the_watch() -> None:
    done = subprocess.run([sys.executable, "-c", FORKED], cwd=PROJECT, timeout=20, check=False)
    assert done.returncode == 0
