"""Keeping a cluster alive under a test, as ``up`` does."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from app.cluster.embedded import EmbeddedCluster


@contextmanager
def tended(embedded: EmbeddedCluster) -> Iterator[None]:
    """Start again what ends, as ``up`` does."""
    stop = threading.Event()

    def tend() -> None:
        while not stop.wait(0.5):
            embedded.revive()

    thread = threading.Thread(target=tend)
    thread.start()
    yield
    stop.set()
    thread.join()
