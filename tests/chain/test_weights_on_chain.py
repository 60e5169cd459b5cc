"""Setting weights through the real SDK on a node that checks them as the pallet does."""

from __future__ import annotations

import threading
import time

import pytest

from chain.subtensor import PreparedWeights, Subtensor
from chain.weights import SubmissionState, WeightsOutcome, in_chain_units, same_vector, verdict
from tests.chain.conftest import HEAD
from tests.chain.fake_subtensor import DispatchFailure, FakeChain, FakeNode, RpcError
from tests.chain.nodes import KeyedWallet, address, remembered_commits, subnet

pytestmark = pytest.mark.usefixtures("own_cache")
VALIDATOR = KeyedWallet("//hotkey0")
VECTOR = {0: 0.5, 3: 0.25, 5: 0.25}
SENT = {0: 65535, 3: 32768, 5: 32768}


def change(chain: FakeChain, **changes: object) -> None:
    """The subnet's parameters from now on."""
    for name, value in changes.items():
        setattr(chain.subnets[68], name, value)
    chain.put_subnet(chain.subnets[68], block=chain.head)


# -- parameters -------------------------------------------------------------------------------------------------------


def test_every_parameter_is_read_at_one_block(chain: FakeChain, subtensor: Subtensor) -> None:
    chain.ask_stake(900)
    change(
        chain,
        weights_version_key=7,
        min_allowed_weights=2,
        max_weights_limit=40_000,
        weights_rate_limit=90,
        commit_reveal=True,
        mechanisms=2,
        owner_hotkey=address("//hotkey4"),
    )
    found, neurons = subtensor.weights_parameters(68, VALIDATOR.address)
    assert (found.block, found.uid, found.permit, found.stake) == (HEAD, 0, True, 1000.0)
    assert (found.version_key, found.min_allowed, found.max_limit, found.rate_limit) == (7, 2, 40_000, 90)
    assert (found.commit_reveal, found.commit_reveal_version, found.mechanisms) == (True, 4, 2)
    assert (found.stake_threshold, found.owns_subnet, found.last_update) == (900.0, False, 0)
    assert [neuron.uid for neuron in neurons] == list(range(8))
    assert verdict(found).accepted
    assert verdict(found).sentence == "weights will be accepted"
    assert subtensor.weights_parameters(68, address("//hotkey4"))[0].owns_subnet


def test_the_verdict_names_what_stands_against_it(chain: FakeChain, subtensor: Subtensor) -> None:
    chain.ask_stake(5000)
    change(chain, commit_reveal=True, commit_reveal_version=9)
    found = verdict(subtensor.weights_parameters(68, address("//hotkey5"))[0])
    assert not found.accepted
    assert "no validator permit" in found.sentence
    assert "1005.00 is below the 5000.00" in found.sentence
    assert "commits of version 9" in found.sentence
    nobody = verdict(subtensor.weights_parameters(68, address("//nobody"))[0])
    assert "is not registered on subnet 68" in nobody.sentence
    change(chain, owner_hotkey=address("//hotkey5"), commit_reveal_version=4)
    assert verdict(subtensor.weights_parameters(68, address("//hotkey5"))[0]).accepted


def test_what_a_runtime_does_not_tell_is_unknown_and_not_healthy() -> None:
    older = FakeChain(HEAD, without=("StakeThreshold", "WeightsVersionKey", "MechanismCountCurrent"))
    older.put_subnet(subnet())
    with FakeNode(older) as node:
        subtensor = Subtensor(node.url, (), (), timeout=5)
        found = subtensor.weights_parameters(68, VALIDATOR.address)[0]
        assert (found.stake_threshold, found.version_key, found.mechanisms) == (None, None, None)
        assert not verdict(found).accepted
        assert "does not tell the stake threshold, the version key" in verdict(found).sentence
        # what is not asked for is not needed
        assert subtensor.set_weights(68, VECTOR, VALIDATOR).state is SubmissionState.INCLUDED
        subtensor.close()


