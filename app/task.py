"""The base of every task: retries for a store that is away, its lines in the log, its metrics, its name in Flower."""

from __future__ import annotations

import logging
import math
import os
from datetime import timedelta
from typing import Any, Final

from celery import Task
from celery.exceptions import Ignore, Reject, Retry
from sqlalchemy.exc import DBAPIError

from app.observability.logs import logged_with
from app.observability.metrics import TaskOutcome, TaskRun, task_run
from app.observability.task_arguments import STAGES, short_name, subject, written

# A store or broker that restarts is back within a minute; backoff with jitter spreads the returning tasks.
_STORE_RETRIES: Final = 8
_LONGEST_BACKOFF: Final = 60

# How long a task that finds its part taken waits before it asks again.
BUSY_COUNTDOWN: Final = timedelta(seconds=5)

# The clock's own tasks, mostly idle: their beginning and end are worth a line only to those who look for it.
_TICKS: Final = frozenset(
    {"watch_epoch", "reconcile", "score_next_models", "follow_scoring", "release_stale", "move_evaluations"}
)

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

    def retry(self, *args: Any, **options: Any) -> Any:
        """Celery's, but ``max_retries=None`` means without end; to Celery it means the task's own, which are few."""
        if "max_retries" in options and options["max_retries"] is None:
            options["max_retries"] = math.inf
        try:
            return super().retry(*args, **options)
        finally:
            # Celery would keep it for the retries of a store that is away
            self.__dict__.pop("override_max_retries", None)

    def ask_again(self) -> Any:
        """Come back later for a part that another delivery is working on; never counts as a failure."""
        raise self.retry(countdown=BUSY_COUNTDOWN.total_seconds(), max_retries=None)

    def apply_async(self, args: Any = None, kwargs: Any = None, *rest: Any, **options: Any) -> Any:
        """Send the task; Flower shows ``epoch=21455 uid=17`` and ``stage=examining`` for its arguments."""
        fields = subject(self.run, args or (), kwargs or {})
        options.setdefault("argsrepr", written(fields))
        options.setdefault("kwargsrepr", " ".join(f"{name}={value}" for name, value in self._place(fields).items()))
        return super().apply_async(args, kwargs, *rest, **options)

    def _place(self, fields: dict[str, object]) -> dict[str, object]:
        stage = STAGES.get(short_name(self.name))
        found = {"stage": stage, "epoch_id": fields.get("epoch_id")}
        return {name: value for name, value in found.items() if value is not None}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the task, measured, with a line at its beginning and its end; every line between carries its subject."""
        if self.request.called_directly:
            return super().__call__(*args, **kwargs)
        name = short_name(self.name)
        fields = {"task": name, **subject(self.run, args, kwargs), "task_id": self.request.id}
        with logged_with(fields, whole_process=True), task_run(name) as run:
            log.log(self._level, "started")
            try:
                result = self.run(*args, **kwargs)
            except Retry as retry:
                run.outcome = TaskOutcome.RETRIED
                level = logging.WARNING if retry.exc else self._level
                log.log(level, "put off after %.1f s: %s", run.seconds, _put_off(retry))
                raise
            except (Ignore, Reject):
                run.outcome = TaskOutcome.SUCCEEDED
                raise
            except BaseException as error:
                log.error("failed after %.1f s: %s: %s", run.seconds, type(error).__name__, error, exc_info=True)
                raise
            run.outcome = TaskOutcome.SUCCEEDED
            self._log_end(run, result)
            return result

    @property
    def _level(self) -> int:
        return logging.DEBUG if short_name(self.name) in _TICKS else logging.INFO

    def _log_end(self, run: TaskRun, result: Any) -> None:
        status = result.get("status") if isinstance(result, dict) else None
        log.log(self._level, "finished in %.1f s%s", run.seconds, f": {status}" if status else "")


def _put_off(retry: Retry) -> str:
    when = f"{retry.when:.0f} s" if isinstance(retry.when, int | float) else str(retry.when)
    cause = f": {type(retry.exc).__name__}: {retry.exc}" if retry.exc else ""
    return f"tried again in {when}{cause}"
