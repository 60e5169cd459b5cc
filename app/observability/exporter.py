"""Serving metrics of workers, whose children write them to files, of beat and of the API (docs/metrics.md, 'Ports')."""

from __future__ import annotations

import logging
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import suppress
from enum import IntEnum
from pathlib import Path
from typing import Final
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Metric, ProcessCollector, start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from app.observability.metrics import own_metrics
from app.observability.places import forget_ended, keep_in
from app.settings import Settings

# How often a taken port is tried again (s).
_LOOK_EVERY: Final = 15.0

log = logging.getLogger("celery_validator.metrics")


class PortOffset(IntEnum):
    """Where each process serves its metrics: ``METRICS_PORT`` plus this."""

    CHAIN = 0
    CPU = 1
    GPU = 2
    BEAT = 3
    MIXED = 4
    API = 5
    SCORING_API = 6


class ProcessFiles(Collector):
    """The metrics of all processes that write into one folder, living and ended."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def begin(self) -> None:
        """Empty the folder: a worker that starts counts from zero, as every process does."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True, mode=0o700)

    def collect(self) -> Iterator[Metric]:
        """Sums over all processes."""
        forget_ended(self.folder)
        yield from MultiProcessCollector(None, str(self.folder)).collect()


class DataDisk(Collector):
    """Room on the disk of DATA_DIR, where store, downloads and logs lie."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.expanduser().resolve()

    def collect(self) -> Iterator[Metric]:
        """Nothing where the folder is not there yet."""
        with suppress(OSError):
            usage = shutil.disk_usage(self._folder)
            yield GaugeMetricFamily("validator_data_free_bytes", "Free bytes on the disk of DATA_DIR.", usage.free)
            yield GaugeMetricFamily("validator_data_size_bytes", "Size in bytes of the disk of DATA_DIR.", usage.total)


class Exporter:
    """Serves a registry on one port for as long as its process lives; a taken port is waited for, never a fault."""

    def __init__(self, registry: CollectorRegistry, host: str, port: int) -> None:
        self._registry = registry
        self._host = host
        self._port = port
        self._ended = threading.Event()
        self._server: WSGIServer | None = None
        self._thread = threading.Thread(target=self._run, name="exporter", daemon=True)

    def start(self) -> None:
        """Bind at once where the port is free, or say that it is not."""
        if not self._bind():
            log.warning(
                "port %d is taken, so the metrics of this process are not served; another worker of the same queue? "
                "Give this one a METRICS_PORT of its own (0: none); the port is tried again every %.0f s",
                self._port,
                _LOOK_EVERY,
            )
        self._thread.start()

    def stop(self) -> None:
        """Stop serving."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def _bind(self) -> bool:
        try:
            self._server, _ = start_http_server(self._port, self._host, self._registry)
        except OSError as error:
            log.debug("metrics port %d: %s", self._port, error)
            return False
        log.info("metrics at http://%s:%d/metrics", self._host, self._port)
        return True

    def _run(self) -> None:
        while not self._ended.wait(_LOOK_EVERY):
            if self._server is None:
                self._bind()


def processes_write_to(folder: Path) -> ProcessFiles:
    """Empty a folder, and let the processes that this one starts from now on keep their metrics in it."""
    files = ProcessFiles(folder)
    files.begin()
    keep_in(folder)
    return files


def worker_exporter(settings: Settings, node: str, queues: set[str]) -> Exporter | None:
    """The exporter of a worker, which shows its children's metrics; None where METRICS_PORT is 0.

    To be called before the worker's children start.
    """
    if not settings.metrics_port:
        return None
    files = processes_write_to(process_folder(settings, node))
    registry = CollectorRegistry()
    registry.register(files)
    registry.register(DataDisk(settings.data_dir))
    return Exporter(registry, settings.metrics_host, worker_port(settings, queues))


def single_exporter(settings: Settings, offset: PortOffset) -> Exporter | None:
    """The exporter of what has one process (beat, a scoring API); None where METRICS_PORT is 0."""
    if not settings.metrics_port:
        return None
    registry = CollectorRegistry()
    registry.register(own_metrics())
    registry.register(DataDisk(settings.data_dir))
    ProcessCollector(registry=registry)
    return Exporter(registry, settings.metrics_host, settings.metrics_port + offset)


def worker_port(settings: Settings, queues: set[str]) -> int:
    """The port of a worker that serves these queues."""
    offset = PortOffset[next(iter(queues)).upper()] if len(queues) == 1 else PortOffset.MIXED
    return settings.metrics_port + offset


def process_folder(settings: Settings, name: str) -> Path:
    """Where the processes of one worker, or of the API, keep their metrics."""
    safe = re.sub(r"[^A-Za-z0-9@._-]", "_", name)
    return settings.data_dir.expanduser().resolve() / "metrics" / safe
