"""What of a wallet must be on the chain worker's machine: one hotkey file, and nothing of the coldkey."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator
from pathlib import Path

import bittensor_core
import pytest

from chain.hotkey import wallet_signer
from chain.subtensor import Subtensor, load_wallet, signed_by_hotkey
from chain.weights import SubmissionState
from tests.chain.fake_subtensor import FakeChain, FakeNode
from tests.chain.nodes import address, subnet


@pytest.fixture
def wallets(tmp_path: Path) -> Path:
    """A wallet folder with one file in it."""
    hotkey = tmp_path / "wallets" / "validator" / "hotkeys" / "default"
    hotkey.parent.mkdir(parents=True)
    keypair = bittensor_core.Keypair.create_from_uri("//hotkey0")
    hotkey.write_bytes(bittensor_core.serialized_keypair_to_keyfile_data(keypair))
    hotkey.chmod(0o400)
    return tmp_path / "wallets"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("BITTENSOR_RUNTIME_CACHE_DIR", str(tmp_path / "runtime"))
    yield
    # the SDK leaves the socket of an interrupted handshake to the collector
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def test_weights_are_set_with_the_hotkey_file_alone(wallets: Path) -> None:
    chain = FakeChain(7_000_000)
    chain.put_subnet(subnet())
    wallet = load_wallet("validator", "default", wallets)
    with FakeNode(chain) as node:
        subtensor = Subtensor(node.url, (), (), timeout=5)
        try:
            outcome = subtensor.set_weights(68, {0: 0.5, 5: 0.5}, wallet)
        finally:
            subtensor.close()
    assert outcome.state is SubmissionState.INCLUDED, outcome
    assert chain.weights_of(68, 0) == {0: 65535, 5: 65535}
    assert [path.name for path in wallets.rglob("*") if path.is_file()] == ["default"]


def test_requests_are_signed_with_the_hotkey_file_alone(wallets: Path) -> None:
    signer = wallet_signer(wallets, "validator", "default")
    assert signer.address == address("//hotkey0")
    assert signed_by_hotkey(signer.address, b"message", signer.sign(b"message"))
