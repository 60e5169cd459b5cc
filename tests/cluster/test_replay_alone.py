"""A replay on a cluster of its own leaves nothing behind, and says why where the cluster does not start."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from app.demo import RECORDING
from app.store.database import Store
from app.store.epochs import Epochs
from app.store.records import Stage
from tests.pool import processes_of

PROJECT = Path(__file__).parents[2]


def replay(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "app", "epoch", "replay", str(RECORDING), "--out", str(folder / "result.json")]
    own = {**os.environ, "DATA_DIR": str(folder / "data"), "PYTHONPATH": str(PROJECT), "COLUMNS": "200", **environment}
    return subprocess.run(command, env=own, capture_output=True, text=True, timeout=120, check=False)


def last_epoch(data: Path) -> tuple[Stage, str | None]:
    store = Store(f"sqlite:///{data}/validator.sqlite")
    try:
        with store.reading() as session:
            (epoch,) = Epochs(session).recent(2)
            return epoch.stage, epoch.error
    finally:
        store.close()


def test_it_leaves_no_process_and_no_journal(tmp_path: Path) -> None:
    done = replay(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Result written" in done.stdout
    data = tmp_path / "data"
    assert processes_of(data) == []
    assert [path.name for path in data.glob("validator.sqlite-*")] == []
    assert last_epoch(data) == (Stage.DONE, None)


def test_a_worker_that_cannot_start_ends_the_epoch_with_the_reason(tmp_path: Path) -> None:
    done = replay(tmp_path, CELERY_WORKER_POOL="nonsense")
    assert done.returncode != 0
    assert "ended while starting" in done.stderr
    assert "Traceback" not in done.stderr
    data = tmp_path / "data"
    assert processes_of(data) == []
    stage, error = last_epoch(data)
    assert stage is Stage.FAILED
    assert error is not None
    assert "ended while starting" in error
