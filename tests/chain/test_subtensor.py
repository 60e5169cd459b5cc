"""The chain adapter against a node on a real websocket, through the real SDK."""

from __future__ import annotations

import os
import signal
import threading
import time

import bittensor_core
import pytest
from bittensor import settings

from app.domain import ValidatorError
from chain.subtensor import ChainUnavailable, Subtensor, WalletError, is_address, load_wallet, signed_by_hotkey
from chain.weights import SubmissionState
from tests.chain.conftest import HEAD
from tests.chain.fake_subtensor import DispatchFailure, FakeChain, FakeNode, FakeSubnet
from tests.chain.nodes import KeyedWallet, address, subnet
from tests.chain.world import commit_through_sdk

pytestmark = pytest.mark.usefixtures("own_cache")
SIGNATURE_1000 = "b44679b9a59af2ec876b1a6b1ad52ea9b1615fc3982b19576350f93447cb1125e342b73a8dd2bacbe47e4b6b63ed5e39"


def test_blocks_and_tempo(chain: FakeChain, subtensor: Subtensor) -> None:
    assert subtensor.current_block() == HEAD
    assert subtensor.finalized_block() == HEAD - 1
    assert subtensor.block_hash(6_000_000) == chain.hash(6_000_000)
    assert subtensor.tempo(68, HEAD) == 360
    assert abs(subtensor.block_time(HEAD) - time.time()) < 60


def test_a_block_of_the_future_is_not_there(subtensor: Subtensor) -> None:
    with pytest.raises(ChainUnavailable, match="block 6000200"):
        subtensor.block_hash(HEAD + 100)


def test_the_metagraph_is_pinned_to_its_block(chain: FakeChain, subtensor: Subtensor) -> None:
    changed = subnet()
    changed.neurons[4].hotkey = address("//newcomer")
    chain.put_subnet(changed, block=HEAD - 5)
    before, after = subtensor.metagraph(68, HEAD - 6), subtensor.metagraph(68, HEAD)
    assert before[0].uid == 0
    assert before[0].hotkey == address("//hotkey0")
    assert before[3].stake == 1003.0
    assert [neuron.validator_permit for neuron in before[:4]] == [True, True, True, False]
    assert before[4].hotkey == address("//hotkey4")
    assert after[4].hotkey == address("//newcomer")


def test_a_subnet_that_is_not_there(subtensor: Subtensor) -> None:
    with pytest.raises(ValidatorError, match="no subnet 77"):
        subtensor.metagraph(77, HEAD)


def test_commitments_are_pinned_and_paged(chain: FakeChain, node: FakeNode, subtensor: Subtensor) -> None:
    hotkeys = [address(f"//m{n}") for n in range(230)]
    for hotkey in hotkeys:
        chain.commit(68, hotkey, b"o/r/b/x.txt", HEAD - 50)
    chain.commit(68, hotkeys[0], b"late", HEAD - 1)
    chain.commit(68, hotkeys[1], b"\xff\x00", HEAD - 40)
    chain.commit(68, hotkeys[2], [{"BigRaw": "0x" + b"x".hex() * 200}], HEAD - 40)
    chain.commit(68, hotkeys[3], b"", HEAD - 40)
    chain.commit(68, hotkeys[4], ["ResetBondsFlag"], HEAD - 40)
    fields = [{"Raw15": "0x" + b"o/r/b/first.txt".hex()}, {"Raw6": "0x" + b"second".hex()}]
    chain.commit(68, hotkeys[5], fields, HEAD - 40)
    found = {commitment.hotkey: commitment for commitment in subtensor.commitments(68, HEAD - 10)}
    assert len(found) == 230
    assert found[hotkeys[0]].data == "o/r/b/x.txt"
    assert found[hotkeys[0]].block == HEAD - 50
    assert found[hotkeys[1]].data == "\\xff\x00"
    assert found[hotkeys[2]].data == "x" * 200
    assert found[hotkeys[3]].data == ""
    assert found[hotkeys[4]].data == ""
    assert found[hotkeys[5]].data == "o/r/b/first.txt"
    assert node.requests.count("state_getKeysPaged") <= 4


def test_a_long_text_is_no_address_at_once() -> None:
    started = time.process_time()
    assert not is_address("A" * 100_000)
    assert not signed_by_hotkey("A" * 100_000, b"", b"")
    assert time.process_time() - started < 1


def test_weights_land_on_the_chain(chain: FakeChain, subtensor: Subtensor) -> None:
    outcome = subtensor.set_weights(68, {0: 0.5, 5: 0.5}, KeyedWallet("//hotkey0"))
    assert outcome.state is SubmissionState.INCLUDED, outcome
    assert chain.weights_of(68, 0) == {0: 65535, 5: 65535}
    assert outcome.extrinsic
    assert subtensor.weights_on_chain(68, 0).last_update == chain.extrinsics[-1]["block"]


