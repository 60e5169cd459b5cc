"""Requests to the chain in one epoch with 256 commitments, from a cold connection on: ``… benchmarks round_trips``.

Counted on the tests' node, with the real SDK. What the SDK remembers for a block (12 s) is forgotten between the steps,
as it is in a real epoch, which lasts 72 minutes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

import workers.watch
from app.domain import EpochHeader
from app.epochs.capture import process_subtensor
from tests.chain.fake_subtensor import FakeNeuron
from tests.chain.nodes import address
from tests.workers.live_scene import END, LENGTH, Scene, delivered, live_scene
from workers.watch import watch_epoch
from workers.weights import submit_weights

NEURONS = 256
MOST = 40


def main() -> None:
    """Print the requests of each step, for plain weights and for committed ones."""
    for commit_reveal in (False, True):
        with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
            patch.setenv("DATA_DIR", folder)
            patch.setenv("BITTENSOR_RUNTIME_CACHE_DIR", f"{folder}/runtime")
            found = counted(Path(folder), patch, commit_reveal=commit_reveal)
        kind = "commit-reveal" if commit_reveal else "plain weights"
        steps = ", ".join(f"{name} {count}" for name, count in found.items())
        print(f"{sum(found.values())} requests with {kind} (target {MOST}): {steps}")


def counted(folder: Path, patch: pytest.MonkeyPatch, *, commit_reveal: bool) -> dict[str, int]:
    """Requests of each step of an epoch, by its name."""
    found: dict[str, int] = {}
    with live_scene(folder, patch) as scene:
        _fill(scene, commit_reveal)
        # the epoch before this one, which the watch remembers
        epoch_id = scene.closed_epoch(end=END - LENGTH)
        chain, node = process_subtensor(), scene.node
        announced: list[EpochHeader] = []
        patch.setattr(workers.watch, "announce", lambda _epoch, header, *_: announced.append(header) or [])

        def step(name: str, work: Callable[[], object]) -> None:
            node.mine()
            if chain._client is not None:
                connection = chain._client._substrate.raw
                connection._finalized_checked_at = connection._runtimes._head_checked_at = float("-inf")
            before = len(node.requests)
            work()
            found[name] = len(node.requests) - before

        step("connect", chain.current_block)
        step("watch", watch_epoch)
        header = announced[0]
        step("boundary", lambda: [chain.block_hash(block) for block in (header.start_block, header.end_block)])
        step("metagraph", lambda: chain.metagraph(68, header.end_block))
        commitments = []
        step("commitments", lambda: commitments.extend(chain.commitments(68, header.end_block)))
        assert len(commitments) == NEURONS
        epoch_id = scene.closed_epoch()
        step("weights", lambda: delivered(submit_weights, epoch_id))
        assert len(scene.chain.weight_extrinsics()) == 1
    return found


def _fill(scene: Scene, commit_reveal: bool) -> None:
    subnet = scene.chain.subnets[68]
    subnet.commit_reveal = commit_reveal
    for uid in range(len(subnet.neurons), NEURONS):
        subnet.neurons.append(FakeNeuron(address(f"//hotkey{uid}"), address(f"//coldkey{uid}"), 1.0))
    scene.chain.put_subnet(subnet)
    for neuron in subnet.neurons:
        scene.chain.commit(68, neuron.hotkey, b"owner/submissions/main/folder/" + b"0" * 20 + b".txt", END - 100)
