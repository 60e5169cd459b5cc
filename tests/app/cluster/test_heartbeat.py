"""A running evaluation says that it lives, and is ended when it no longer counts or its time is over."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from billiard.exceptions import SoftTimeLimitExceeded
from billiard.pool import soft_timeout_sighandler
from sqlalchemy import update

from app.clock import now
from app.cluster.heartbeat import Heartbeat
from app.store.database import Store
from app.store.evaluations import EvaluationInputs, Evaluations, EvaluationTry
from app.store.tables.evaluations import EvaluationRow

pytestmark = pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)

OFTEN = timedelta(milliseconds=20)


@pytest.fixture
def of(store: Store) -> EvaluationTry:
    with store.writing() as session:
        Evaluations(session).accept(EvaluationInputs("maker/model2", "voicebench", "5Miner", 102), ("0",), "one")
        Evaluations(session).claim("one", "gpu@a/1", "0", timedelta(seconds=60))
    return EvaluationTry("one", 1)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """As in a worker's child."""
    before = signal.signal(signal.SIGUSR1, soft_timeout_sighandler)
    yield
    signal.signal(signal.SIGUSR1, before)


def until(happens: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not happens():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def overtake(store: Store) -> None:
    with store.writing() as session:
        session.execute(update(EvaluationRow).values(tries=2))


def test_it_beats_while_the_block_runs_and_no_longer(store: Store, of: EvaluationTry) -> None:
    def beat_after(instant: object) -> bool:
        with store.reading() as session:
            record = Evaluations(session).get("one")
        assert record is not None
        assert record.heartbeat_at is not None
        return record.heartbeat_at > instant  # type: ignore[operator]

    with Heartbeat(store, of, OFTEN, None) as heart:
        for _ in range(3):
            instant = now()
            until(lambda instant=instant: beat_after(instant))
    ended = now()
    time.sleep(0.1)
    assert not beat_after(ended)
    assert not heart.lost


def test_a_try_that_was_overtaken_is_interrupted(store: Store, of: EvaluationTry, interruptible: None) -> None:
    with pytest.raises(SoftTimeLimitExceeded), Heartbeat(store, of, OFTEN, None) as heart:
        overtake(store)
        until(lambda: False)
    assert heart.lost


@pytest.mark.parametrize("every", [OFTEN, timedelta(seconds=30)])
def test_the_deadline_interrupts_once_however_rarely_it_beats(
    store: Store, of: EvaluationTry, interruptible: None, every: timedelta
) -> None:
    interrupted = 0
    began = time.monotonic()
    with Heartbeat(store, of, every, now() + timedelta(seconds=0.3)) as heart:
        try:
            until(lambda: False)
        except SoftTimeLimitExceeded:
            interrupted += 1
            assert 0.2 < time.monotonic() - began < 10
            time.sleep(0.3)
    assert interrupted == 1
    assert not heart.lost


def test_once_at_rest_nothing_is_interrupted(store: Store, of: EvaluationTry, interruptible: None) -> None:
    with Heartbeat(store, of, OFTEN, now() + timedelta(seconds=0.1)) as heart:
        heart.rest()
        overtake(store)
        until(lambda: heart.lost)
        time.sleep(0.2)


def test_outside_a_worker_there_is_nobody_to_interrupt(store: Store, of: EvaluationTry) -> None:
    with Heartbeat(store, of, OFTEN, now()) as heart:
        overtake(store)
        until(lambda: heart.lost)
