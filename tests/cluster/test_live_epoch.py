"""A whole live epoch: miners commit through the SDK, ``run`` watches the chain, and weights arrive in the node."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from app.store.database import Store
from app.store.epochs import Epochs
from app.store.records import FINAL_STAGES, EpochSummary, Stage
from tests.chain.world import World, world
from tests.workers.small_recording import ANTITARGETS, write_small_recording

pytestmark = pytest.mark.cluster

PROJECT = Path(__file__).parents[2]
EXPECTED = Path(__file__).parents[1] / "data" / "example.expected.json"


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "app", *arguments]


def _run_arguments(scene: World) -> list[str]:
    return [
        *("run", "--netuid", "68", "--wallet.name", "validator", "--wallet.hotkey", "hot"),
        *("--subtensor.network", scene.node.url, "--no-flower", "--no-api"),
    ]


@dataclass
class Validator:
    """``run`` in a process of its own, up and watching."""

    process: subprocess.Popen[str]
    store: Store
    environment: dict[str, str]
    log: Path

    def ended(self, number: int, seconds: float = 180) -> EpochSummary:
        """Wait for an epoch to end."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with self.store.reading() as session:
                epoch = next(iter(Epochs(session).recent(1)), None)
            if epoch is not None and epoch.number == number and epoch.stage in FINAL_STAGES:
                return epoch
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.2)
        raise AssertionError(f"the epoch did not end: {epoch}\n{self.log.read_text()}")


@contextmanager
def validator(scene: World, folder: Path, **settings: str | None) -> Iterator[Validator]:
    """Start ``run`` on this world; ``settings`` are set on top of the world's, or unset where None."""
    data = folder / "data"
    wanted: dict[str, str | None] = {
        **os.environ,
        **scene.environment(data),
        "PYTHONPATH": str(PROJECT),
        "CPU_CONCURRENCY": "2",
        "SUBMIT_RESULTS_URL": f"{scene.receiver.url}/results",
        "SUBMIT_RESULTS_KEY": "a-key",
        "MONITORING_URL": f"{scene.receiver.url}/state",
        **settings,
    }
    environment = {name: value for name, value in wanted.items() if value is not None}
    store = Store(f"sqlite:///{data / 'validator.sqlite'}")
    log = folder / "run.log"
    with log.open("w") as stream:
        process = subprocess.Popen(
            _command(*_run_arguments(scene)),
            env=environment,
            stdout=stream,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=folder,
        )
    try:
        _await_line(process, log, "is up")
        yield Validator(process, store, environment, log)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(90)
        store.close()
    assert "All processes have ended." in log.read_text()


def test_a_live_epoch_from_commitments_to_weights(tmp_path: Path) -> None:
    with world(tmp_path) as scene:
        scene.publish()
        with validator(scene, tmp_path) as running:
            scene.close_epoch()
            epoch = running.ended(scene.number)
            assert epoch.stage is Stage.DONE, epoch.error
            # the epoch before it, which the validator found closed when it started, is reported too
            _await_posts(scene, 4)
        _check_chain(scene)
        _check_posts(scene)
        # one request per distinct path and one for its push time, whatever the number of processes
        paths = {entry["data"] for entry in scene.commitments if entry["uid"] is not None}
        assert scene.github.count("/raw/") <= len(paths)
        assert len(scene.github.requests) == len(set(scene.github.requests))
        _check_replay(_recorded(scene, running, tmp_path), running, tmp_path / "elsewhere")


# a checkpoint that states only its shape, as the published one does
GIVEN = Path(__file__).parents[1] / "data" / "psichic"


