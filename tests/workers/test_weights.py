"""Weights reach the chain once, whatever happens on the way."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from celery.exceptions import Retry

from app.epochs.scores import UNTRAINED
from app.settings import get_settings
from app.store.claims import Claims, Work
from app.store.database import get_store
from app.store.epochs import Epochs
from app.store.records import Stage
from app.store.weight_submissions import WeightsState, WeightSubmission, WeightSubmissions
from app.task import transaction
from app.weights import ReadVerdict, last_verdict
from chain.timelock import round_time
from tests.chain.fake_subtensor import DispatchFailure, RpcError
from tests.chain.nodes import address, remembered_commits
from tests.workers.live_scene import END, LENGTH, Scene, delivered, live_scene
from workers.reports import end_failed
from workers.weights import follow_weights, read_weight_parameters, submit_weights


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


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ("payout: {enabled: true, override_uid: 4}", {4: 65535}),
        ("payout: {enabled: false, override_uid: 4}", None),
        ("payout: {enabled: true, override_uid: 40}", None),
        ("competition: {burn_rate: 0.5}", None),
    ],
)
def test_an_epoch_that_failed_sets_what_its_rules_set_all_the_same(
    scene: Scene, rules: str, expected: dict[int, int] | None
) -> None:
    epoch = scene.planned_epoch(rules=rules)
    with transaction() as step:
        end_failed(step, epoch, "no weights of a model")
    if expected is None:
        assert scene.chain.weight_extrinsics() == []
    else:
        assert scene.chain.weights_of(68, 7) == expected
        assert submission(epoch).state is WeightsState.SET
    assert scene.stage(epoch) is Stage.FAILED


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
    shares = {"0": 0.5, "3": 0.25, "5": 0.25}
    assert document == {"netuid": 68, "epoch": END // LENGTH - 1, "mark": None, "weights": shares}
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
    scene.chain.dispatch_failures.extend(DispatchFailure("TooManyUnrevealedCommits") for _ in range(12))
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
    assert "but the chain shows these weights" in (found.detail or "")
    assert len(scene.chain.weight_extrinsics()) == 1


def _cut_once_submitted(scene: Scene) -> None:
    while not scene.chain.pool:
        time.sleep(0.01)
    scene.node.drop_connections()
    scene.node.mine(3)


def test_what_may_still_arrive_is_waited_for(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process died between writing down what it would send and sending it."""
    configure(monkeypatch, WEIGHTS_PAUSE="PT0.05S")
    epoch = scene.closed_epoch()
    sent_at = scene.chain.head
    with get_store().writing() as session:
        begun = WeightSubmissions(session).begin(68, epoch_id=epoch)
        WeightSubmissions(session).about_to_send(
            begun.id, {0: 1.0}, {0: 65535}, block=sent_at, last_update=0, reveal_round=None
        )
    miner = threading.Thread(target=_mine_slowly, args=(scene, 18))
    miner.start()
    delivered(submit_weights, epoch)
    miner.join()
    (extrinsic,) = scene.chain.weight_extrinsics()
    assert extrinsic["block"] > sent_at + 16
    assert scene.chain.weights_of(68, 7) == {0: 65535, 3: 32768, 5: 32768}


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
    assert "another validator uses the same hotkey" in scene.report_warnings(epoch)[0]
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


def change(scene: Scene, **changes: object) -> None:
    """The subnet's parameters from now on."""
    for name, value in changes.items():
        setattr(scene.chain.subnets[68], name, value)
    scene.chain.put_subnet(scene.chain.subnets[68], block=scene.chain.head)


def at_time(monkeypatch: pytest.MonkeyPatch, instant: datetime) -> None:
    monkeypatch.setattr("app.weights.now", lambda: instant)


# -- refusals that waiting does not cure ------------------------------------------------------------------------------


def without_permit(scene: Scene) -> None:
    scene.chain.subnets[68].neurons[7].validator_permit = False
    change(scene)


