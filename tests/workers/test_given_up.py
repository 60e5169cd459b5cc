"""Nothing is tried for ever: a piece of work whose attempts end in exceptions is given up, with a sentence."""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, NoReturn

import pytest
from sqlalchemy import select
from sqlalchemy.exc import DataError, OperationalError

from app.celery import app
from app.demo import RECORDING
from app.epochs.recording import Recording
from app.store.claims import Claims, Work
from app.store.database import Store
from app.store.deliveries import Deliveries, Destination
from app.store.epochs import Epochs
from app.store.records import Stage
from app.store.tables.work import WorkRow
from app.store.weight_submissions import WeightsState, WeightSubmissions
from app.task import MOST_FAILURES, ValidatorTask
from workers.epochs import close_epoch, fail_epoch, open_epoch, plan_scoring
from workers.fetching import fetch_submissions
from workers.reports import deliver_report
from workers.weights import submit_round, submit_weights

# the stores differ in their SQL alone, which the tests without this mark run on both
on_sqlite = pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    app.loader.import_default_modules()
    monkeypatch.setattr("app.task._BUSY_COUNTDOWN", timedelta(0))
    app.conf.update(task_always_eager=True, task_eager_propagates=True)
    yield
    app.conf.update(task_always_eager=False, task_eager_propagates=False)


def failing(monkeypatch: pytest.MonkeyPatch, task: ValidatorTask, error: BaseException) -> None:
    def run(*_: Any) -> NoReturn:
        raise error

    # what binds the arguments still sees the task's own
    run.__signature__ = inspect.signature(task.run)  # type: ignore[attr-defined]
    monkeypatch.setattr(task, "run", run)


def written(store: Store, task: ValidatorTask, *args: Any, of_epoch: bool = True) -> int:
    """A piece of a recorded epoch, or of none, in the store and in no message."""
    with store.writing() as session:
        epoch_id = Recording(RECORDING).announce(session, "recorded", "c")
        Claims(session).drop_epoch(epoch_id)
        Claims(session).add(
            [Work(task.name, (epoch_id, *args) if of_epoch else args, epoch_id if of_epoch else None)], "c"
        )
    return epoch_id


def attempt(task: ValidatorTask, *args: Any, error: type[BaseException]) -> None:
    for _ in range(MOST_FAILURES - 1):
        with pytest.raises(error):
            task(*args)


def pieces(store: Store) -> list[str]:
    with store.reading() as session:
        return list(session.execute(select(WorkRow.task)).scalars())


@on_sqlite
@pytest.mark.parametrize(
    "task", [open_epoch, fetch_submissions, plan_scoring, close_epoch, submit_weights], ids=lambda task: task.name
)
def test_an_epochs_piece_that_keeps_failing_ends_the_epoch_with_the_sentence(
    store: Store, monkeypatch: pytest.MonkeyPatch, task: ValidatorTask, caplog: pytest.LogCaptureFixture
) -> None:
    epoch_id = written(store, task)
    failing(monkeypatch, task, RuntimeError("\x1b[31mfield larger than field limit" + "x" * 10_000))
    attempt(task, epoch_id, error=RuntimeError)
    with store.reading() as session:
        assert Epochs(session).summary(epoch_id).stage is not Stage.FAILED
    with caplog.at_level(logging.ERROR):
        assert task(epoch_id) == {"status": "failed"}
    with store.reading() as session:
        summary = Epochs(session).summary(epoch_id)
    assert summary.stage is Stage.FAILED
    name = task.name.rpartition(".")[2]
    assert re.match(rf"{name} failed 5 times: RuntimeError: ⟨U\+001B⟩\[31mfield larger", summary.error or "")
    assert len(summary.error or "") < 500
    assert any(record.exc_info for record in caplog.records)
    assert pieces(store) == []


@on_sqlite
def test_ending_a_failed_epoch_may_fail_too(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    epoch_id = written(store, fail_epoch, "it cannot go on")
    failing(monkeypatch, fail_epoch, KeyError("rules"))
    attempt(fail_epoch, epoch_id, "it cannot go on", error=KeyError)
    fail_epoch(epoch_id, "it cannot go on")
    with store.reading() as session:
        summary = Epochs(session).summary(epoch_id)
    assert summary.stage is Stage.FAILED
    assert "fail_epoch failed 5 times: KeyError: 'rules'" in (summary.error or "")
    assert pieces(store) == []


@on_sqlite
def test_a_report_that_cannot_be_made_leaves_its_epoch_alone(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    epoch_id = written(store, deliver_report, Destination.RESULTS.value)
    with store.writing() as session:
        Deliveries(session).announce(epoch_id, Destination.RESULTS)
    failing(monkeypatch, deliver_report, RecursionError("it is nested too deeply"))
    attempt(deliver_report, epoch_id, "results", error=RecursionError)
    deliver_report(epoch_id, "results")
    with store.reading() as session:
        assert Epochs(session).summary(epoch_id).stage is not Stage.FAILED
        state, detail = Deliveries(session).state(epoch_id, Destination.RESULTS) or ("", "")
    assert (state, detail) == (
        "failed",
        "deliver_report failed 5 times: RecursionError: it is nested too deeply; the log has the traceback",
    )


@on_sqlite
def test_a_round_that_cannot_be_computed_is_given_up(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = "2026-11-22T01:20"
    written(store, submit_round, mark, of_epoch=False)
    failing(monkeypatch, submit_round, OSError(21, "Is a directory", "/weights"))
    attempt(submit_round, mark, error=OSError)
    submit_round(mark)
    with store.writing() as session:
        submission = WeightSubmissions(session).begin(21, mark=mark)
    assert submission.state is WeightsState.FAILED
    assert "/weights" in (submission.detail or "")
    assert pieces(store) == []


def failures(store: Store) -> int:
    with store.reading() as session:
        return session.execute(select(WorkRow.failures)).scalar_one()


@on_sqlite
@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), OSError(24, "Too many open files"), MemoryError()]
)
def test_what_the_machine_lacks_for_a_while_is_waited_for(
    store: Store, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    epoch_id = written(store, fetch_submissions)
    failing(monkeypatch, fetch_submissions, error)
    for _ in range(2 * MOST_FAILURES):
        with pytest.raises(type(error)):
            fetch_submissions(epoch_id)
    assert failures(store) == 0
    assert pieces(store) == [fetch_submissions.name]


def test_what_the_store_refuses_counts_and_an_outage_does_not(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    epoch_id = written(store, plan_scoring)
    failing(monkeypatch, plan_scoring, OperationalError("", {}, Exception("server closed the connection")))
    for _ in range(2 * MOST_FAILURES):
        with pytest.raises(OperationalError):
            plan_scoring.apply((epoch_id,), task_id="one", retries=ValidatorTask.max_retries)
    assert failures(store) == 0
    failing(monkeypatch, plan_scoring, DataError("", {}, Exception("out of range")))
    for _ in range(MOST_FAILURES - 1):
        with pytest.raises(DataError):
            plan_scoring.apply((epoch_id,), task_id="one", retries=ValidatorTask.max_retries)
    assert plan_scoring.apply((epoch_id,), task_id="one").get() == {"status": "failed"}
    with store.reading() as session:
        assert "out of range" in (Epochs(session).summary(epoch_id).error or "")
