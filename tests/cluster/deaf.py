"""The application with a fault planted in its workers: an hour-long wait in the main process, once there is a file."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

from celery.signals import worker_ready

from app.celery import app

__all__ = ["app"]


@worker_ready.connect(weak=False)
def _plant(sender: Any, **_: Any) -> None:
    ends = socket.socketpair()

    def look() -> None:
        if Path(os.environ["DEAF_WHEN"]).exists():
            ends[0].recv(1)

    sender.hub.call_repeatedly(0.1, look)
