"""The weights of subnet 21's rounds: never twice for a mark, whatever dies; tried again until the mark is over."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from celery.exceptions import Retry

import app.weights
import workers.weights
from app.clock import now
from app.competitions.standings import mark_of
from app.settings import get_settings
from app.store.claims import Claims, Work
from app.store.database import Store, get_store
from app.store.reputations import WeightRound, WeightRounds
from app.store.weight_submissions import WeightsState, WeightSubmission, WeightSubmissions
from app.weights import Submitter
from chain.subtensor import Subtensor
from tests.chain.fake_subtensor import DispatchFailure, FakeChain, FakeNode, RpcError
from tests.chain.nodes import KeyedWallet, remembered_commits, subnet
from tests.sweep import swept
from tests.workers.killed import killed_at
from tests.workers.live_scene import delivered, eager_validator
from workers.upkeep import reconcile
from workers.weights import follow_weights, submit_round

NETUID = 21
CLUSTER = "tests"
VALIDATOR = KeyedWallet("//hotkey0")
SENT = {3: 65535, 5: 21845}

on_sqlite = pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)


@dataclass
class Scene:
    """Subnet 21 on a node of its own; the validator is UID 0."""

    chain: FakeChain
    node: FakeNode

    def round(self, mark: str, shares: dict[int, float] | None = None) -> str:
        """A computed round, written down as work."""
        weights = shares or {3: 0.75, 5: 0.25}
        hotkeys = [neuron.hotkey for neuron in self.chain.neurons_at(NETUID, self.chain.head)]
        by_hotkey = {hotkeys[uid]: share for uid, share in weights.items()}
        with get_store().writing() as session:
            WeightRounds(session).keep(WeightRound(mark, weights, by_hotkey, {}, [], []))
            Claims(session).add([Work(submit_round.name, (mark,))], CLUSTER)
        return mark

    def change(self, **changes: object) -> None:
        """The subnet's parameters from now on."""
        for name, value in changes.items():
            setattr(self.chain.subnets[NETUID], name, value)
        self.chain.put_subnet(self.chain.subnets[NETUID], block=self.chain.head)

    def sent(self) -> list[dict[str, Any]]:
        """What the chain took, without what failed in its block."""
        return [one for one in self.chain.weight_extrinsics() if one["failure"] is None]


def submission(mark: str) -> WeightSubmission:
    with get_store().reading() as session:
        found = WeightSubmissions(session).at(mark)
    assert found is not None
    return found