def test_refusals_are_told_apart(chain: FakeChain, node: FakeNode, subtensor: Subtensor) -> None:
    wallet = KeyedWallet("//hotkey0")
    assert subtensor.set_weights(68, {0: 1}, KeyedWallet("//nobody")).state is SubmissionState.NOT_REGISTERED
    assert subtensor.weights_parameters(68, address("//nobody"))[0].last_update is None
    assert subtensor.set_weights(68, {0: 1, 1: 1}, KeyedWallet("//hotkey5")).state is SubmissionState.REFUSED
    assert subtensor.set_weights(68, {0: 1}, wallet).state is SubmissionState.INCLUDED
    assert subtensor.set_weights(68, {0: 1}, wallet).state is SubmissionState.RATE_LIMITED
    node.mine(150)
    chain.dispatch_failures.append(DispatchFailure("SettingWeightsTooFast"))
    assert subtensor.set_weights(68, {0: 1}, wallet).state is SubmissionState.RATE_LIMITED
    assert subtensor.set_weights(68, {0: float("nan")}, wallet).state is SubmissionState.REFUSED


def test_committed_weights_name_their_reveal_round(chain: FakeChain, subtensor: Subtensor) -> None:
    chain.put_subnet(subnet(commit_reveal=True))
    outcome = subtensor.set_weights(68, {0: 0.5, 5: 0.5}, KeyedWallet("//hotkey0"))
    assert outcome.state is SubmissionState.INCLUDED, outcome
    assert outcome.reveal_round
    assert outcome.reveal_round > 30_000_000
    assert "commit" in chain.extrinsics[-1]["function"][1]
    assert subtensor.weights_on_chain(68, 0).last_update == chain.extrinsics[-1]["block"]


def test_a_connection_lost_after_sending_is_unknown(chain: FakeChain, node: FakeNode, subtensor: Subtensor) -> None:
    subtensor.current_block()
    node.mine_on_submit = False

    def cut() -> None:
        while not chain.pool:
            time.sleep(0.02)
        node.drop_connections()
        node.mine(3)

    thread = threading.Thread(target=cut)
    thread.start()
    outcome = subtensor.set_weights(68, {0: 0.5, 5: 0.5}, KeyedWallet("//hotkey0"))
    thread.join()
    assert outcome.state is SubmissionState.UNKNOWN, outcome
    assert subtensor.weights_on_chain(68, 0).last_update > HEAD
    assert len(chain.weight_extrinsics()) == 1


def test_a_submission_can_only_enter_within_its_era(chain: FakeChain, subtensor: Subtensor) -> None:
    subtensor.set_weights(68, {0: 1}, KeyedWallet("//hotkey0"))
    assert chain.extrinsics[-1]["era"]["period"] == 16


def test_a_silent_node_costs_its_deadline_and_no_more(node: FakeNode) -> None:
    subtensor = Subtensor(node.url, (), (), timeout=0.5)
    node.silent = True
    start = time.monotonic()
    with pytest.raises(ChainUnavailable, match=r"current block.*TimeoutError"):
        subtensor.current_block()
    assert time.monotonic() - start < 4
    node.silent = False
    subtensor._timeout = 5
    assert subtensor.current_block() == HEAD
    subtensor.close()


def test_the_next_endpoint_answers_for_a_silent_one(chain: FakeChain, node: FakeNode) -> None:
    with FakeNode(FakeChain(HEAD)) as silent:
        silent.silent = True
        subtensor = Subtensor(f"{silent.url},{node.url}", (), (), timeout=1.5)
        assert subtensor.current_block() == HEAD
        assert subtensor.tempo(68, HEAD) == 360
        subtensor.close()


def test_dropped_connections_are_reopened(node: FakeNode, subtensor: Subtensor) -> None:
    for _ in range(3):
        assert subtensor.current_block() == HEAD
        node.drop_connections()
    assert subtensor.current_block() == HEAD


def test_a_node_that_limits_us_is_named(node: FakeNode) -> None:
    node.refuse_with = 429
    subtensor = Subtensor(node.url, (), (), timeout=2)
    start = time.monotonic()
    with pytest.raises(ChainUnavailable, match="429"):
        subtensor.current_block()
    assert time.monotonic() - start < 12
    subtensor.close()


def test_pruned_state_is_read_from_the_archive(chain: FakeChain) -> None:
    pruned = FakeChain(HEAD)
    pruned.put_subnet(subnet())
    pruned.pruned_below = HEAD - 10
    chain.commit(68, address("//hotkey1"), b"o/r/b/x.txt", HEAD - 60)
    with FakeNode(pruned) as lite, FakeNode(chain) as archive:
        subtensor = Subtensor(lite.url, (), (archive.url,), timeout=5)
        assert [c.data for c in subtensor.commitments(68, HEAD - 50)] == ["o/r/b/x.txt"]
        assert len(subtensor.metagraph(68, HEAD - 50)) == 8
        subtensor.close()
        alone = Subtensor(lite.url, (), (), timeout=5)
        with pytest.raises(ChainUnavailable, match="commitments of subnet 68"):
            alone.commitments(68, HEAD - 50)
        alone.close()


