"""The application with faults planted: a wait without end in a worker's main process, a task that will not end."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

from celery.signals import worker_ready

from app.celery import app

__all__ = ["app"]


@app.task(name="tests.cluster.deaf.stubborn")
def stubborn() -> None:
    """Take two minutes, whatever is asked."""
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    Path(os.environ["DEAF_WHEN"]).with_suffix(".running").touch()
    end = time.monotonic() + 120
    while time.monotonic() < end:
        time.sleep(0.1)


@worker_ready.connect(weak=False)
def _plant(sender: Any, **_: Any) -> None:
    ends = socket.socketpair()

    def look() -> None:
        if Path(os.environ["DEAF_WHEN"]).exists():
            ends[0].recv(1)

    sender.hub.call_repeatedly(0.1, look)
