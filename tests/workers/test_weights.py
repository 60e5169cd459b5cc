"""Weights reach the chain once, whatever happens on the way."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from celery.exceptions import Retry

from app.epochs.scores import UNTRAINED
from app.settings import get_settings
from app.store.claims import Claims, Work
from app.store.database import get_store
from app.store.epochs import Epochs
from app.store.records import Stage
from app.store.weight_submissions import WeightsState, WeightSubmission, WeightSubmissions
from tests.chain.fake_subtensor import DispatchFailure, RpcError
from tests.chain.nodes import address
from tests.workers.live_scene import END, LENGTH, Scene, delivered, live_scene
from workers.weights import submit_weights


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    with live_scene(tmp_path, monkeypatch) as scene:
        yield scene


def submission(epoch_id: int) -> WeightSubmission:
    with get_store().reading() as session:
        found = WeightSubmissions(session).get(epoch_id)
    assert found is not None
    return found


def configure(monkeypatch: pytest.MonkeyPatch, **settings: str) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    get_settings.cache_clear()


def test_the_vector_arrives_as_a_signed_extrinsic(scene: Scene) -> None:
    epoch = scene.closed_epoch()
    delivered(submit_weights, epoch)
    assert scene.chain.weights_of(68, 7) == {0: 65535, 3: 32768, 5: 32768}
    (extrinsic,) = scene.chain.weight_extrinsics()
    assert extrinsic["signer"] == scene.hotkey
    found = submission(epoch)
    assert found.state is WeightsState.SET
    assert found.extrinsic
    assert found.tries == 1
    assert scene.stage(epoch) is Stage.DONE
    delivered(submit_weights, epoch)
    assert len(scene.chain.weight_extrinsics()) == 1


def test_committed_weights(scene: Scene) -> None:
    scene.chain.subnets[68].commit_reveal = True
    scene.chain.put_subnet(scene.chain.subnets[68])
    epoch = scene.closed_epoch()
    delivered(submit_weights, epoch)
    assert "commit" in scene.chain.weight_extrinsics()[0]["function"][1]
    assert "revealed at drand round" in (submission(epoch).detail or "")


def test_a_winner_that_moved_is_followed_by_its_hotkey(scene: Scene) -> None:
    epoch = scene.closed_epoch()
    neurons = scene.chain.subnets[68].neurons
    neurons[3].hotkey, neurons[6].hotkey = neurons[6].hotkey, neurons[3].hotkey
    scene.chain.put_subnet(scene.chain.subnets[68], block=scene.chain.head)
    delivered(submit_weights, epoch)
    assert scene.chain.weights_of(68, 7) == {0: 65535, 6: 32768, 5: 32768}


def test_a_winner_that_left_gets_nothing_and_nobody_else_does(scene: Scene) -> None:
    epoch = scene.closed_epoch()
    scene.chain.subnets[68].neurons[3].hotkey = address("//newcomer")
    scene.chain.put_subnet(scene.chain.subnets[68], block=scene.chain.head)
    delivered(submit_weights, epoch)
    assert submission(epoch).state is WeightsState.WINNER_LEFT
    assert scene.chain.weight_extrinsics() == []
    assert "winner UID 3" in scene.report_warnings(epoch)[0]
    assert scene.stage(epoch) is Stage.DONE


def test_no_winner_means_no_submission(scene: Scene) -> None:
    epoch = scene.closed_epoch(winners=(None, None))
    delivered(submit_weights, epoch)
    assert submission(epoch).state is WeightsState.NONE
    assert scene.chain.weight_extrinsics() == []


def test_a_validator_that_is_not_registered_says_so(scene: Scene) -> None:
    epoch = scene.closed_epoch()
    scene.chain.subnets[68].neurons[7].hotkey = address("//somebody")
    scene.chain.put_subnet(scene.chain.subnets[68], block=scene.chain.head)
    delivered(submit_weights, epoch)
    assert submission(epoch).state is WeightsState.NOT_REGISTERED
    assert scene.hotkey in scene.report_warnings(epoch)[0]


@pytest.mark.parametrize(
    ("name", "value", "state"),
    [("DONT_SET_WEIGHTS", "1", WeightsState.NOT_SET), ("OFFLINE", "1", WeightsState.NOT_SET)],
)
def test_flags_that_keep_weights_off_the_chain(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, name: str, value: str, state: WeightsState
) -> None:
    configure(monkeypatch, **{name: value})
    epoch = scene.closed_epoch()
    before = len(scene.node.requests)
    delivered(submit_weights, epoch)
    assert submission(epoch).state is state
    assert len(scene.node.requests) == before


def test_test_mode_writes_the_vector_to_a_file(scene: Scene, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    configure(monkeypatch, WEIGHTS_FILE=str(tmp_path / "weights.json"))
    epoch = scene.closed_epoch()
    delivered(submit_weights, epoch)
    document = json.loads((tmp_path / "weights.json").read_text())
    assert document == {"epoch": END // LENGTH - 1, "netuid": 68, "weights": {"0": 0.5, "3": 0.25, "5": 0.25}}
    assert scene.chain.weight_extrinsics() == []


def test_untrained_scores_never_reach_the_chain(scene: Scene) -> None:
    epoch = scene.closed_epoch()
    with get_store().writing() as session:
        Epochs(session).warn(epoch, UNTRAINED)
    delivered(submit_weights, epoch)
    found = submission(epoch)
    assert found.state is WeightsState.NOT_SET
    assert "untrained" in (found.detail or "")
    assert scene.chain.weight_extrinsics() == []


def test_a_passing_refusal_is_tried_again(scene: Scene) -> None:
    epoch = scene.closed_epoch()
    scene.chain.pool_errors.append(RpcError(1014, "Priority is too low"))
    scene.chain.dispatch_failures.append(DispatchFailure("SettingWeightsTooFast"))
    delivered(submit_weights, epoch)
    found = submission(epoch)
    assert found.state is WeightsState.SET
    assert found.tries == 3
    assert len(found.failures) == 2
    assert sum(extrinsic["failure"] is None for extrinsic in scene.chain.weight_extrinsics()) == 1


def test_ten_tries_and_no_more(scene: Scene) -> None:
    epoch = scene.closed_epoch()
    scene.chain.dispatch_failures.extend(DispatchFailure("NeuronNoValidatorPermit") for _ in range(12))
    delivered(submit_weights, epoch)
    found = submission(epoch)
    assert found.state is WeightsState.FAILED
    assert found.tries == 10
    assert "given up after 10 tries" in scene.report_warnings(epoch)[0]
    assert len(scene.chain.weight_extrinsics()) == 10


def test_an_answer_that_was_lost_is_read_back_from_the_chain(scene: Scene) -> None:
    epoch = scene.closed_epoch()
    scene.node.mine_on_submit = False
    thread = threading.Thread(target=_cut_once_submitted, args=(scene,))
    thread.start()
    delivered(submit_weights, epoch)
    thread.join()
    found = submission(epoch)
    assert found.state is WeightsState.SET
    assert "the chain has it" in (found.detail or "") or "found on the chain" in (found.detail or "")
    assert len(scene.chain.weight_extrinsics()) == 1


def _cut_once_submitted(scene: Scene) -> None:
    while not scene.chain.pool:
        time.sleep(0.01)
    scene.node.drop_connections()
    scene.node.mine(3)


def test_a_crash_after_sending_sends_nothing_again(scene: Scene) -> None:
    epoch = scene.closed_epoch()
    with get_store().writing() as session:
        repository = WeightSubmissions(session)
        repository.claim(epoch, "a process that died", timedelta(0))
        repository.about_to_send(epoch, {0: 0.5, 3: 0.25, 5: 0.25}, scene.chain.head, 0)
    # what the dead process had sent
    scene.chain.subnets[68].neurons[7].last_update = scene.chain.head
    scene.chain.put_subnet(scene.chain.subnets[68], block=scene.chain.head)
    _release(epoch)
    delivered(submit_weights, epoch)
    assert submission(epoch).state is WeightsState.SET
    assert scene.chain.weight_extrinsics() == []


def test_what_may_still_arrive_is_waited_for(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    configure(monkeypatch, WEIGHTS_PAUSE="PT0.05S")
    epoch = scene.closed_epoch()
    with get_store().writing() as session:
        repository = WeightSubmissions(session)
        repository.claim(epoch, "a process that died", timedelta(0))
        repository.about_to_send(epoch, {0: 0.5, 3: 0.25, 5: 0.25}, scene.chain.head, 0)
    _release(epoch)
    sent_at = scene.chain.head
    monkeypatch.setattr("workers.weights._MOST_FAILURES", 40)
    miner = threading.Thread(target=_mine_slowly, args=(scene, 18))
    miner.start()
    delivered(submit_weights, epoch)
    miner.join()
    (extrinsic,) = scene.chain.weight_extrinsics()
    assert extrinsic["block"] > sent_at + 16


def _release(epoch: int) -> None:
    """The claim of a process that died long ago."""
    from sqlalchemy import update

    from app.store.tables.epochs import WeightSubmissionRow

    with get_store().writing() as session:
        session.execute(update(WeightSubmissionRow).values(claimed_by=None))


def _mine_slowly(scene: Scene, blocks: int) -> None:
    for _ in range(blocks):
        time.sleep(0.1)
        scene.node.mine(1)


def test_another_validator_with_this_hotkey_is_found_out(scene: Scene) -> None:
    scene.chain.subnets[68].neurons[7].last_update = END + 2
    scene.chain.put_subnet(scene.chain.subnets[68], block=scene.chain.head)
    epoch = scene.closed_epoch()
    delivered(submit_weights, epoch)
    assert submission(epoch).state is WeightsState.ALREADY_SET
    assert "another one uses the same hotkey" in scene.report_warnings(epoch)[0]
    assert scene.chain.weight_extrinsics() == []


def test_weights_are_never_set_late(scene: Scene) -> None:
    epoch = scene.closed_epoch()
    scene.node.mine(LENGTH)
    delivered(submit_weights, epoch)
    assert submission(epoch).state is WeightsState.LATE
    assert scene.chain.weight_extrinsics() == []


def test_a_chain_that_comes_back_gets_its_weights(scene: Scene) -> None:
    epoch = scene.closed_epoch()
    scene.node.refuse_with = 503
    scene.node.drop_connections()

    def recover() -> None:
        while not scene.node.refused:
            time.sleep(0.001)
        scene.node.refuse_with = None

    thread = threading.Thread(target=recover)
    thread.start()
    delivered(submit_weights, epoch)
    thread.join()
    assert submission(epoch).state is WeightsState.SET
    assert len(scene.chain.weight_extrinsics()) == 1


def test_two_tasks_for_one_epoch_send_once(scene: Scene) -> None:
    epoch = scene.closed_epoch()
    with get_store().writing() as session:
        Claims(session).take(Work(submit_weights.name, (epoch,)), "the other", "chain@here/1", timedelta(minutes=5))
    with pytest.raises(Retry):
        submit_weights.apply((epoch,), retries=0).get()
    assert scene.chain.weight_extrinsics() == []
