"""Ends a worker or beat whose main loop no longer advances, so that its supervisor starts a new one.

It is :func:`faulthandler.dump_traceback_later`: a thread of the interpreter's own, outside Python, that writes every
thread's stack to stderr and ends the process. It needs neither the main loop nor the interpreter's lock. A worker's
children end with it, as Celery asks the kernel.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import time
from typing import Any, Final

from celery.apps.worker import Worker as CeleryWorker
from celery.bootsteps import RUN, StartStopStep
from celery.concurrency.prefork import TaskPool
from celery.signals import worker_shutting_down
from celery.worker.consumer.tasks import Tasks

# How long (s) a worker's loop may stand still: it turns every second, and a busy machine must not end it.
TURNING: Final = 15.0

# The longest (s) that one attempt to connect may take, and the longest pause before the next (30 s).
CONNECTING: Final = 60.0

# How long (s) a cold shutdown may take, which ends the children's tasks and waits for the children; and the end of a
# worker that never was connected.
COLD: Final = 10.0

# How long (s) to wait before a lost connection is made again.
_PAUSE: Final = 1.0

# How often (s) the thread is started again at most.
_EVERY: Final = 1.0


class _Watch:
    """This process's watch: off until its worker has connected, or its beat ticks."""

    on = False
    fed_at = float("-inf")
    limit = 0.0
    ending = False
    """Whether the process has been told to end: nothing lengthens its time any more"""


def start(limit: float = CONNECTING) -> None:
    """Watch this process from now on, or feed the watch that runs."""
    _Watch.on = True
    feed(limit)


def _forget() -> None:
    # the thread stays with the worker: a child that fed its watch would wait for it for ever
    _Watch.on = False


os.register_at_fork(after_in_child=_forget)


def feed(limit: float) -> None:
    """Allow ``limit`` seconds until the process must say again that it advances; nothing where it is not watched."""
    now = time.monotonic()
    if _Watch.on and not _Watch.ending and (now - _Watch.fed_at >= _EVERY or limit != _Watch.limit):
        _Watch.fed_at, _Watch.limit = now, limit
        faulthandler.dump_traceback_later(limit, exit=True, file=sys.__stderr__ or 2)


def end(limit: float) -> None:
    """Allow ``limit`` seconds for the end of this process, whatever it still tries meanwhile."""
    start(limit)
    _Watch.ending = True


def stop() -> None:
    """Watch no longer: what follows, such as waiting for running tasks, may take its time."""
    _Watch.on = False
    faulthandler.cancel_dump_traceback_later()


class Worker(CeleryWorker):  # type: ignore[misc]
    """A worker whose cold shutdown (SIGQUIT, a second Ctrl-C) has a time limit; a warm one waits for its tasks."""

    connected = False
    """Whether it ever was; before, it has no task to finish"""

    def on_start(self) -> None:
        """Called where the worker starts."""
        super().on_start()
        worker_shutting_down.connect(self._told_to_end, weak=False)

    def on_consumer_ready(self, consumer: Any) -> None:
        """Called where the consumer takes tasks."""
        super().on_consumer_ready(consumer)
        self.connected = True

    def _told_to_end(self, **_: Any) -> None:
        # some of Celery's ways to connect go on trying for as long as the broker is gone, whatever they are told
        if not self.connected:
            end(COLD)

    def wait_for_soft_shutdown(self) -> None:
        """Called where a cold shutdown begins."""
        super().wait_for_soft_shutdown()
        end(COLD)


class Watchdog(StartStopStep):  # type: ignore[misc]
    """Watches the event loop of a prefork worker. Other pools run tasks in the loop itself, which may take long."""

    requires = (Tasks,)

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        self.enabled = bool(consumer.hub) and isinstance(consumer.pool, TaskPool)

    def start(self, consumer: Any) -> None:
        """Watch from here: the consumer has connected."""
        start()
        consumer.hub.on_tick.add(_turned)

    def stop(self, consumer: Any) -> None:
        """Be patient while the consumer connects again; stop where the worker ends."""
        if consumer.blueprint.state == RUN:
            feed(CONNECTING)
            # Celery connects again at once, also to a Redis that refuses at once
            time.sleep(_PAUSE)
        else:
            self.shutdown(consumer)

    def shutdown(self, consumer: Any) -> None:
        """Stop, unless the limit of a cold shutdown runs: the worker ends."""
        if not _Watch.ending:
            stop()


def _turned() -> None:
    feed(TURNING)
