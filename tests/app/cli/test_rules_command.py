"""``rules show`` as its user types it, and the bundled epoch of 2026."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.cli import cli
from app.demo import RECORDING_2026
from app.domain import ValidatorError
from tests.app.cli.test_replay_command import replay

DATA = Path(__file__).parents[2] / "data"


def show(*arguments: str) -> str:
    result = CliRunner().invoke(cli, ["rules", "show", *arguments], env={"COLUMNS": "200"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output


def test_rules_in_force_and_where_each_comes_from(tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text("payout: {override_uid: 7}\n")
    shown = json.loads(show(str(file), "--json"))
    assert shown["era"] == "august-2026"
    assert shown["rules"]["payout.override_uid"] == {"value": 7, "from": "the file"}
    assert shown["rules"]["payout.enabled"] == {"value": True, "from": "default"}
    assert shown["rules"]["era"]["from"] == "the sections of the file"
    table = show(str(file))
    assert "august-2026" in table
    assert "quirk global_order_list" in table
    assert "october-2025" in show()
    assert "august-2026" in show(str(RECORDING_2026))
    with pytest.raises(ValidatorError, match="cannot be read"):
        show(str(tmp_path / "none.yaml"))


def test_the_bundled_epoch_of_2026_replays_to_its_known_answer(tmp_path: Path) -> None:
    folder = tmp_path / "recording"
    shutil.copytree(RECORDING_2026, folder)
    shutil.copyfile(DATA / "example-2026.result.json", folder / "result.json")
    done = replay(folder, data=tmp_path / "data")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "identical" in done.stdout
    assert "too_similar" in done.stdout
    result = json.loads((folder / "result.json").read_text())
    assert (result["schema"], result["era"]) == (2, "august-2026")
    assert result["winners"] == {"molecule": 1, "nanobody": 1}
    assert result["weights"] == {"42": 1.0}
    tracks = {entry["uid"]: entry["tracks"] for entry in result["submissions"]}
    assert {track: found["status"] for track, found in tracks[6].items()} == {
        "molecule": "rejected",
        "nanobody": "valid",
    }
    # the first of the epoch's order counts, not of the miner's
    assert tracks[5]["molecule"]["standing"]["score"] == tracks[1]["molecule"]["standing"]["score"]
    assert tracks[8]["molecule"]["items"][0]["nearest"]["similarity"] >= 0.6


def test_a_track_without_its_models_is_said_and_never_counts_as_not_entered(tmp_path: Path) -> None:
    folder = tmp_path / "recording"
    shutil.copytree(RECORDING_2026, folder)
    (folder / "scores" / "boltzgen.csv").unlink()
    rules = folder / "rules.yaml"
    rules.write_text(rules.read_text().replace("  enabled: true", "  enabled: false"))
    done = replay(folder, data=tmp_path / "data")
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((folder / "result.json").read_text())
    assert "nanobody" in result["unjudged"]
    assert result["winners"] == {"molecule": 1, "nanobody": None}
    assert result["weights"] is None
    assert any("could not judge the track(s) nanobody" in sentence for sentence in result["warnings"])