@pytest.fixture
def scene(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    chain = FakeChain()
    chain.put_subnet(subnet(netuid=NETUID))
    with swept(), FakeNode(chain) as node:
        for name, value in {
            "NETUID": str(NETUID),
            "CLUSTER_NAME": CLUSTER,
            "DATA_DIR": str(tmp_path / "data"),
            "SUBTENSOR_NETWORK": node.url,
            "SUBTENSOR_FALLBACKS": "",
            "SUBTENSOR_ARCHIVES": "",
            "CHAIN_TIMEOUT": "PT5S",
            "WEIGHTS_PAUSE": "PT0.01S",
            "BITTENSOR_RUNTIME_CACHE_DIR": os.environ.get("BITTENSOR_RUNTIME_CACHE_DIR", str(tmp_path / "runtime")),
        }.items():
            monkeypatch.setenv(name, value)
        get_settings.cache_clear()
        monkeypatch.setattr(workers.weights, "load_wallet", lambda *_: VALIDATOR)
        with eager_validator():
            yield Scene(chain, node)


# -- once for a mark --------------------------------------------------------------------------------------------------


def test_a_round_is_shown_by_the_chain_before_it_counts_as_set(scene: Scene) -> None:
    mark = scene.round(mark_of(now()))
    assert delivered(submit_round, mark)["status"] == "set"
    assert scene.chain.weights_of(NETUID, 0) == SENT
    found = submission(mark)
    assert (found.state, found.tries) == (WeightsState.SET, 1)
    assert found.vector == {3: 0.75, 5: 0.25}
    # beat asks a second time
    scene.round(mark)
    assert delivered(submit_round, mark)["status"] == "set"
    assert len(scene.chain.weight_extrinsics()) == 1


POINTS = {
    "when the round is read": (workers.weights, "keep_round", "before"),
    "before the chain is asked": (Submitter, "advance", "before"),
    "after the parameters were read": (Subtensor, "weights_parameters", "after"),
    "before it is signed": (Subtensor, "prepare_weights", "before"),
    "after it was signed": (Subtensor, "prepare_weights", "after"),
    "while it is written down": (WeightSubmissions, "about_to_send", "after"),
    "before it is sent": (Subtensor, "send_weights", "before"),
    "after it was included": (Subtensor, "send_weights", "after"),
    "after it was read back": (Subtensor, "weights_on_chain", "after"),
    "while the outcome is written": (WeightSubmissions, "settle", "after"),
    "after all was done": (workers.weights, "_tell", "before"),
}


@pytest.mark.parametrize("point", POINTS)
def test_a_round_whose_worker_is_killed_is_sent_once_all_the_same(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    mark = scene.round(mark_of(now()))
    killed_at(*POINTS[point], lambda: submit_round.apply((mark,), task_id="the killed one").get())
    # what was sent can no longer arrive after this, if it did not
    scene.node.mine(20)
    monkeypatch.setattr("workers.upkeep.living_processes", lambda: {"chain@elsewhere/1": now()})
    reconcile.apply().get()
    found = submission(mark)
    assert found.state is WeightsState.SET, found
    assert len(scene.sent()) == 1
    assert scene.chain.weights_of(NETUID, 0) == SENT
    with get_store().reading() as session:
        assert Claims(session).holders(CLUSTER) == set()


@on_sqlite
def test_a_kill_while_the_pool_has_it_sends_nothing_again(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = scene.round(mark_of(now()))
    scene.node.mine_on_submit = False
    child = os.fork()
    if child == 0:
        try:
            get_store().engine.dispose(close=False)
            submit_round.apply((mark,), task_id="the killed one").get()
        finally:
            os._exit(3)
    while not scene.chain.pool:
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert submission(mark).state is WeightsState.SENT
    monkeypatch.setattr("workers.upkeep.living_processes", lambda: {"chain@elsewhere/1": now()})
    # it may still arrive: nothing is sent
    with pytest.raises(Retry):
        reconcile.apply().get()
    scene.node.mine(2)
    assert delivered(submit_round, mark)["status"] == "set"
    assert len(scene.chain.weight_extrinsics()) == 1


# -- within the mark --------------------------------------------------------------------------------------------------


@on_sqlite
def test_a_call_that_fails_is_tried_again(scene: Scene) -> None:
    mark = scene.round(mark_of(now()))
    scene.chain.pool_errors.append(RpcError(1016, "Immediately Dropped"))
    scene.chain.dispatch_failures.append(DispatchFailure("SettingWeightsTooFast"))
    assert delivered(submit_round, mark)["status"] == "set"
    found = submission(mark)
    assert (found.tries, len(found.failures), len(scene.sent())) == (3, 2, 1)


@on_sqlite
def test_a_chain_that_is_unavailable_is_asked_until_the_mark_is_over(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = scene.round("2026-11-22T01:20")
    scene.node.refuse_with = 503
    monkeypatch.setattr(app.weights, "now", lambda: datetime(2026, 11, 22, 1, 30, tzinfo=UTC))
    with pytest.raises(Retry):
        submit_round.apply((mark,)).get()
    assert submission(mark).state is WeightsState.COMPUTED
    monkeypatch.setattr(app.weights, "now", lambda: datetime(2026, 11, 22, 1, 40, tzinfo=UTC))
    assert delivered(submit_round, mark)["status"] == "failed"
    assert "did not answer in time" in (submission(mark).detail or "")


@on_sqlite
def test_a_lost_answer_is_read_back(scene: Scene) -> None:
    mark = scene.round(mark_of(now()))
    scene.node.mine_on_submit = False

    def cut() -> None:
        while not scene.chain.pool:
            time.sleep(0.01)
        scene.node.drop_connections()
        scene.node.mine(3)

    thread = threading.Thread(target=cut)
    thread.start()
    assert delivered(submit_round, mark)["status"] == "set"
    thread.join()
    assert "the answer was lost" in (submission(mark).detail or "")
    assert len(scene.chain.weight_extrinsics()) == 1


@on_sqlite
def test_a_round_at_99_blocks_waits_for_the_hundredth(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mark is 100 blocks, and so is the rate limit."""
    monkeypatch.setattr(app.weights, "BLOCK", timedelta(seconds=0.02))
    first = scene.round("a first one")
    delivered(submit_round, first)
    set_at = scene.sent()[0]["block"]
    scene.node.mine(set_at + 99 - scene.chain.head)
    second = scene.round("a second one", {3: 0.5, 5: 0.5})
    with pytest.raises(Retry):
        submit_round.apply((second,), task_id="a message").get()
    assert (submission(second).state, submission(second).tries) == (WeightsState.COMPUTED, 0)
    scene.node.mine(1)
    assert delivered(submit_round, second)["status"] == "set"
    assert [one["block"] for one in scene.sent()] == [set_at, set_at + 101]
    assert submission(second).failures == ()


@on_sqlite
def test_a_round_whose_mark_is_over_is_not_sent(scene: Scene) -> None:
    mark = scene.round(mark_of(now() - timedelta(minutes=20)))
    assert delivered(submit_round, mark)["status"] == "late"
    assert scene.chain.extrinsics == []


@on_sqlite
def test_a_hotkey_that_moved_keeps_its_share(scene: Scene) -> None:
    mark = scene.round(mark_of(now()))
    neurons = scene.chain.subnets[NETUID].neurons
    neurons[3].hotkey, neurons[6].hotkey = neurons[6].hotkey, neurons[3].hotkey
    scene.change()
    delivered(submit_round, mark)
    assert scene.chain.weights_of(NETUID, 0) == {5: 21845, 6: 65535}


# -- commits ----------------------------------------------------------------------------------------------------------


@on_sqlite
def test_rounds_that_are_revealed_together_show_the_last_one(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    remembered_commits(scene.chain, monkeypatch)
    scene.change(commit_reveal=True, weights_rate_limit=1, reveal_after=10)
    first = scene.round("a first one")
    second = scene.round("a second one", {3: 0.5, 5: 0.5})
    for mark in (first, second):
        delivered(submit_round, mark)
        assert submission(mark).state is WeightsState.INCLUDED
    scene.node.mine(20)
    for mark in (first, second):
        delivered(follow_weights, submission(mark).id)
    assert submission(first).state is WeightsState.SUPERSEDED
    assert submission(second).state is WeightsState.REVEALED
