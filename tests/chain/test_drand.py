"""drand endpoints that lie, lag and fail."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from chain.drand import Drand
from chain.sources import RoundNotReached, SourceUnavailable
from chain.timelock import round_at
from chain.web import WebSession
from tests.chain import internet

SIGNATURES = {
    "1000": "b44679b9a59af2ec876b1a6b1ad52ea9b1615fc3982b19576350f93447cb1125e342b73a8dd2bacbe47e4b6b63ed5e39",
    "123": "b75c69d0b72a5d906e854e808ba7e2accb1542ac355ae486d591aa9d43765482e26cd02df835d3546d23c4b13e0dfc92",
}


class Scene:
    """Two endpoints, what the chain stored, and what was said for the report."""

    def __init__(self, first: internet.Drand, second: internet.Drand) -> None:
        self.first, self.second = first, second
        self.stored: dict[int, str] = {}
        self.warnings: list[str] = []
        self.drand = Drand(WebSession(1, 0.4, 1), [first.url, second.url], self.stored.get, self.warnings.append)


@pytest.fixture
def scene() -> Iterator[Scene]:
    with internet.Drand(SIGNATURES) as first, internet.Drand(SIGNATURES) as second:
        yield Scene(first, second)


def test_one_endpoint_is_enough(scene: Scene) -> None:
    assert scene.drand.signature(1000) == SIGNATURES["1000"]
    assert scene.second.requests == []
    assert scene.warnings == []


def test_a_lying_endpoint_is_skipped_and_named(scene: Scene) -> None:
    scene.first.signatures["1000"] = SIGNATURES["123"]
    assert scene.drand.signature(1000) == SIGNATURES["1000"]
    assert scene.first.url in scene.warnings[0]
    assert "lies about drand round 1000" in scene.warnings[0]


def test_all_lying_is_an_outage_not_a_verdict(scene: Scene) -> None:
    for endpoint in (scene.first, scene.second):
        endpoint.signatures["1000"] = "00" * 48
    with pytest.raises(SourceUnavailable, match="no signature of drand round 1000"):
        scene.drand.signature(1000)


def test_the_chain_is_the_last_resort(scene: Scene) -> None:
    for endpoint in (scene.first, scene.second):
        endpoint.faults["/"] = internet.status(500)
    with pytest.raises(SourceUnavailable, match="the chain has not stored it"):
        scene.drand.signature(1000)
    scene.stored[1000] = "00" * 48
    with pytest.raises(SourceUnavailable, match="does not verify"):
        scene.drand.signature(1000)
    scene.stored[1000] = SIGNATURES["1000"]
    assert scene.drand.signature(1000) == SIGNATURES["1000"]


@pytest.mark.parametrize("code", [404, 425])
def test_a_future_round_is_not_reached(scene: Scene, code: int) -> None:
    scene.first.faults["/"] = internet.status(code)
    with pytest.raises(RoundNotReached):
        scene.drand.signature(round_at(time.time()) + 1000)


def test_one_endpoint_behind_does_not_refuse_a_miner(scene: Scene) -> None:
    del scene.first.signatures["1000"]
    assert scene.drand.signature(1000) == SIGNATURES["1000"]


def test_not_found_beside_an_outage_is_believed_only_of_the_future(scene: Scene) -> None:
    del scene.first.signatures["1000"]
    scene.second.faults["/"] = internet.status(500)
    with pytest.raises(SourceUnavailable):
        scene.drand.signature(1000)
    with pytest.raises(RoundNotReached):
        scene.drand.signature(round_at(time.time()) + 1000)
