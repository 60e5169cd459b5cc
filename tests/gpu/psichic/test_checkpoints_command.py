"""`python -m app checkpoints`: fetched from a hub on the loopback, whole or not at all; the demo."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from golden_psichic import FOLDER
from loopback_hub import COMMIT, Hub

from gpu.checkpoints import PUBLISHED, known_sha256, unsound_files
from gpu.psichic.checkpoint import load_network, open_weights
from tests.command_line import command

ROOT = Path(__file__).parents[3]
FILES = {name: (FOLDER / name).read_bytes() for name in ("config.json", "degree.pt", "model.pt")}


@pytest.fixture
def hub() -> Iterator[Hub]:
    hub = Hub("Metanova/TREAT-2", dict(FILES))
    yield hub
    hub.close()


def _fetch(hub: Hub, folder: Path, tmp_path: Path, name: str = "psichic") -> subprocess.CompletedProcess[str]:
    # huggingface_hub reads HF_ENDPOINT when it is imported, so the command runs in a process of its own
    environment = {**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "hf"), "PYTHONPATH": str(ROOT)}
    environment["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    return subprocess.run(
        [sys.executable, "-m", "app", "checkpoints", "fetch", name, "--out", str(folder)],
        capture_output=True, text=True, env=environment, check=False, timeout=120,
    )  # fmt: skip


def test_fetched_files_load_and_are_recorded(hub: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    done = _fetch(hub, folder, tmp_path)
    assert done.returncode == 0, done.stderr
    load_network(open_weights(folder))
    record = json.loads((folder / "checksums.json").read_text())
    assert record["repository"] == "Metanova/TREAT-2"
    assert record["revision"] == COMMIT
    for name, data in FILES.items():
        assert record["files"][name]["sha256"] == hashlib.sha256(data).hexdigest()
        assert f"{hashlib.sha256(data).hexdigest()}  {folder / name}" in done.stdout
    asked = len(hub.ranges)
    again = _fetch(hub, folder, tmp_path)
    assert again.returncode == 0
    assert "already whole" in again.stderr
    assert len(hub.ranges) == asked


def _partial(folder: Path) -> Path:
    return folder / f".model.pt.{COMMIT[:12]}.partial"


def test_a_broken_download_goes_on_where_it_stopped(hub: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    _partial(folder).write_bytes(FILES["model.pt"][:600_000])
    done = _fetch(hub, folder, tmp_path)
    assert done.returncode == 0, done.stderr
    assert (folder / "model.pt").read_bytes() == FILES["model.pt"]
    assert ("model.pt", "bytes=600000-") in hub.ranges
    assert not _partial(folder).exists()


def test_a_partial_file_of_other_bytes_is_not_believed(hub: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    _partial(folder).write_bytes(b"x" * 600_000)
    first = _fetch(hub, folder, tmp_path)
    assert first.returncode == 2
    assert "SHA-256" in first.stderr
    assert not (folder / "model.pt").exists()
    assert _fetch(hub, folder, tmp_path).returncode == 0
    assert (folder / "model.pt").read_bytes() == FILES["model.pt"]


def test_a_connection_that_breaks_is_tried_again(hub: Hub, tmp_path: Path) -> None:
    hub.breaks_at["model.pt"] = 600_000
    folder = tmp_path / "weights"
    done = _fetch(hub, folder, tmp_path)
    assert done.returncode == 0, done.stderr
    assert (folder / "model.pt").read_bytes() == FILES["model.pt"]


def test_a_hub_that_is_away_is_a_sentence(hub: Hub, tmp_path: Path) -> None:
    hub.server.server_close()
    done = _fetch(hub, tmp_path / "weights", tmp_path)
    assert done.returncode == 2
    assert "check the network and HF_ENDPOINT" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_cut_or_changed_file_is_seen_and_fetched_again(hub: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    assert _fetch(hub, folder, tmp_path).returncode == 0
    checkpoint = PUBLISHED["psichic"]
    assert unsound_files(checkpoint, folder) == []
    (folder / "model.pt").write_bytes(FILES["model.pt"][:1000])
    changed = bytearray(FILES["degree.pt"])
    changed[-1] ^= 1
    (folder / "degree.pt").write_bytes(changed)
    assert unsound_files(checkpoint, folder) == ["degree.pt", "model.pt"]
    done = _fetch(hub, folder, tmp_path)
    assert done.returncode == 0, done.stderr
    assert unsound_files(checkpoint, folder) == []


def test_bytes_that_do_not_match_the_announced_checksum_are_refused(hub: Hub, tmp_path: Path) -> None:
    hub.announced["model.pt"] = "0" * 64
    done = _fetch(hub, tmp_path / "weights", tmp_path)
    assert done.returncode == 2
    assert "SHA-256" in done.stderr
    assert not (tmp_path / "weights" / "model.pt").exists()
    assert not (tmp_path / "weights" / "checksums.json").exists()


def test_a_hub_without_the_file_or_that_is_away_is_a_sentence(hub: Hub, tmp_path: Path) -> None:
    del hub.files["degree.pt"]
    done = _fetch(hub, tmp_path / "weights", tmp_path)
    assert done.returncode == 2
    assert "has no degree.pt" in done.stderr
    assert "Traceback" not in done.stderr
    other = _fetch(hub, tmp_path / "esm", tmp_path, "esm2")
    assert other.returncode == 2
    assert "check the network and HF_ENDPOINT" in other.stderr
    assert "Traceback" not in other.stderr


def test_a_recorded_checksum_is_trusted_only_while_the_file_is_untouched(tmp_path: Path) -> None:
    file = tmp_path / "model.pt"
    file.write_bytes(b"weights")
    stat = file.stat()
    entry = {"sha256": "recorded", "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    (tmp_path / "checksums.json").write_text(json.dumps({"files": {"model.pt": entry}}))
    assert known_sha256(file) == "recorded"
    file.write_bytes(b"changed")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns + 10))
    assert known_sha256(file) == hashlib.sha256(b"changed").hexdigest()


def test_unknown_names_list_the_known(tmp_path: Path) -> None:
    result = command("checkpoints", "fetch", "[/alphafold]")
    assert result.exit_code == 2
    assert "[/alphafold]" in result.output
    assert "psichic" in result.output


def test_demo_is_made(tmp_path: Path) -> None:
    result = command("checkpoints", "demo", "--out", tmp_path / "demo")
    assert result.exit_code == 0
    assert "untrained" in result.output
    assert open_weights(tmp_path / "demo").untrained
