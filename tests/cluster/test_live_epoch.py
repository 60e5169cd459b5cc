"""A whole live epoch: miners commit through the SDK, ``run`` watches the chain, and weights arrive in the node."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from app.store.database import Store
from app.store.epochs import Epochs
from app.store.records import FINAL_STAGES, EpochSummary, Stage
from tests.chain.world import World, world

pytestmark = pytest.mark.cluster

PROJECT = Path(__file__).parents[2]
EXPECTED = Path(__file__).parents[1] / "data" / "example.expected.json"


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "app", *arguments]


def _run_arguments(scene: World) -> list[str]:
    return [
        *("run", "--netuid", "68", "--wallet.name", "validator", "--wallet.hotkey", "hot"),
        *("--subtensor.network", scene.node.url, "--no-flower"),
    ]


def _ended(store: Store, number: int, process: subprocess.Popen[str], log: Path, seconds: float = 100) -> EpochSummary:
    """Wait for an epoch to end."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with store.reading() as session:
            epoch = next(iter(Epochs(session).recent(1)), None)
        if epoch is not None and epoch.number == number and epoch.stage in FINAL_STAGES:
            return epoch
        assert process.poll() is None, log.read_text()
        time.sleep(0.2)
    raise AssertionError(f"the epoch did not end: {epoch}\n{log.read_text()}")


def test_a_live_epoch_from_commitments_to_weights(tmp_path: Path) -> None:
    with world(tmp_path) as scene:
        data = tmp_path / "data"
        environment = {
            **os.environ,
            **scene.environment(data),
            "PYTHONPATH": str(PROJECT),
            "CPU_CONCURRENCY": "2",
            "SUBMIT_RESULTS_URL": f"{scene.receiver.url}/results",
            "SUBMIT_RESULTS_KEY": "a-key",
            "MONITORING_URL": f"{scene.receiver.url}/state",
        }
        scene.publish()
        store = Store(f"sqlite:///{data / 'validator.sqlite'}")
        log = tmp_path / "run.log"
        with log.open("w") as stream:
            validator = subprocess.Popen(
                _command(*_run_arguments(scene)),
                env=environment,
                stdout=stream,
                stderr=subprocess.STDOUT,
                text=True,
                cwd=tmp_path,
            )
        try:
            _await_line(validator, log, "is up")
            scene.close_epoch()
            epoch = _ended(store, scene.number, validator, log)
            assert epoch.stage is Stage.DONE, epoch.error
            _await_posts(scene)
        finally:
            validator.send_signal(signal.SIGTERM)
            validator.wait(60)
        assert "All processes have ended." in log.read_text()
        _check_chain(scene)
        _check_posts(scene)
        # one request per distinct path and one for its push time, whatever the number of processes
        paths = {entry["data"] for entry in scene.commitments if entry["uid"] is not None}
        assert scene.github.count("/raw/") <= len(paths)
        assert len(scene.github.requests) == len(set(scene.github.requests))
        _check_recording(scene, environment, tmp_path)
        store.close()


def _await_line(process: subprocess.Popen[str], log: Path, text: str) -> None:
    deadline = time.monotonic() + 90
    while text not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


def _await_posts(scene: World) -> None:
    deadline = time.monotonic() + 20
    # the epoch before it, which the validator found closed when it started, is reported too
    while len(scene.receiver.posts) < 4 and time.monotonic() < deadline:
        time.sleep(0.1)


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


def _check_recording(scene: World, environment: dict[str, str], folder: Path) -> None:
    recording = folder / "recording"
    quiet = {"capture_output": True, "text": True, "cwd": folder}
    number = str(scene.number)
    done = subprocess.run(
        _command("epoch", "record", "--epoch", number, str(recording)), env=environment, check=False, **quiet
    )
    assert done.returncode == 0, done.stdout + done.stderr
    elsewhere = environment | {"DATA_DIR": str(folder / "elsewhere"), "OFFLINE": "1"}
    replay = subprocess.run(
        _command("epoch", "replay", str(recording), "--cluster", "eager"), env=elsewhere, check=False, **quiet
    )
    assert replay.returncode == 0, replay.stdout + replay.stderr
    assert "identical" in replay.stdout