def test_a_node_that_stands_still_is_left(node: FakeNode) -> None:
    stale = FakeChain(HEAD - 500, genesis_ms=node.chain._genesis_ms)
    stale.put_subnet(FakeSubnet())
    with FakeNode(stale) as behind:
        subtensor = Subtensor(f"{behind.url},{node.url}", (), (), timeout=5)
        assert subtensor.finalized_block() == HEAD - 1
        subtensor.close()


def test_a_forked_child_opens_a_connection_of_its_own(subtensor: Subtensor) -> None:
    assert subtensor.current_block() == HEAD
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        try:
            os._exit(0 if subtensor.current_block() == HEAD else 3)
        except BaseException:
            os._exit(4)
    assert os.waitpid(child, 0)[1] == 0


def test_what_a_miner_commits_through_the_sdk_is_read(chain: FakeChain, subtensor: Subtensor) -> None:
    commit_through_sdk(subtensor, "miner/subs/main/d/0123.txt", KeyedWallet("//hotkey6"))
    assert [c.data for c in subtensor.commitments(68, chain.head)] == ["miner/subs/main/d/0123.txt"]


def test_drand_pulses_kept_by_the_chain(chain: FakeChain, subtensor: Subtensor) -> None:
    chain.pulse(1000, SIGNATURE_1000)
    assert subtensor.drand_signature(1000) == SIGNATURE_1000
    assert subtensor.drand_signature(5) is None


def test_hotkey_signatures() -> None:
    key = bittensor_core.Keypair.create_from_uri("//hotkey0")
    mine = key.ss58_address
    signature = "0x" + key.sign(mine.encode()).hex()
    assert signed_by_hotkey(mine, mine.encode(), signature)
    assert not signed_by_hotkey(mine, b"other", signature)
    assert not signed_by_hotkey("junk", b"other", "zz")
    assert not signed_by_hotkey(mine, mine.encode(), "")
    assert not signed_by_hotkey(bittensor_core.ss58_encode(bytes(key.public_key), 0), mine.encode(), signature)


def test_a_wallet_that_is_not_there_is_named(tmp_path: object) -> None:
    from pathlib import Path

    with pytest.raises(WalletError, match="hotkeys/hot"):
        load_wallet("cold", "hot", Path(str(tmp_path)))


def test_a_head_below_what_is_final_is_a_lie(chain: FakeChain, subtensor: Subtensor) -> None:
    chain.lie_about_head = HEAD - 10
    with pytest.raises(ChainUnavailable, match="is final and block"):
        subtensor.finalized_block()


def test_a_clock_that_differs_from_the_chains_stops_nothing() -> None:
    with FakeNode(FakeChain(HEAD, genesis_ms=0)) as node:
        subtensor = Subtensor(node.url, (), (), timeout=5)
        assert subtensor.finalized_block() == HEAD - 1
        subtensor.close()


def test_a_node_of_ones_own_gets_the_archives_of_the_network_it_is_of(
    chain: FakeChain, monkeypatch: pytest.MonkeyPatch
) -> None:
    lite = FakeChain(HEAD, keeps=256)
    for one in (lite, chain):
        one.put_subnet(subnet())
        one.pin_hash(0, settings.FINNEY_GENESIS_HASH)
        one.commit(68, address("//hotkey1"), b"o/r/b/x.txt", HEAD - 400)
    with FakeNode(lite) as own, FakeNode(chain) as archive, FakeNode(chain) as public:
        monkeypatch.setitem(settings.ARCHIVE_ENDPOINTS, "finney", [archive.url])
        monkeypatch.setitem(settings.FALLBACK_ENDPOINTS, "finney", [public.url])
        subtensor = Subtensor(own.url, timeout=5)
        assert [c.data for c in subtensor.commitments(68, HEAD - 300)] == ["o/r/b/x.txt"]
        assert subtensor._endpoints() == [own.url, public.url]
        own.silent = True
        subtensor._timeout = 1.5
        assert subtensor.current_block() == HEAD
        subtensor.close()
        own.silent = False
        alone = Subtensor(own.url, (), (), timeout=5)
        with pytest.raises(ChainUnavailable):
            alone.commitments(68, HEAD - 300)
        alone.close()


def test_a_chain_of_another_genesis_gets_no_public_endpoints(node: FakeNode) -> None:
    subtensor = Subtensor(node.url, timeout=5)
    assert subtensor.current_block() == HEAD
    assert subtensor._endpoints() == [node.url]
    assert subtensor._archive_endpoints() == []
    subtensor.close()


def test_every_network_that_is_named_keeps_its_public_endpoints() -> None:
    subtensor = Subtensor("ws://127.0.0.1:9,finney,archive")
    assert set(settings.FALLBACK_ENDPOINTS["finney"]) <= set(subtensor._endpoints())
    assert set(settings.FALLBACK_ENDPOINTS["archive"]) <= set(subtensor._endpoints())
    assert set(settings.ARCHIVE_ENDPOINTS["finney"]) <= set(subtensor._archive_endpoints())
    assert Subtensor("finney", (), ())._endpoints() == [settings.NETWORKS["finney"]]
