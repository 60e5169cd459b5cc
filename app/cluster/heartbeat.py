"""Says all the while that a long piece of work is alive; interrupts it when it is lost or its time is over."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from types import TracebackType
from typing import Self

from sqlalchemy.exc import SQLAlchemyError

from app.clock import now

log = logging.getLogger("celery_validator.heartbeat")


class Heartbeat:
    """A thread that beats while its ``with`` block runs.

    ``beat`` says that the work of this name is alive; it returns False once another has taken it over, which sets
    ``lost``. Then, and at ``deadline`` if there is one, the block is interrupted
    as Celery's soft time limit would do it (SoftTimeLimitExceeded in the main thread), once, up to :meth:`rest`.
    """

    def __init__(self, name: str, beat: Callable[[], bool], every: timedelta, deadline: datetime | None) -> None:
        self._name = name
        self._beat = beat
        self._every = every.total_seconds()
        self._deadline = deadline
        self._stop = threading.Event()
        self._may_interrupt = True
        self._interrupting = threading.Lock()
        self._thread = threading.Thread(target=self._run, name=f"heartbeat of {name}", daemon=True)
        self.lost = False

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.rest()
        self._stop.set()
        self._thread.join()

    def rest(self) -> None:
        """From now on nothing is interrupted; it still beats."""
        with self._interrupting:
            self._may_interrupt = False

    def _run(self) -> None:
        while not self._stop.wait(self._pause()):
            try:
                self.lost = not self._beat()
            except SQLAlchemyError as error:
                # a store that is unavailable for long costs the claim, not the work
                log.warning("%s cannot say that it lives: %s", self._name, error)
            if self.lost:
                log.warning("%s no longer counts: another try took over", self._name)
            if self.lost or self._is_over():
                self._interrupt()
            if self.lost:
                return

    def _pause(self) -> float:
        if self._deadline is None or self._is_over():
            return self._every
        return min(self._every, (self._deadline - now()).total_seconds())

    def _is_over(self) -> bool:
        return self._deadline is not None and now() >= self._deadline

    def _interrupt(self) -> None:
        with self._interrupting:
            # the handler is there in a worker's child alone
            if self._may_interrupt and callable(signal.getsignal(signal.SIGUSR1)):
                self._may_interrupt = False
                os.kill(os.getpid(), signal.SIGUSR1)
