"""Scenes for the tests: keys, a subnet on a fake node, and the adapter that talks to it."""

from __future__ import annotations

from typing import Any

import bittensor_core
import pytest

from tests.chain.fake_subtensor import FakeChain, FakeNeuron, FakeSubnet, SealedWeights


class KeyedWallet:
    """A wallet whose keys come from a development URI instead of files."""

    def __init__(self, uri: str) -> None:
        self.name = uri
        self.hotkey = self.coldkey = bittensor_core.Keypair.create_from_uri(uri)
        self.hotkeypub = self.coldkeypub = self.hotkey

    @property
    def address(self) -> str:
        return str(self.hotkey.ss58_address)


def address(uri: str) -> str:
    """The SS58 address of a development key."""
    return str(bittensor_core.Keypair.create_from_uri(uri).ss58_address)


def subnet(neurons: int = 8, **changes: Any) -> FakeSubnet:
    """Subnet 68 with hotkeys ``//hotkey0`` and so on; the first three may validate."""
    found = [
        FakeNeuron(address(f"//hotkey{uid}"), address(f"//coldkey{uid}"), 1000.0 + uid, validator_permit=uid < 3)
        for uid in range(neurons)
    ]
    return FakeSubnet(**{"neurons": found, **changes})


def remembered_commits(chain: FakeChain, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the chain open the commits that this process seals: a future round's signature exists nowhere yet."""
    seal = bittensor_core.get_encrypted_commit_v2

    def sealing(*, uids: list[int], weights: list[int], version_key: int, **rest: Any) -> tuple[bytes, int]:
        commit, drand_round = seal(uids=uids, weights=weights, version_key=version_key, **rest)
        chain.sealed[bytes(commit)] = SealedWeights(dict(zip(uids, weights, strict=True)), version_key)
        return commit, drand_round

    monkeypatch.setattr(bittensor_core, "get_encrypted_commit_v2", sealing)