@pytest.mark.parametrize(
    ("spoil", "repair", "sentence"),
    [
        (lambda s: change(s, min_allowed_weights=5), lambda s: change(s, min_allowed_weights=1), "no fewer than 5"),
        (without_permit, lambda s: change(s, owner_hotkey=s.hotkey), "no validator permit"),
        (lambda s: s.chain.ask_stake(1e6), lambda s: s.chain.ask_stake(10), "is below the 1000000.00"),
        (lambda s: change(s, commit_reveal=True, commit_reveal_version=7), lambda s: change(s, commit_reveal=False),
         "commits of version 7"),
    ],
    ids=["length", "permit", "stake", "commit version"],
)  # fmt: skip
def test_a_final_refusal_ends_at_once_and_is_tried_again_once_its_cause_is_gone(
    scene: Scene, spoil: Any, repair: Any, sentence: str
) -> None:
    spoil(scene)
    epoch = scene.closed_epoch()
    delivered(submit_weights, epoch)
    refused = submission(epoch)
    assert (refused.state, refused.tries) == (WeightsState.REFUSED, 0)
    assert sentence in (refused.detail or "")
    assert sentence in scene.report_warnings(epoch)[0]
    assert scene.stage(epoch) is Stage.DONE
    assert scene.chain.extrinsics == []
    # nothing changed: nothing is sent, however often somebody looks
    with pytest.raises(Retry):
        follow_weights.apply((refused.id,)).get()
    assert submission(epoch).state is WeightsState.REFUSED
    repair(scene)
    delivered(follow_weights, refused.id)
    assert submission(epoch).state is WeightsState.SET
    assert len(scene.chain.weight_extrinsics()) == 1


def test_a_key_that_rises_after_it_was_read_is_read_again(scene: Scene) -> None:
    epoch = scene.closed_epoch()
    scene.chain.dispatch_failures.append(DispatchFailure("IncorrectWeightVersionKey"))
    delivered(submit_weights, epoch)
    refused = submission(epoch)
    assert (refused.state, refused.tries) == (WeightsState.REFUSED, 1)
    assert "newer version key" in (refused.detail or "")
    scene.node.mine(100)
    change(scene, weights_version_key=12)
    delivered(follow_weights, refused.id)
    assert submission(epoch).state is WeightsState.SET
    assert scene.chain.weight_extrinsics()[-1]["arguments"]["version_key"] == 12


def test_a_refused_epoch_is_left_alone_once_the_next_one_closes(scene: Scene) -> None:
    change(scene, min_allowed_weights=5)
    epoch = scene.closed_epoch()
    delivered(submit_weights, epoch)
    scene.node.mine(LENGTH)
    change(scene, min_allowed_weights=1)
    assert delivered(follow_weights, submission(epoch).id)["status"] == "refused"
    assert submission(epoch).state is WeightsState.REFUSED
    assert scene.chain.extrinsics == []


def test_a_hotkey_that_registers_in_time_gets_its_weights(scene: Scene) -> None:
    epoch = scene.closed_epoch()
    scene.chain.subnets[68].neurons[7].hotkey = address("//somebody")
    change(scene)
    delivered(submit_weights, epoch)
    assert submission(epoch).state is WeightsState.NOT_REGISTERED
    scene.chain.subnets[68].neurons[8].hotkey = scene.hotkey
    scene.chain.subnets[68].neurons[8].validator_permit = True
    change(scene)
    delivered(follow_weights, submission(epoch).id)
    assert submission(epoch).state is WeightsState.SET
    assert scene.chain.weights_of(68, 8) == {0: 65535, 3: 32768, 5: 32768}


# -- refusals that pass, and answers that mean "perhaps ours" ---------------------------------------------------------


@pytest.mark.parametrize("code", [1012, 1013])
def test_a_pool_that_perhaps_has_ours_is_not_another_validator(scene: Scene, code: int) -> None:
    epoch = scene.closed_epoch()
    scene.chain.pool_errors_after.append(RpcError(code, "Transaction Already Imported"))
    delivered(submit_weights, epoch)
    found = submission(epoch)
    assert (found.state, found.tries) == (WeightsState.SET, 1)
    assert "another validator" not in (found.detail or "")
    assert len(scene.chain.weight_extrinsics()) == 1


