"""Keeping a cluster alive under a test, as ``up`` does."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from celery import Celery

from app.cluster.embedded import EmbeddedCluster
from app.settings import Settings


@contextmanager
def kept_alive(embedded: EmbeddedCluster) -> Iterator[None]:
    """Start again what ends, as ``up`` does."""
    stop = threading.Event()

    def revive() -> None:
        while not stop.wait(0.5):
            embedded.revive()

    thread = threading.Thread(target=revive)
    thread.start()
    yield
    stop.set()
    thread.join()


def client_of(broker_url: str, cluster: str) -> Celery:
    """A client that sends tasks to a cluster's workers, as its beat does."""
    client = Celery(broker=broker_url, set_as_current=False)
    prefix = Settings(_env_file=None, cluster_name=cluster).key_prefix
    client.conf.broker_transport_options = {"global_keyprefix": prefix}
    return client