def test_a_runtime_without_what_the_sdk_reads_is_a_refusal_that_says_so() -> None:
    older = FakeChain(HEAD, without=("SubnetEpochConsensus",))
    older.put_subnet(subnet())
    with FakeNode(older) as node:
        subtensor = Subtensor(node.url, (), (), timeout=5)
        outcome = subtensor.set_weights(68, VECTOR, VALIDATOR)
        assert outcome.state is SubmissionState.REFUSED
        assert "StorageFunctionNotFound" in outcome.message
        assert "SubnetEpochConsensus" in outcome.message
        subtensor.close()


def test_the_rate_limit_names_its_block(chain: FakeChain, subtensor: Subtensor) -> None:
    assert subtensor.set_weights(68, VECTOR, VALIDATOR).state is SubmissionState.INCLUDED
    set_at = chain.extrinsics[-1]["block"]
    found = subtensor.weights_parameters(68, VALIDATOR.address)[0]
    assert found.due_block == set_at + 100
    assert verdict(found).accepted
    assert f"from block {set_at + 100} on" in verdict(found).sentence


def test_another_holder_of_the_uid_is_named(chain: FakeChain, subtensor: Subtensor) -> None:
    assert subtensor.set_weights(68, VECTOR, VALIDATOR).state is SubmissionState.INCLUDED
    shown = subtensor.weights_on_chain(68, 0)
    assert (shown.hotkey, shown.weights, shown.last_update) == (VALIDATOR.address, SENT, chain.extrinsics[-1]["block"])
    chain.subnets[68].neurons[0].hotkey = address("//newcomer")
    change(chain)
    assert subtensor.weights_on_chain(68, 0).hotkey == address("//newcomer")


# -- sending ----------------------------------------------------------------------------------------------------------


def test_the_subnets_version_key_is_sent(chain: FakeChain, subtensor: Subtensor) -> None:
    change(chain, weights_version_key=3)
    assert subtensor.set_weights(68, VECTOR, VALIDATOR).state is SubmissionState.INCLUDED
    assert chain.extrinsics[-1]["arguments"]["version_key"] == 3
    assert subtensor.weights_on_chain(68, 0).weights == SENT


def test_the_version_key_is_sealed_into_a_commit(
    chain: FakeChain, node: FakeNode, subtensor: Subtensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    remembered_commits(chain, monkeypatch)
    change(chain, weights_version_key=3, commit_reveal=True)
    outcome = subtensor.set_weights(68, VECTOR, VALIDATOR)
    assert outcome.state is SubmissionState.INCLUDED
    assert outcome.reveal_round
    assert subtensor.weights_on_chain(68, 0).weights == {}
    node.mine(5)
    assert chain.failed_reveals == []
    assert subtensor.weights_on_chain(68, 0).weights == SENT


@pytest.mark.parametrize(
    ("changes", "failure"),
    [
        ({"weights_version_key": 8}, "IncorrectWeightVersionKey"),
        ({"min_allowed_weights": 4}, "WeightVecLengthIsLow"),
        ({"max_weights_limit": 20_000}, "MaxWeightExceeded"),
        ({"permit": False}, "NeuronNoValidatorPermit"),
        ({"stake": 1e6}, "NotEnoughStakeToSetWeights"),
        ({"gone": True}, "HotKeyNotRegisteredInSubNet"),
    ],
)
def test_what_changed_since_the_commit_is_seen_only_at_the_reveal(
    chain: FakeChain,
    node: FakeNode,
    subtensor: Subtensor,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, object],
    failure: str,
) -> None:
    remembered_commits(chain, monkeypatch)
    change(chain, commit_reveal=True)
    assert subtensor.set_weights(68, VECTOR, VALIDATOR).state is SubmissionState.INCLUDED
    if "permit" in changes:
        chain.subnets[68].neurons[0].validator_permit = False
    elif "gone" in changes:
        chain.subnets[68].neurons[0].hotkey = address("//newcomer")
    elif "stake" in changes:
        chain.ask_stake(1e6)
    else:
        change(chain, **changes)
    node.mine(5)
    assert chain.failed_reveals == [failure]
    assert subtensor.weights_on_chain(68, 0).weights == {}


