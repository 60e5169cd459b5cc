"""The doctor names what is missing and what to do."""

from pathlib import Path

import pytest

from app.cli.doctor import CHECKS, Finding, Health
from app.settings import get_settings


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


def test_a_store_that_does_not_answer_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    found = findings(monkeypatch, DATABASE_URL="postgresql://u@127.0.0.1:1/x?connect_timeout=1")
    assert found["store"].health is Health.MISSING
    assert "DATABASE_URL" in found["store"].advice
