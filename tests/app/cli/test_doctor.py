"""The doctor names what is missing and what to do."""

import importlib.metadata
import json
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.cli import cli
from app.cli.doctor import CHECKS, Finding, Health
from app.cli.run import run
from app.domain import ValidatorError
from app.epochs.allowance import keep_quota
from app.settings import get_settings
from app.store.database import get_store
from chain.github import GitHubQuota
from tests.stores import migrated
from tests.workers.evaluation_scene import FakeEngine
from tests.workers.live_scene import live_scene


def findings(monkeypatch: pytest.MonkeyPatch, **environment: str) -> dict[str, Finding]:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    get_settings.cache_clear()
    return {finding.what: finding for check in CHECKS for finding in check(get_settings())}


def test_a_bare_machine_is_fit_for_replays(monkeypatch: pytest.MonkeyPatch) -> None:
    found = findings(monkeypatch, BROKER_URL="redis://127.0.0.1:1/0")
    assert not [finding for finding in found.values() if finding.health is Health.MISSING]
    for what in ("Redis", "PSICHIC weights", "Boltz-2 weights", "wallet"):
        assert found[what].health is Health.OPTIONAL, what
        assert found[what].advice, what
    assert "checkpoints fetch psichic" in found["PSICHIC weights"].advice


def test_what_is_there_is_ok(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hotkey = tmp_path / "w" / "hotkeys" / "h"
    hotkey.parent.mkdir(parents=True)
    hotkey.touch()
    found = findings(
        monkeypatch, WALLET_PATH=str(tmp_path), WALLET_NAME="w", WALLET_HOTKEY="h", PSICHIC_WEIGHTS=str(tmp_path)
    )
    assert found["wallet"].health is Health.OK
    assert found["PSICHIC weights"].health is Health.OK
    assert found["store"].health is Health.OK


def test_the_installed_rdkit_is_compared_with_the_rules(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert findings(monkeypatch)["RDKit of the rules"] == Finding("RDKit of the rules", Health.OK, "2024.9.4")
    rules = tmp_path / "rules.yaml"
    rules.write_text("era: august-2026\n")
    installed = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "2026.9.1" if name == "rdkit" else installed(name))
    found = findings(monkeypatch, RULES_FILE=str(rules))
    assert found["rules"].found == f"era august-2026, from {rules}"
    assert found["RDKit of the rules"].health is Health.MISSING
    assert "RDKit 2026.9.1 is installed" in found["RDKit of the rules"].found
    assert "rdkit==2024.9.4" in found["RDKit of the rules"].advice
    rules.write_text("burn: 1")
    assert findings(monkeypatch)["rules"].health is Health.MISSING


def test_githubs_allowance_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    found = findings(monkeypatch)["GitHub"]
    assert (found.health, found.found) == (Health.OPTIONAL, "no GITHUB_TOKEN: 60 of 60 calls an hour left")
    assert "set GITHUB_TOKEN" in found.advice
    migrated(get_store())
    with get_store().writing() as session:
        keep_quota(session, GitHubQuota(60, 7, time.time() + 600, has_token=False))
    assert "7 of 60 calls" in findings(monkeypatch)["GitHub"].found
    # another token has an allowance of its own
    found = findings(monkeypatch, GITHUB_TOKEN="x")["GitHub"]
    assert (found.health, found.found) == (Health.OK, "GITHUB_TOKEN is set: 5000 of 5000 calls an hour left")


def test_a_store_that_does_not_answer_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    found = findings(monkeypatch, DATABASE_URL="postgresql://u@127.0.0.1:1/x?connect_timeout=1")
    assert found["store"].health is Health.MISSING
    assert "DATABASE_URL" in found["store"].advice


def test_a_node_that_evaluates_models_needs_docker_disk_and_a_judge(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = {"Docker", "disk for models", "judge of answers"}
    assert not asked & set(findings(monkeypatch))
    found = findings(monkeypatch, NETUID="21", DOCKER_HOST="tcp://127.0.0.1:1", DISK_RESERVE="1000TiB")
    assert all(found[what].health is Health.MISSING for what in asked)
    assert "group docker" in found["Docker"].advice
    assert "DATA_DIR" in found["disk for models"].advice
    assert "JUDGE_URL" in found["judge of answers"].advice
    with FakeEngine(tmp_path / "engine.sock") as engine:
        found = findings(
            monkeypatch,
            DOCKER_HOST=engine.address,
            DISK_RESERVE="0",
            MODEL_SIZE_LIMIT="1",
            JUDGE_URL="https://user:secret@judge.example/v1",
            JUDGE_MODEL="judge-1",
        )
    assert all(found[what].health is Health.OK for what in asked)
    assert found["Docker"].found == "Engine 20.10.24"
    assert found["judge of answers"].found == "judge-1 at judge.example"
    assert not asked & set(findings(monkeypatch, RUN_API="true"))


def test_a_weights_file_is_tried_before_the_epoch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    good = tmp_path / "there" / "weights.json"
    assert findings(monkeypatch, WEIGHTS_FILE=str(good))["weights file"].health is Health.OK
    assert list(good.parent.iterdir()) == []
    for bad in (tmp_path, Path("/proc/nope/w.json"), Path("/etc/passwd/w.json")):
        found = findings(monkeypatch, WEIGHTS_FILE=str(bad))["weights file"]
        assert found.health is Health.MISSING
        assert found.found.startswith(f"WEIGHTS_FILE: '{bad}' cannot be written (")
        assert "a folder that this user may write to" in found.advice
        with pytest.raises(ValidatorError, match="WEIGHTS_FILE"):
            run()


def test_the_doctor_says_whether_weights_would_be_accepted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with live_scene(tmp_path, monkeypatch) as scene:
        found = findings(monkeypatch)
        assert found["weights on subnet 68"].health is Health.OK
        assert found["weights on subnet 68"].found == "weights will be accepted"
        assert "UID 7, stake 1007.00, stake asked 0.00, permit yes, version key 0" in found["weight parameters"].found
        scene.chain.ask_stake(5000)
        found = findings(monkeypatch)
        assert found["weights on subnet 68"].health is Health.MISSING
        assert "is below the 5000.00" in found["weights on subnet 68"].found
        scene.node.refuse_with = 503
        found = findings(monkeypatch, CHAIN_TIMEOUT="PT1S")
        assert found["weights on subnet 68"].health is Health.OPTIONAL
        assert found["weights on subnet 68"].found.startswith("unknown: ")
        assert "weight parameters" not in found


def test_the_table_is_readable_at_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    found = findings(monkeypatch, BROKER_URL="redis://127.0.0.1:1/0")
    text = CliRunner().invoke(cli, ["doctor"], env={"COLUMNS": "80"}).output
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    # no column of one or two words a line: every check within six lines
    assert len(lines) <= 6 * len(found)
    assert any(line.split()[:2] == ["optional", "wallet"] for line in lines)
    assert any(line.split()[:3] == ["→", "set", "WALLET_NAME,"] for line in lines)
    document = json.loads(CliRunner().invoke(cli, ["doctor", "--json"]).output)
    assert document["fit"] is True
    assert {check["check"] for check in document["checks"]} == set(found)
