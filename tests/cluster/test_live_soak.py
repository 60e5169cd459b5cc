"""Twenty compressed epochs with random faults end with twenty correct results."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from app.store.database import get_store
from app.store.epochs import Epochs
from app.store.records import Stage
from app.store.weight_submissions import WeightsState, WeightSubmissions
from tests.chain import internet
from tests.chain.world import World, scores_for_any_challenge
from tests.workers.bad_world import bad_world, report_of
from tests.workers.live_scene import delivered
from workers.epochs import open_epoch
from workers.fetching import fetch_submissions
from workers.submissions import _examiner
from workers.watch import watch_epoch
from workers.weights import submit_weights

pytestmark = pytest.mark.slow

EPOCHS = 20
MINERS = frozenset({3, 5, 8, 17, 18, 22, 23})
REFUSED = {
    8: "duplicate_names", 17: "hash_mismatch", 18: "content_not_found", 22: "round_not_reached",
    23: "decryption_failed",
}  # fmt: skip


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr("chain.web._OPEN_SECONDS", 0.5)
    scores = scores_for_any_challenge(tmp_path / "scores")
    with bad_world(
        tmp_path,
        monkeypatch,
        MINERS,
        FETCH_BUDGET="PT60S",
        WEIGHTS_PAUSE="PT0.2S",
        CHAIN_TIMEOUT="PT1S",
        REHEARSAL_SCORES=str(scores),
    ) as scene:
        yield scene


@contextmanager
def trouble(scene: World, dice: random.Random) -> Iterator[str]:
    """One to three things go wrong for a while."""

    def github_fails() -> None:
        scene.github.faults["/raw"] = internet.first(dice.randint(1, 6), internet.status(503))

    def github_limits() -> None:
        scene.github.faults["/"] = internet.first(dice.randint(1, 4), internet.status(429, Retry_After="1"))

    def github_hangs() -> None:
        scene.github.faults["/api"] = internet.first(2, internet.hang(2))

    def drand_lies() -> None:
        scene.drand[0].faults["/"] = internet.status(200)

    def drand_fails() -> None:
        scene.drand[dice.randrange(3)].faults["/"] = internet.status(500)

    def hub_fails() -> None:
        scene.hub.faults["/api/datasets"] = internet.first(dice.randint(1, 5), internet.status(502))

    def node_is_silent() -> None:
        scene.node.silent = True
        threading.Timer(dice.uniform(0.5, 2.5), lambda: setattr(scene.node, "silent", False)).start()

    def node_drops() -> None:
        threading.Timer(dice.uniform(0.1, 2), scene.node.drop_connections).start()

    def node_limits() -> None:
        scene.node.refuse_with = 429
        scene.node.drop_connections()
        threading.Timer(dice.uniform(0.5, 2), lambda: setattr(scene.node, "refuse_with", None)).start()

    def answer_is_lost() -> None:
        threading.Thread(target=_cut_after_submitting, args=(scene,), daemon=True).start()

    faults: list[Callable[[], None]] = [
        github_fails, github_limits, github_hangs, drand_lies, drand_fails, hub_fails, node_is_silent, node_drops,
        node_limits, answer_is_lost,
    ]  # fmt: skip
    chosen = dice.sample(faults, dice.randint(1, 3))
    for fault in chosen:
        fault()
    try:
        yield ", ".join(fault.__name__ for fault in chosen)
    finally:
        for host in (scene.github, scene.hub, *scene.drand):
            host.faults.clear()


def _cut_after_submitting(scene: World) -> None:
    scene.node.mine_on_submit = False
    deadline = time.monotonic() + 30
    while not scene.chain.pool and time.monotonic() < deadline:
        time.sleep(0.005)
    if scene.chain.pool:
        scene.node.drop_connections()
        scene.node.mine(2)
    scene.node.mine_on_submit = True


def _process(number: int) -> int:
    """Beats and messages until the epoch is done."""
    deadline = time.monotonic() + 120
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for task in (open_epoch, fetch_submissions, submit_weights):
            patch.setattr(task, "apply_async", lambda *_, **__: None)
        while watch_epoch.delay().get()["status"] == "chain unavailable":
            assert time.monotonic() < deadline
            time.sleep(0.2)
        with get_store().reading() as session:
            epoch_id = Epochs(session).live(68, number)
        assert epoch_id is not None
        delivered(open_epoch, epoch_id, seconds=90)
        delivered(fetch_submissions, epoch_id, seconds=90)
        # a beat and a second message in between change nothing
        watch_epoch.delay()
        delivered(submit_weights, epoch_id, seconds=90)
        delivered(submit_weights, epoch_id, seconds=90)
    return epoch_id


@pytest.mark.timeout(900)
def test_twenty_epochs_in_a_bad_world(scene: World) -> None:
    dice = random.Random(20)
    first, winners = scene.number, None
    for number in range(first, first + EPOCHS):
        scene.next_epoch(number)
        sent_before = len(scene.chain.weight_extrinsics())
        with trouble(scene, dice) as story:
            epoch_id = _process(number)
        report = report_of(epoch_id)
        codes = {entry["uid"]: entry["rejection"]["code"] for entry in report["submissions"] if entry["rejection"]}
        told = json.dumps([story, report["warnings"]])
        assert codes == REFUSED, told
        winners = winners or report["winners"]
        assert set(winners.values()) <= {3, 5}
        assert report["winners"] == winners, told
        with get_store().reading() as session:
            submission = WeightSubmissions(session).get(epoch_id)
            assert Epochs(session).summary(epoch_id).stage is Stage.DONE
        assert submission is not None
        assert submission.state is WeightsState.SET, (told, submission)
        sent = scene.chain.weight_extrinsics()[sent_before:]
        assert [extrinsic["failure"] for extrinsic in sent] == [None], told
        assert set(scene.chain.weights_of(68, scene.validator)) == {0, *winners.values()}
        scene.node.silent, scene.node.refuse_with = False, None
        _examiner.cache_clear()
    with get_store().reading() as session:
        stages = [epoch.stage for epoch in Epochs(session).recent(100)]
    assert stages == [Stage.DONE] * EPOCHS
