"""The base of every task: retries for a store that is away, log context, and who holds a claim."""

from __future__ import annotations

import logging
import os
from datetime import timedelta
from typing import Any, Final

from celery import Task
from sqlalchemy.exc import DBAPIError

# A store or broker that restarts is back within a minute; backoff with jitter spreads the returning tasks.
_STORE_RETRIES: Final = 8
_LONGEST_BACKOFF: Final = 60

# How long a task that finds its part taken waits before it asks again.
BUSY_COUNTDOWN: Final = timedelta(seconds=5)

log = logging.getLogger("celery_validator.task")


class ValidatorTask(Task):  # type: ignore[misc]
    """Retries when the store is away; everything else a task must handle itself, in a few lines."""

    abstract = True
    autoretry_for = (DBAPIError, ConnectionError)
    retry_backoff = True
    retry_backoff_max = _LONGEST_BACKOFF
    retry_jitter = True
    max_retries = _STORE_RETRIES
    acks_late = True
    reject_on_worker_lost = True

    @property
    def holder(self) -> str:
        """Who claims a part: the worker's node name and this process, so that a dead one is recognised."""
        return f"{self.request.hostname or 'eager'}/{os.getpid()}"

    @property
    def task_id(self) -> str:
        """The running task's id; the same on a redelivery."""
        return str(self.request.id)

    def ask_again(self) -> Any:
        """Come back later for a part that another delivery is working on; never counts as a failure."""
        raise self.retry(countdown=BUSY_COUNTDOWN.total_seconds(), max_retries=None)

    def on_failure(self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        log.error("%s%r failed: %s: %s", self.name, tuple(args), type(exc).__name__, exc)

    def on_retry(self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        log.info("%s%r will be tried again: %s", self.name, tuple(args), exc)
