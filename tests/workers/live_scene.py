"""A validator's store and a small chain, for the tests of the tasks that face the chain. Tasks run in this process."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bittensor as bt
import pytest
from celery.exceptions import Retry

import app.epochs.capture
from app.celery import app as celery_app
from app.domain import Challenge, EpochHeader, Neuron
from app.epochs.rules import rules_sha256
from app.settings import get_settings
from app.store.claims import Claims, Work
from app.store.database import get_store
from app.store.epochs import Epochs
from app.store.records import Stage
from chain.epochs import ClosedEpoch
from tests.chain.fake_subtensor import FakeChain, FakeNode
from tests.chain.nodes import subnet
from tests.stores import migrated
from tests.sweep import swept

LENGTH = 361
END = 6_000_181
assert END % LENGTH == 0


@dataclass
class Scene:
    """UID 7 is the validator; UIDs 3 and 5 won epoch ``NUMBER``."""

    chain: FakeChain
    node: FakeNode
    hotkey: str

    def planned_epoch(self, end: int = END, rules: str = "") -> int:
        """An epoch of this chain, open and planned, with nothing to do."""
        epoch = ClosedEpoch(68, end, LENGTH)
        header = EpochHeader(68, self.node.url, LENGTH, epoch.start_block, end, "0x01", "0x02")
        neurons = [
            Neuron(uid, neuron.hotkey, neuron.coldkey, neuron.stake, neuron.validator_permit)
            for uid, neuron in enumerate(self.chain.neurons_at(68, end))
        ]
        with get_store().writing() as session:
            epochs = Epochs(session)
            epoch_id = epochs.announce(
                epoch.run(header.end_block_hash), header, "recorded", publishes=True, cluster="tests"
            )
            epochs.open(
                epoch_id,
                header=header,
                neurons=neurons,
                rules=rules,
                rules_sha256=rules_sha256(rules),
                challenge=Challenge(("O15379",), (), (4, 5)),
                proteins=(),
                commitments=(),
                warnings=(),
            )
            epochs.plan(epoch_id, {})
        return epoch_id

    def closed_epoch(self, winners: tuple[int | None, int | None] = (3, 5), end: int = END) -> int:
        """An epoch of this chain, ranked, its weights still to be set."""
        weights = None
        if winners != (None, None):
            first, second = (winner for winner in winners if winner is not None)
            weights = {0: 0.5, first: 0.25, second: 0.25}
        epoch_id = self.planned_epoch(end)
        with get_store().writing() as session:
            Epochs(session).close(epoch_id, (), dict(zip(("psichic", "boltz"), winners, strict=True)), weights, ())
            Claims(session).drop_epoch(epoch_id)
            Claims(session).add([Work("workers.weights.submit_weights", (epoch_id,), epoch_id)], "tests")
        return epoch_id

    def stage(self, epoch_id: int) -> Stage:
        with get_store().reading() as session:
            return Epochs(session).summary(epoch_id).stage

    def report_warnings(self, epoch_id: int) -> list[str]:
        with get_store().reading() as session:
            return Epochs(session).warnings(epoch_id)


@contextmanager
def live_scene(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    """A chain a few blocks after an epoch's end, and this process as its validator."""
    wallet = bt.Wallet("validator", "hot", str(folder / "wallets"))
    wallet.create_new_hotkey(use_password=False, overwrite=True, suppress=True)
    hotkey = str(wallet.hotkey.ss58_address)
    chain = FakeChain(END + 5)
    scene = subnet(9, tempo=LENGTH - 1)
    scene.neurons[7].hotkey = hotkey
    scene.neurons[7].validator_permit = True
    chain.put_subnet(scene)
    with swept(), FakeNode(chain) as node:
        for name, value in {
            "NETUID": "68",
            "LIVE": "1",
            "CLUSTER_NAME": "tests",
            "SUBTENSOR_NETWORK": node.url,
            "SUBTENSOR_FALLBACKS": "none",
            "SUBTENSOR_ARCHIVES": "none",
            "CHAIN_TIMEOUT": "PT2S",
            "WALLET_NAME": "validator",
            "WALLET_HOTKEY": "hot",
            "WALLET_PATH": str(folder / "wallets"),
            "WEIGHTS_PAUSE": "PT0.01S",
            "BITTENSOR_RUNTIME_CACHE_DIR": os.environ.get("BITTENSOR_RUNTIME_CACHE_DIR", str(folder / "runtime")),
        }.items():
            monkeypatch.setenv(name, value)
        get_settings.cache_clear()
        with eager_validator():
            yield Scene(chain, node, hotkey)


@contextmanager
def eager_validator() -> Iterator[None]:
    """Tasks run in this process, on a store that is up to date; connections to the chain are closed in the end."""
    migrated(get_store())
    celery_app.loader.import_default_modules()
    celery_app.conf.update(task_always_eager=True, task_eager_propagates=True)
    yield
    celery_app.conf.update(task_always_eager=False, task_eager_propagates=False)
    close_chains()


def close_chains() -> None:
    """Let go of this process's connections to the chain."""
    for connection in app.epochs.capture._chains.values():
        connection.close()
    app.epochs.capture._chains.clear()


def delivered(task: Any, *arguments: Any, seconds: float = 30) -> Any:
    """Run a task as one message would: under one id, again whenever it asks to be retried."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return task.apply(arguments, task_id=f"message for {arguments}").get()
        except Retry as retry:
            if time.monotonic() > deadline:
                raise
            time.sleep(min(retry.when or 0, 1))
