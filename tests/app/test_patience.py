"""What a task waits for may take longer than Celery's few retries; a store that is unavailable has those alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from celery import Celery
from celery.exceptions import MaxRetriesExceededError, Retry

from app.celery import app
from app.task import ValidatorTask, transaction


@pytest.fixture
def task() -> Iterator[ValidatorTask]:
    celery = Celery(broker="memory://", set_as_current=False)

    # not shared: a shared one is registered in every application of the process, once for each test
    @celery.task(base=ValidatorTask, bind=True, name="tests.patient", shared=False)
    def patient(self: ValidatorTask, kind: str) -> None:
        if kind == "busy":
            self.retry(countdown=5, max_retries=None)
        if kind == "few":
            self.retry(countdown=1)
        raise ConnectionError("the store is unavailable")

    yield patient
    celery.close()


def outcome(task: ValidatorTask, kind: str, retries: int) -> None:
    task.push_request(
        id="one", args=(kind,), kwargs={}, retries=retries, called_directly=False, is_eager=False, hostname="h"
    )
    try:
        task._run((kind,), {})
    finally:
        task.pop_request()


def test_what_is_asked_again_is_asked_without_end(task: ValidatorTask) -> None:
    for retries in (0, 9, 5000):
        with pytest.raises(Retry):
            outcome(task, "busy", retries)


def test_everything_else_has_a_few_retries_whatever_came_before(task: ValidatorTask) -> None:
    with pytest.raises(Retry):
        outcome(task, "busy", 100)
    with pytest.raises(Retry):
        outcome(task, "unavailable", 7)
    with pytest.raises(ConnectionError):
        outcome(task, "unavailable", 8)
    with pytest.raises(MaxRetriesExceededError):
        outcome(task, "few", 8)


def test_what_is_sent_outside_a_task_goes_to_this_application() -> None:
    """Celery's current application is whichever was made last in the process."""
    other = Celery("other", broker="memory://")
    try:
        with transaction() as step:
            assert step._app is app
    finally:
        app.set_current()
        other.close()