def test_a_vector_is_cut_to_the_subnets_largest_share(chain: FakeChain, subtensor: Subtensor) -> None:
    change(chain, max_weights_limit=26_214)
    found = subtensor.weights_parameters(68, VALIDATOR.address)[0]
    expected = in_chain_units(VECTOR, found)
    assert max(expected.values()) / sum(expected.values()) == pytest.approx(0.4, abs=1e-3)
    assert verdict(found, expected).accepted
    assert subtensor.set_weights(68, VECTOR, VALIDATOR).state is SubmissionState.INCLUDED
    assert same_vector(subtensor.weights_on_chain(68, 0).weights, expected)


# -- refusals ---------------------------------------------------------------------------------------------------------

FINAL, WAIT, PASSES = SubmissionState.REFUSED, SubmissionState.RATE_LIMITED, SubmissionState.BUSY


@pytest.mark.parametrize(
    ("name", "state"),
    [
        ("IncorrectWeightVersionKey", FINAL),
        ("WeightVecLengthIsLow", FINAL),
        ("MaxWeightExceeded", FINAL),
        ("NeuronNoValidatorPermit", FINAL),
        ("NotEnoughStakeToSetWeights", FINAL),
        ("HotKeyNotRegisteredInSubNet", SubmissionState.NOT_REGISTERED),
        ("SettingWeightsTooFast", WAIT),
        ("CommittingWeightsTooFast", WAIT),
        ("CommitRevealEnabled", PASSES),
        ("UidVecContainInvalidOne", PASSES),
        ("TooManyUnrevealedCommits", PASSES),
    ],
)
def test_a_refusal_in_a_block_is_told_by_its_name(
    chain: FakeChain, subtensor: Subtensor, name: str, state: SubmissionState
) -> None:
    chain.dispatch_failures.append(DispatchFailure(name))
    outcome = subtensor.set_weights(68, VECTOR, VALIDATOR)
    assert outcome.state is state, outcome
    assert outcome.extrinsic
    assert outcome.message


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (RpcError(1010, "Invalid Transaction", "Custom error: 6"), WAIT),
        (RpcError(1010, "Invalid Transaction", "Custom error: 1"), FINAL),
        (RpcError(1010, "Invalid Transaction", "Custom error: 19"), SubmissionState.NOT_REGISTERED),
        (RpcError(1010, "Invalid Transaction", "Transaction is outdated"), PASSES),
        (RpcError(1010, "Invalid Transaction", "Transaction has a bad signature"), PASSES),
        (RpcError(1010, "Invalid Transaction", "Inability to pay some fees (e.g. account balance too low)"), FINAL),
        (RpcError(1011, "Unknown Transaction Validity", "a custom reason"), PASSES),
        (RpcError(1012, "Transaction is temporarily banned"), SubmissionState.UNKNOWN),
        (RpcError(1013, "Transaction Already Imported", "0x00"), SubmissionState.UNKNOWN),
        (RpcError(1014, "Priority is too low: (7 vs 7)"), PASSES),
        (RpcError(1015, "Cycle Detected"), PASSES),
        (RpcError(1016, "Immediately Dropped"), PASSES),
        (RpcError(1013, "another sentence altogether"), SubmissionState.UNKNOWN),
        (RpcError(-32000, "Client error: not enough balance for a rate limit"), PASSES),
    ],
)
def test_a_refusal_of_the_pool_is_told_by_its_code(
    chain: FakeChain, subtensor: Subtensor, error: RpcError, state: SubmissionState
) -> None:
    chain.pool_errors.append(error)
    outcome = subtensor.set_weights(68, VECTOR, VALIDATOR)
    assert outcome.state is state, outcome
    assert chain.weight_extrinsics() == []


