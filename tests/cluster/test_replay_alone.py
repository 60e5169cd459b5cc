"""A replay on a cluster of its own leaves nothing behind, and says why where the cluster does not start."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, suppress
from pathlib import Path

from app.demo import RECORDING
from app.store.database import Store
from app.store.epochs import Epochs
from app.store.records import Stage
from tests.pool import processes_of

PROJECT = Path(__file__).parents[2]


def replaying(folder: Path, **environment: str) -> tuple[list[str], dict[str, str]]:
    command = [sys.executable, "-m", "app", "epoch", "replay", str(RECORDING), "--out", str(folder / "result.json")]
    own = {**os.environ, "DATA_DIR": str(folder / "data"), "PYTHONPATH": str(PROJECT), "COLUMNS": "200", **environment}
    return command, own


def replay(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command, own = replaying(folder, **environment)
    return subprocess.run(command, env=own, capture_output=True, text=True, timeout=120, check=False)


def await_announced(data: Path) -> None:
    deadline = time.monotonic() + 60
    while not announced(data) and time.monotonic() < deadline:
        time.sleep(0.05)


def announced(data: Path) -> bool:
    with suppress(sqlite3.Error), closing(sqlite3.connect(f"file:{data}/validator.sqlite?mode=ro", uri=True)) as store:
        return bool(store.execute("SELECT count(*) FROM epochs").fetchone()[0])
    return False


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


def test_one_that_is_interrupted_ends_its_epoch(tmp_path: Path) -> None:
    command, environment = replaying(tmp_path)
    # what a shell starts in the background ignores SIGINT
    command = ["env", "--default-signal=INT", *command]
    data = tmp_path / "data"
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as run:
        await_announced(data)
        run.send_signal(signal.SIGINT)
        output, _ = run.communicate(timeout=90)
    assert "Traceback" not in output
    assert run.returncode not in (0, None)
    assert processes_of(data) == []
    assert last_epoch(data) == (Stage.FAILED, "the replay was interrupted")


def test_a_second_one_does_not_lean_on_a_cluster_that_ends_with_the_first(tmp_path: Path) -> None:
    command, environment = replaying(tmp_path)
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as first:
        await_announced(tmp_path / "data")
        first.send_signal(signal.SIGSTOP)
        try:
            second = replay(tmp_path)
        finally:
            first.send_signal(signal.SIGCONT)
        output, _ = first.communicate(timeout=90)
    assert second.returncode != 0
    assert "an embedded cluster already runs in" in second.stderr
    assert first.returncode == 0, output