@pytest.mark.parametrize(
    ("settings", "state"),
    [
        pytest.param(
            {"PSICHIC_WEIGHTS": str(GIVEN), "ESM_CHECKPOINT": str(GIVEN / "tiny_esm2.pt")}, "set", id="given weights"
        ),
        pytest.param({"WEIGHTS_FILE": "weights.json"}, "written", id="demo in test mode", marks=pytest.mark.slow),
    ],
)
def test_a_live_epoch_scored_by_the_model_itself(tmp_path: Path, settings: dict[str, str], state: str) -> None:
    recording = write_small_recording(tmp_path / "small", uids=(1, 2))
    with world(tmp_path, recording) as scene:
        scene.publish(through_sdk=False)
        with validator(scene, tmp_path, REHEARSAL_SCORES=None, WITHOUT_BOLTZ="1", DEVICE="cpu", **settings) as running:
            scene.close_epoch()
            epoch = running.ended(scene.number)
            assert epoch.stage is Stage.DONE, epoch.error
            _await_posts(scene, 4)
        report = _post(scene, "/results")
        assert report["weights_submission"]["state"] == state
        result = report["result"]
        assert epoch.psichic_winner in {1, 2}
        assert result["weights"] == {"0": 0.5, str(epoch.psichic_winner): 0.5}
        for submission in result["submissions"]:
            for molecule in submission["molecules"]:
                told = [*molecule["target_scores"], *molecule["antitarget_scores"]]
                assert len(set(told)) == 1 + ANTITARGETS
                assert all(isinstance(score, float) for score in told)
        untrained = [sentence for sentence in result["warnings"] if "untrained demo" in sentence]
        if state == "set":
            assert not untrained
            weights = scene.chain.weights_of(68, scene.validator)
            assert weights == {0: 65535, epoch.psichic_winner: 65535}
        else:
            assert untrained
            assert scene.chain.weight_extrinsics() == []
            assert json.loads((tmp_path / "weights.json").read_text())["weights"] == result["weights"]
        folder = _recorded(scene, running, tmp_path)
        # the model says the same again, in another process, from an empty store
        _check_replay(folder, running, tmp_path / "elsewhere", "--without-boltz", "--scores", "model")
        if untrained:
            _check_replay(folder, running, tmp_path / "recorded", "--without-boltz")


def _await_line(process: subprocess.Popen[str], log: Path, text: str) -> None:
    deadline = time.monotonic() + 90
    while text not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


def _await_posts(scene: World, count: int) -> None:
    deadline = time.monotonic() + 20
    while len(scene.receiver.posts) < count and time.monotonic() < deadline:
        time.sleep(0.1)


def _post(scene: World, path: str) -> dict[str, Any]:
    """What this epoch's report to a path was."""
    (body,) = (
        body
        for where, _, body in scene.receiver.posts
        if where == path and scene.number in {body.get("epoch"), body.get("result", {}).get("epoch")}
    )
    return dict(body)


def _check_chain(scene: World) -> None:
    (extrinsic,) = scene.chain.weight_extrinsics()
    assert extrinsic["signer"] == scene.hotkey
    assert extrinsic["failure"] is None
    weights = scene.chain.weights_of(68, scene.validator)
    assert weights[0] == 65535
    assert sum(weights.values()) == pytest.approx(2 * 65535, abs=3)
    assert 3 in weights


def _check_posts(scene: World) -> None:
    posts = {
        path: (headers, body)
        for path, headers, body in scene.receiver.posts
        if scene.number in {body.get("epoch"), body.get("result", {}).get("epoch")}
    }
    headers, results = posts["/results"]
    assert headers["Authorization"] == "Bearer a-key"
    assert results["kind"] == "epoch_result"
    assert results["validator"]["hotkey"] == scene.hotkey
    assert results["weights_submission"]["state"] == "set"
    expected = json.loads(EXPECTED.read_text())
    found: dict[str, Any] = {
        str(entry["uid"]): entry["rejection"]["code"]
        for entry in results["result"]["submissions"]
        if entry["rejection"]
    }
    assert found == expected["rejections"]
    assert results["result"]["warnings"] == []
    state = posts["/state"][1]
    assert state["stage"] == "done"
    assert state["submissions"]["valid"] == 8


def _recorded(scene: World, running: Validator, folder: Path) -> Path:
    """The epoch as ``epoch record`` writes it down."""
    recording = folder / "recording"
    _succeed(_command("epoch", "record", "--epoch", str(scene.number), str(recording)), running.environment, folder)
    return recording


def _check_replay(recording: Path, running: Validator, data: Path, *flags: str) -> None:
    """Another validator's store, without the network, comes to the same result."""
    data.mkdir()
    environment = running.environment | {"DATA_DIR": str(data), "OFFLINE": "1"}
    command = _command("epoch", "replay", str(recording), "--cluster", "eager", *flags)
    assert "identical" in _succeed(command, environment, data)


def _succeed(command: list[str], environment: dict[str, str], folder: Path) -> str:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=folder, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