def test_the_rate_limit_is_waited_for_and_is_no_try(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.chain.subnets[68].neurons[7].last_update = END - 90
    change(scene)
    monkeypatch.setattr("app.weights.BLOCK", timedelta(seconds=0.02))
    epoch = scene.closed_epoch()
    miner = threading.Thread(target=_mine_slowly, args=(scene, 8))
    miner.start()
    delivered(submit_weights, epoch)
    miner.join()
    found = submission(epoch)
    assert (found.state, found.tries, found.failures) == (WeightsState.SET, 1, ())
    assert scene.chain.weight_extrinsics()[0]["block"] >= END - 90 + 100


def test_nothing_is_thrown_for_a_runtime_that_the_sdk_does_not_know(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """StorageFunctionNotFound is no error of the SDK's own kind."""
    from bittensor.intents import weights as intent

    def missing(*_: object) -> None:
        raise ValueError("Storage function 'SubtensorModule.SubnetEpochConsensus' not found")

    epoch = scene.closed_epoch()
    monkeypatch.setattr(intent, "_preflight", missing)
    delivered(submit_weights, epoch)
    found = submission(epoch)
    assert found.state is WeightsState.REFUSED
    assert "SubnetEpochConsensus" in (found.detail or "")


# -- commit and reveal ------------------------------------------------------------------------------------------------


@pytest.fixture
def committing(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> Scene:
    remembered_commits(scene.chain, monkeypatch)
    change(scene, commit_reveal=True)
    return scene


def test_committed_is_not_revealed(committing: Scene) -> None:
    epoch = committing.closed_epoch()
    delivered(submit_weights, epoch)
    found = submission(epoch)
    assert found.state is WeightsState.INCLUDED
    assert found.reveal_round
    assert "revealed at drand round" in (found.detail or "")
    assert committing.stage(epoch) is Stage.DONE
    with pytest.raises(Retry):
        follow_weights.apply((found.id,)).get()
    assert submission(epoch).state is WeightsState.INCLUDED
    committing.node.mine(6)
    assert committing.chain.weights_of(68, 7) == found.sent
    delivered(follow_weights, found.id)
    assert submission(epoch).state is WeightsState.REVEALED
    assert len(committing.chain.weight_extrinsics()) == 1


def test_a_reveal_that_did_not_happen_is_told_with_what_stands_against_it(
    committing: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    epoch = committing.closed_epoch()
    delivered(submit_weights, epoch)
    found = submission(epoch)
    without_permit(committing)
    committing.node.mine(6)
    assert committing.chain.failed_reveals == ["NeuronNoValidatorPermit"]
    due = datetime.fromtimestamp(round_time(found.reveal_round or 0), UTC)
    at_time(monkeypatch, due + timedelta(minutes=1))
    with pytest.raises(Retry):
        follow_weights.apply((found.id,)).get()
    assert submission(epoch).state is WeightsState.INCLUDED
    at_time(monkeypatch, due + timedelta(minutes=6))
    with pytest.raises(Retry):
        follow_weights.apply((found.id,)).get()
    missed = submission(epoch)
    assert missed.state is WeightsState.UNREVEALED
    assert "no validator permit" in (missed.detail or "")
    # the oracle of the chain may have been late: the search goes on for a while, and ends
    at_time(monkeypatch, due + timedelta(hours=2))
    assert delivered(follow_weights, found.id)["status"] == "unrevealed"
    assert submission(epoch).state is WeightsState.UNREVEALED


def test_a_late_reveal_is_still_found(committing: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    epoch = committing.closed_epoch()
    delivered(submit_weights, epoch)
    found = submission(epoch)
    due = datetime.fromtimestamp(round_time(found.reveal_round or 0), UTC)
    at_time(monkeypatch, due + timedelta(minutes=10))
    with pytest.raises(Retry):
        follow_weights.apply((found.id,)).get()
    assert submission(epoch).state is WeightsState.UNREVEALED
    committing.node.mine(6)
    delivered(follow_weights, found.id)
    assert submission(epoch).state is WeightsState.REVEALED


# -- what the operator sees -------------------------------------------------------------------------------------------


def test_the_verdict_is_kept_for_the_pages(scene: Scene) -> None:
    def kept() -> ReadVerdict | None:
        with get_store().reading() as session:
            return last_verdict(session, 68)

    assert kept() is None
    assert read_weight_parameters.apply().get()["status"] == "accepted"
    found = kept()
    assert found is not None
    assert found.verdict.accepted
    assert found.verdict.parameters.hotkey == scene.hotkey
    without_permit(scene)
    assert "no validator permit" in read_weight_parameters.apply().get()["verdict"]
    found = kept()
    assert found is not None
    assert not found.verdict.accepted


def test_a_chain_that_does_not_answer_gives_no_verdict(scene: Scene) -> None:
    scene.node.refuse_with = 503
    assert read_weight_parameters.apply().get()["status"] == "unknown"