def test_the_nodes_own_pool_refuses_what_it_knows(chain: FakeChain, node: FakeNode, subtensor: Subtensor) -> None:
    found = subtensor.weights_parameters(68, VALIDATOR.address)[0]
    prepared = subtensor.prepare_weights(found, VECTOR, VALIDATOR)
    assert isinstance(prepared, PreparedWeights)
    assert prepared.vector == SENT
    assert subtensor.send_weights(prepared, VALIDATOR).state is SubmissionState.INCLUDED
    again = subtensor.send_weights(prepared, VALIDATOR)
    assert (again.state, "1013" in again.message or "Already" in again.message) == (SubmissionState.UNKNOWN, True)
    chain.banned.add("0x" + chain.extrinsics[-1]["hash"].removeprefix("0x"))
    assert "banned" in subtensor.send_weights(prepared, VALIDATOR).message
    node.mine(100)
    chain.pool_limit = 0
    outcome = subtensor.set_weights(68, VECTOR, VALIDATOR)
    assert (outcome.state, "code 1016" in outcome.message) == (SubmissionState.BUSY, True)
    assert len(chain.weight_extrinsics()) == 1


def test_the_sdks_own_look_refuses_in_our_words(chain: FakeChain, subtensor: Subtensor) -> None:
    change(chain, min_allowed_weights=8)
    outcome = subtensor.set_weights(68, VECTOR, VALIDATOR)
    assert outcome.state is SubmissionState.REFUSED
    assert "at least 8" in outcome.message
    for unusable in ({}, {0: -1.0}, {0: float("nan")}, {0: 0.0}, {0: float("inf")}, {-1: 1.0}, {70_000: 1.0}):
        assert subtensor.set_weights(68, unusable, VALIDATOR).state is SubmissionState.REFUSED, unusable
    assert chain.weight_extrinsics() == []


# -- the node ---------------------------------------------------------------------------------------------------------


def test_a_fork_of_a_few_blocks_does_not_lose_the_weights(
    chain: FakeChain, node: FakeNode, subtensor: Subtensor
) -> None:
    chain.finality_lag = 4
    node.mine_on_submit = False
    outcomes: list[WeightsOutcome] = []
    thread = threading.Thread(target=lambda: outcomes.append(subtensor.set_weights(68, VECTOR, VALIDATOR)))
    thread.start()
    while not chain.pool:
        time.sleep(0.01)
    node.mine(2)
    first = chain.extrinsics[-1]["block"]
    node.fork(2)
    node.mine(6)
    thread.join()
    # the watch ended with the block that was taken back; the extrinsic is in another now
    assert outcomes[0].state in {SubmissionState.UNKNOWN, SubmissionState.INCLUDED}
    assert subtensor.weights_on_chain(68, 0).weights == SENT
    (extrinsic,) = chain.weight_extrinsics()
    assert extrinsic["block"] >= first
    assert subtensor.weights_on_chain(68, 0).last_update == extrinsic["block"]


def test_a_fork_can_drop_the_weights(chain: FakeChain, node: FakeNode, subtensor: Subtensor) -> None:
    assert subtensor.set_weights(68, VECTOR, VALIDATOR).state is SubmissionState.INCLUDED
    node.fork(3, to_pool=False)
    assert subtensor.weights_on_chain(68, 0).weights == {}
    assert subtensor.weights_on_chain(68, 0).last_update == 0
    assert subtensor.set_weights(68, VECTOR, VALIDATOR).state is SubmissionState.INCLUDED


def test_a_lite_node_is_enough_to_set_weights_and_read_them_back() -> None:
    lite = FakeChain(HEAD, keeps=256)
    lite.put_subnet(subnet())
    with FakeNode(lite) as node:
        subtensor = Subtensor(node.url, (), (), timeout=5)
        assert subtensor.set_weights(68, VECTOR, VALIDATOR).state is SubmissionState.INCLUDED
        node.mine(300)
        assert subtensor.weights_on_chain(68, 0).weights == SENT
        assert subtensor.set_weights(68, {0: 1.0}, VALIDATOR).state is SubmissionState.INCLUDED
        subtensor.close()
