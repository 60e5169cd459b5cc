"""docs/settings.md stays true: its tables are made from the settings."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.cli import cli
from app.cli.settings import markdown_tables
from app.domain import ValidatorError
from app.settings import Settings

SETTINGS = Path(__file__).parents[3] / "docs" / "settings.md"


def test_the_tables_are_those_of_the_settings() -> None:
    text = SETTINGS.read_text()
    tables = text.split("--markdown` -->\n")[1].split("\n<!-- /settings -->")[0]
    assert tables == markdown_tables(), "run 'make readme'"


def run(*arguments: str, columns: int = 200) -> str:
    result = CliRunner().invoke(cli, ["settings", *arguments], env={"COLUMNS": str(columns)})
    if result.exception is not None:
        raise result.exception
    return result.output


def test_a_word_filters_by_name_meaning_and_concern(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", "hunter2")
    found = run("judge")
    assert "JUDGE_FALLBACK_MODEL" in found
    assert "********" in found
    assert "hunter2" not in found
    assert "BROKER_URL" not in found
    assert "CONTAINER_CPUS" in run("Containers")
    assert all(name.upper() in run() for name in Settings.model_fields)
    with pytest.raises(ValidatorError, match="no setting has 'xyzzy'"):
        run("xyzzy")


def test_meanings_are_whole_at_80_columns_and_values_can_be_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    long = ",".join(f"https://{n}.drand.example.org" for n in range(5))
    monkeypatch.setenv("DRAND_URLS", long)
    for words in ((), ("drand",)):
        lines = run(*words, columns=80).splitlines()
        # a value stays one line, so that it is copied whole, however the terminal breaks it
        assert f"  DRAND_URLS={long}" in lines
        assert all(len(line) <= 80 for line in lines if "=" not in line)
        shown = " ".join(" ".join(lines).split())
        for name, field in Settings.model_fields.items():
            if not words or name == "drand_urls":
                assert f"{name.upper()}=" in shown
                assert " ".join((field.description or "").split()) in shown, name
