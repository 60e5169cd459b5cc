"""What the embedded cluster does about a child that cannot live, such as an API whose port is taken."""

from __future__ import annotations

import socket
import sys

import pytest

import app.cluster.embedded
from app.cluster.embedded import EmbeddedCluster, port_taken
from app.settings import get_settings


class Clock:
    """Time as the test tells it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(app.cluster.embedded, "time", clock)
    return clock


def restarts(cluster: EmbeddedCluster, clock: Clock, seconds: int) -> list[float]:
    """When the child, which ends at once, is started again."""
    found = []
    for _ in range(seconds):
        cluster._children[-1].process.wait()
        clock.now += 1
        if cluster.revive():
            found.append(clock.now)
    return found


def test_a_child_that_never_lives_long_is_started_ever_more_rarely(clock: Clock) -> None:
    cluster = EmbeddedCluster(get_settings(), flower=False, name="test")
    cluster.logs.mkdir(parents=True)
    cluster._launch("api", [sys.executable, "-I", "-S", "-c", ""])
    pauses = [2, 4, 8, 16, 30, 30]
    starts = restarts(cluster, clock, sum(pauses))
    assert starts == [1000 + sum(pauses[: n + 1]) for n in range(len(pauses))]
    # one that has lived is started at once, and again as patiently as a new one
    cluster._children[-1].process.wait()
    clock.now += 500
    cluster._children[-1].ended = clock.now
    assert cluster.revive() == ["api"]
    again = clock.now
    assert restarts(cluster, clock, 6) == [again + 2, again + 6]
    cluster._children[-1].process.wait()


def test_one_that_is_killed_again_and_again_is_started_at_once(clock: Clock) -> None:
    cluster = EmbeddedCluster(get_settings(), flower=False, name="test")
    cluster.logs.mkdir(parents=True)
    cluster._launch("api", [sys.executable, "-I", "-S", "-c", "import time; time.sleep(60)"])
    for _ in range(4):
        clock.now += 20
        cluster._children[-1].process.kill()
        cluster._children[-1].process.wait()
        assert cluster.revive() == ["api"]
        assert cluster._children[-1].started == clock.now
    cluster._children[-1].process.kill()
    cluster._children[-1].process.wait()


def test_a_port_that_somebody_has_is_taken() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        assert port_taken("127.0.0.1", port)
    assert not port_taken("127.0.0.1", port)
