"""``epoch replay`` as its user types it, in this process (eager)."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from app.cli.epoch_tables import print_report
from app.cli.terminal import Console
from app.demo import RECORDING
from app.epochs.result import differences
from tests.conftest import DATA

PROJECT = Path(__file__).parents[3]


def replay(folder: Path, *options: str, data: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "app", "epoch", "replay", str(folder), "--cluster", "eager", *options]
    own = {**os.environ, "DATA_DIR": str(data), "PYTHONPATH": str(PROJECT), "COLUMNS": "200", **environment}
    return subprocess.run(command, env=own, capture_output=True, text=True, cwd=data.parent, check=False)


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    folder = tmp_path / "recording"
    shutil.copytree(RECORDING, folder)
    return folder


def test_an_epoch_of_tracks_shows_weights_and_payouts_alike() -> None:
    report = json.loads((DATA / "example-2026.result.json").read_text())
    output = io.StringIO()
    print_report(report, Console(file=output, width=200))
    said = output.getvalue()
    assert report["payouts"]
    for paid in report["payouts"]:
        assert f"UID {paid['uid']} won the {paid['track']} track: {paid['share']:.4g} of the epoch's incentive" in said
    assert all(f"UID {uid}: {share:.4g}" in said for uid, share in report["weights"].items())
    assert "%" not in said, "fractions, which are what the chain gets"


def test_a_replay_is_an_audit(recording: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    first = replay(recording, data=data)
    assert first.returncode == 0, first.stderr
    for text in ("examine", "21/21", "Leaderboard (5 valid)", "Rejected (16)", "chemically_identical", "Weights:"):
        assert text in first.stdout
    result = recording / "result.json"
    assert "Result written" in first.stdout
    kept = result.read_text()

    again = replay(recording, data=data)
    assert again.returncode == 0
    assert "identical" in again.stdout

    document = json.loads(kept)
    document["weights"]["2"] = 0.2
    result.write_text(json.dumps(document))
    differs = replay(recording, data=data)
    assert differs.returncode == 1
    assert "weights.2: 0.2 → 0.25" in differs.stdout
    assert json.loads(result.read_text()) == document, "a differing result is never overwritten"

    forced = replay(recording, "--force", data=data)
    assert forced.returncode == 0
    assert result.read_text() == kept


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "recording.json").unlink(), "recording.json is missing"),
        (lambda folder: (folder / "rules.yaml").write_text("burn: 1"), "unknown key 'burn'"),
        (lambda folder: (folder / "molecules.sqlite").write_bytes(b""), "has no table 'reactions'"),
        (lambda folder: (folder / "scores" / "psichic.csv").write_text("a,b\n"), "lacks column(s)"),
    ],
)
def test_a_broken_recording_is_one_sentence(recording: Path, tmp_path: Path, damage: object, message: str) -> None:
    damage(recording)  # type: ignore[operator]
    done = replay(recording, data=tmp_path / "data")
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (recording / "result.json").exists()


def test_a_wrong_setting_is_one_sentence(recording: Path, tmp_path: Path) -> None:
    done = replay(recording, data=tmp_path / "data", NETUID="many")
    assert done.returncode == 2
    assert done.stderr.startswith("error: NETUID:")


def test_models_without_boltz_weights_are_refused_before_any_work(recording: Path, tmp_path: Path) -> None:
    done = replay(recording, "--scores", "model", data=tmp_path / "data", BOLTZ_CACHE=str(tmp_path / "none"))
    assert done.returncode == 2
    assert "checkpoints fetch boltz2" in done.stderr
    assert "--without-boltz" in done.stderr


def test_differences_name_the_place() -> None:
    old = {"a": [1, {"b": 2.0}], "c": 1}
    assert differences(old, old) == []
    assert differences(old, {"a": [1, {"b": 3.0}, 4], "d": 1}) == [
        "a: 2 entries → 3",
        "a[1].b: 2.0 → 3.0",
        "c: only in the old result",
        "d: only in the new result",
    ]
    many = differences(list(range(100)), list(range(1, 101)))
    assert len(many) == 21
    assert many[-1] == "… and 80 more"
