"""Whatever breaks, every epoch ends, once, with the result it would have had."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
SECONDS = float(os.environ.get("CHAOS_SECONDS", "600"))
PAUSE = os.environ.get("CHAOS_PAUSE", "0.2,5").split(",")
SEED = os.environ.get("CHAOS_SEED", "1")

# Epochs that faults must have hit, over both stores; a short run only shows that there are some.
EPOCHS = int(os.environ.get("CHAOS_EPOCHS", "100" if SECONDS >= 900 else "2"))

# The longest (s) that nineteen of twenty epochs may take beyond what they take undisturbed.
RECOVERY = 60.0


@pytest.mark.chaos
@pytest.mark.timeout(SECONDS + 900)
@pytest.mark.parametrize("store", ["sqlite", "postgresql"])
def test_epochs_under_random_faults(store: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.chaos", store, "--seconds", str(SECONDS), "--seed", SEED, "--pause", *PAUSE]
    process = subprocess.Popen(
        [*command, "--folder", str(tmp_path / store)], cwd=PROJECT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    line = ""
    for line in process.stdout:
        print(line, end="", flush=True)
    assert process.wait() == 0, "an epoch was lost, doubled or different"
    summary = json.loads(line)
    assert summary["epochs"] >= EPOCHS / 2, summary
    assert summary["recovery p95"] <= RECOVERY, summary
