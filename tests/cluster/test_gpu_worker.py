"""``celery -A app worker -Q gpu`` on a machine with two cards: two children, each bound to its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.cluster.embedded import EmbeddedCluster
from app.settings import Settings

pytestmark = pytest.mark.cluster

PROJECT = Path(__file__).parents[2]

ASK = """
import json
import time
from tests.cluster.probe import device
results = [device.apply_async(queue="gpu") for _ in range(4)]
# asked for, not waited for: nobody subscribes to results here
deadline = time.monotonic() + 60
while not all(result.ready() for result in results) and time.monotonic() < deadline:
    time.sleep(0.1)
print(json.dumps([result.result for result in results]))
"""


def test_each_child_is_bound_to_a_card_of_its_own(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "data", _env_file=None)
    cluster = EmbeddedCluster(settings, flower=False, name="cards")
    cluster.logs.mkdir(parents=True)
    cluster._launch("redis", cluster.redis_command())
    environment = {**os.environ, **cluster.environment, "PYTHONPATH": str(PROJECT)}
    environment |= {"CUDA_VISIBLE_DEVICES": "GPU-first,GPU-second", "HOME": str(tmp_path)}
    # as an operator types it in the checkout: the script, and no PYTHONPATH
    typed = {name: value for name, value in environment.items() if name != "PYTHONPATH"}
    command = [str(Path(sys.executable).with_name("celery")), "-A", "app", "worker", "-Q", "gpu"]
    command += ["-I", "tests.cluster.probe"]
    worker = subprocess.Popen(command, env=typed, cwd=PROJECT, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
    try:
        answer = subprocess.run(
            [sys.executable, "-c", ASK], env=environment, cwd=tmp_path, check=True, capture_output=True, timeout=90
        )
        seen = {tuple(pair) for pair in json.loads(answer.stdout)}
        assert {device for device, _ in seen} == {"GPU-first", "GPU-second"}
        assert len(seen) == 2, "a child keeps its card"
    finally:
        worker.terminate()
        worker.wait(60)
        cluster.stop()
