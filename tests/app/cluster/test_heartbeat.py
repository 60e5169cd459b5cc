"""A running evaluation says that it lives, and is ended when it no longer counts or its time is over."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from billiard.exceptions import SoftTimeLimitExceeded
from billiard.pool import soft_timeout_sighandler
from sqlalchemy.exc import OperationalError

from app.clock import now
from app.cluster.heartbeat import Heartbeat

OFTEN = timedelta(milliseconds=20)


class Work:
    """Something that is alive until another has taken it over."""

    def __init__(self) -> None:
        self.beats = 0
        self.overtaken = False

    def beat(self) -> bool:
        self.beats += 1
        return not self.overtaken


@pytest.fixture
def work() -> Work:
    return Work()


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


def test_it_beats_while_the_block_runs_and_no_longer(work: Work) -> None:
    with Heartbeat("one", work.beat, OFTEN, None) as heart:
        until(lambda: work.beats >= 3)
    beats = work.beats
    time.sleep(0.1)
    assert work.beats == beats
    assert not heart.lost


def test_a_store_that_is_unavailable_costs_nothing(work: Work, interruptible: None) -> None:
    def beat() -> bool:
        if work.beat() and work.beats < 3:
            raise OperationalError("UPDATE", {}, Exception("the server closed the connection"))
        return True

    with Heartbeat("one", beat, OFTEN, None) as heart:
        until(lambda: work.beats >= 4)
    assert not heart.lost


def test_a_try_that_was_overtaken_is_interrupted(work: Work, interruptible: None) -> None:
    with pytest.raises(SoftTimeLimitExceeded), Heartbeat("one", work.beat, OFTEN, None) as heart:
        work.overtaken = True
        until(lambda: False)
    assert heart.lost


@pytest.mark.parametrize("every", [OFTEN, timedelta(seconds=30)])
def test_the_deadline_interrupts_once_however_rarely_it_beats(
    work: Work, interruptible: None, every: timedelta
) -> None:
    interrupted = 0
    began = time.monotonic()
    with Heartbeat("one", work.beat, every, now() + timedelta(seconds=0.3)) as heart:
        try:
            until(lambda: False)
        except SoftTimeLimitExceeded:
            interrupted += 1
            assert 0.2 < time.monotonic() - began < 10
            time.sleep(0.3)
    assert interrupted == 1
    assert not heart.lost


def test_once_at_rest_nothing_is_interrupted(work: Work, interruptible: None) -> None:
    with Heartbeat("one", work.beat, OFTEN, now() + timedelta(seconds=0.1)) as heart:
        heart.rest()
        work.overtaken = True
        until(lambda: heart.lost)
        time.sleep(0.2)


def test_outside_a_worker_there_is_nobody_to_interrupt(work: Work) -> None:
    with Heartbeat("one", work.beat, OFTEN, now()) as heart:
        work.overtaken = True
        until(lambda: heart.lost)
