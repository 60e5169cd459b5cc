"""``competition …``, ``weights preview`` and the flags of ``run --netuid 21`` as their user types them."""

from __future__ import annotations

import json
import os
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

import pytest
from typer.testing import CliRunner, Result

import app.cli.run_models
import beat_schedule
from app.cli import cli
from app.cli.run import VALIDATORS, RunOptions
from app.competitions.profile import alpha_of
from app.domain import ValidatorError
from app.settings import get_settings
from app.store.competitions import Competitions
from app.store.database import Store
from chain.subtensor import ChainUnavailable
from tests.app.competitions.competition_fixtures import fill, scored
from workers import competitions as jobs

TABLE: dict[str, Any] = {
    "uids": [0, 1, 2, 111],
    "hotkeys": ["a", "b", "c", "burn"],
    "competitions": [
        {"id": "v1", "reward_percentage": 0.6, "baseline": 0.5, "scores": {"0": 0.9, "1": 0.4, "7": 0.9}},
        {"id": "v2", "reward_percentage": 0.4, "baseline": 0.5, "scores": {"2": None}},
        {"id": "v3", "reward_percentage": 0.4, "baseline": None, "scores": {"2": 1.0}},
    ],
    "reputations": {"b": 0.9},
    "previous": {"c": 1.0, "gone": 1.0},
    "alpha": 0.5,
    "burn_uid": 111,
}


def type_(*words: str) -> Result:
    return CliRunner().invoke(cli, list(words))


def preview(folder: Path, table: dict[str, Any], *words: str) -> Result:
    file = folder / "table.json"
    file.write_text(json.dumps(table))
    return type_("weights", "preview", "--input", str(file), *words)


def test_the_preview_prints_weights_pools_and_warnings(tmp_path: Path) -> None:
    found = json.loads(preview(tmp_path, TABLE, "--json").output)
    assert set(found) == {"weights", "pools", "warnings"}
    # new: 0.6·(0.75, 0.25) and 0.4 burnt; then half of it, and half of c's earlier 1.0
    assert found["weights"] == pytest.approx({"0": 0.225, "1": 0.075, "2": 0.5, "111": 0.2})
    assert found["pools"] == {
        "v1": {"above": [0], "below": [1]},
        "v2": {"above": [], "below": []},
        "v3": {"above": [], "below": []},
    }
    assert len(found["warnings"]) == 1
    assert "v3 has no baseline" in found["warnings"][0]


def test_the_preview_says_why(tmp_path: Path) -> None:
    shown = " ".join(preview(tmp_path, TABLE).output.split())
    for part in ("v1 above: 0.4500, score 0.9000", "v2 burn: 0.4000", "earlier weights (EMA)", "warning:"):
        assert part in shown


def test_a_missing_burn_uid_and_nan_are_no_error(tmp_path: Path) -> None:
    table = TABLE | {"burn_uid": 250, "alpha": 0.0}
    table["competitions"] = [
        {"id": "v", "reward_percentage": 1, "baseline": 0.5, "scores": {"0": float("nan"), "1": 0.4}}
    ]
    found = json.loads(preview(tmp_path, table, "--json").output)
    assert found["weights"] == {"0": 0.0, "1": 1.0, "2": 0.0, "111": 0.0}
    assert len(found["warnings"]) == 2


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"hotkeys": ["a"]}, "4 uids but 1 hotkeys"),
        ({"uids": [0, 0, 1, 2]}, "twice"),
        ({"alpha": 2}, "alpha"),
        ({"competitions": [{"id": "v", "reward_percentage": "many"}]}, "reward_percentage"),
    ],
)
def test_a_wrong_table_is_refused_in_words(tmp_path: Path, change: dict[str, Any], problem: str) -> None:
    found = preview(tmp_path, TABLE | change, "--json")
    assert isinstance(found.exception, ValidatorError)
    assert problem in str(found.exception)


def test_a_file_that_is_not_there_or_no_json_is_refused(tmp_path: Path) -> None:
    assert "cannot be read" in str(type_("weights", "preview", "--input", str(tmp_path / "no")).exception)
    (tmp_path / "bad").write_text("{")
    assert "no JSON" in str(type_("weights", "preview", "--input", str(tmp_path / "bad")).exception)


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
def test_the_preview_of_the_store(store: Store) -> None:
    fill(store, 2)
    scored(store, 2, 0.9)
    with store.writing() as session:
        Competitions(session).set_baseline("voicebench", 0.5, "test")
    found = json.loads(type_("weights", "preview", "--json").output)
    assert found["weights"]["2"] == 1.0
    assert found["pools"] == {"voicebench": {"above": [2], "below": []}}


def test_shares_are_percentages_of_what_runs() -> None:
    for name, words in {"a": ("--share", "1"), "b": ("--percentage", "3"), "c": ("--share", "4")}.items():
        assert type_("competition", "add", name, *words).exit_code == 0
    assert type_("competition", "archive", "c").exit_code == 0
    found = json.loads(type_("competition", "list", "--json", "--archived").output)["competitions"]
    assert {record["id"]: record["share"] for record in found} == {"a": 0.25, "b": 0.75, "c": None}
    assert "25.0 %" in type_("competition", "list").output


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
def test_competitions_are_managed_and_every_change_is_logged(store: Store) -> None:
    assert type_("competition", "add", "o1", "--share", "0.3").exit_code == 0
    assert type_("competition", "set-baseline", "o1", "0.41", "--by", "ann").exit_code == 0
    assert type_("competition", "set-baseline", "o1", "-0.5", "--by", "bob").exit_code == 0
    assert "o1" in type_("competition", "list", "--changes").output
    found = json.loads(type_("competition", "list", "--json", "--changes").output)
    assert found["competitions"] == [
        {
            "id": "o1",
            "reward_percentage": 0.3,
            "share": 1.0,
            "baseline": -0.5,
            "archived": False,
            "benchmark": None,
            "parameters": None,
        }
    ]
    assert [(c["by"], c["action"], c["detail"]) for c in found["changes"]][:2] == [
        ("bob", "set-baseline", "-0.5"),
        ("ann", "set-baseline", "0.41"),
    ]
    assert "@" in found["changes"][2]["by"]
    assert type_("competition", "archive", "o1").exit_code == 0
    assert json.loads(type_("competition", "list", "--json").output)["competitions"] == []
    assert json.loads(type_("competition", "list", "--json", "--archived").output)["competitions"][0]["archived"]
    for words in (
        ("competition", "add", "no spaces", "--percentage", "1"),
        ("competition", "add", "v", "--percentage", "-1"),
        ("competition", "add", "v", "--percentage", "nan"),
        ("competition", "set-baseline", "o1", "0.5"),
        ("competition", "archive", "unknown"),
    ):
        assert isinstance(type_(*words).exception, ValidatorError), words


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
def test_a_competition_is_given_a_benchmark_with_parameters(store: Store) -> None:
    words = ("--benchmark", "voicebench+mos", "--parameter", "set_weights=commoneval:2,ifeval:1.5")
    added = type_("competition", "add", "v4", "--percentage", "1", *words, "--parameter", "spoken_samples=3")
    assert (added.exit_code, added.stderr) == (0, "")
    assert "no benchmark is known for v5" in type_("competition", "add", "v5", "--percentage", "1").stderr
    assert type_("competition", "benchmark", "v5", "v2v", "--parameter", "voice_share=0.5").exit_code == 0

    def benchmarks() -> dict[str, tuple[str, dict[str, Any]]]:
        found = json.loads(type_("competition", "list", "--json").output)["competitions"]
        return {one["id"]: (one["benchmark"], one["parameters"]) for one in found}

    assert benchmarks() == {
        "v4": ("voicebench+mos", {"set_weights": {"commoneval": 2.0, "ifeval": 1.5}, "spoken_samples": 3}),
        "v5": ("v2v", {"voice_share": 0.5}),
    }
    assert type_("competition", "benchmark", "v5", "profile").exit_code == 0
    assert benchmarks()["v5"] == (None, None)
    for refused, problem in (
        (("poetry",), "there is no benchmark 'poetry'"),
        (("o1", "--parameter", "sets=bbh:1"), "parameter 'sets'"),
        (("o1", "--parameter", "samples"), "not KEY=VALUE"),
        (("o1", "--parameter", "samples=0"), "parameter 'samples'"),
    ):
        found = type_("competition", "benchmark", "v5", *refused)
        assert isinstance(found.exception, ValidatorError)
        assert problem in str(found.exception)


@pytest.fixture
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What ``run`` writes into the environment ends with the test."""
    for name in type(get_settings()).model_fields:
        monkeypatch.setenv(name.upper(), "")
        monkeypatch.delenv(name.upper())


@pytest.mark.parametrize("given", [True, False])
def test_the_flags_of_the_document_do_what_they_say(
    own_environment: None, store: Store, monkeypatch: pytest.MonkeyPatch, given: bool
) -> None:
    """With each flag, and without any."""
    monkeypatch.setattr(app.cli.run_models, "run_models", lambda _: None)
    chain_asked: list[bool] = []

    def unavailable() -> NoReturn:
        chain_asked.append(True)
        raise ChainUnavailable("no endpoint answers")

    monkeypatch.setattr(jobs, "open_chain", unavailable)
    flags = "--offline --dont_set_weights --alpha 0 --clean_period_minutes 7 --update_delay_minutes 3"
    assert type_("run", "--netuid", "21", *(flags.split() if given else [])).exit_code == 0
    settings = get_settings()
    pauses = {entry["task"].rsplit(".")[-1]: entry["schedule"] for entry in beat_schedule.timetable(settings).values()}
    assert (pauses["clean_models"] == timedelta(minutes=7), pauses["update_models"] == timedelta(minutes=3)) == (
        given,
        given,
    )
    assert alpha_of(settings) == (0.0 if given else 0.9)
    assert settings.sets_weights is not given
    assert jobs.sync_metagraph()["status"] == ("offline" if given else "failed")
    assert chain_asked == ([] if given else [True])


def test_the_flags_of_the_document_are_settings(own_environment: None, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[RunOptions] = []
    monkeypatch.setattr(app.cli.run_models, "run_models", ran.append)
    words = "run --netuid 21 --run_api --scoring_api_url http://a:1 --scoring_api_url http://b:2 --immediate --offline"
    words += " --dont_set_weights --alpha 0.5 --wallet.name w --wallet.hotkey h --subtensor.network test"
    words += " --clean_period_minutes 7 --update_delay_minutes 3 --no-flower"
    found = type_(*words.split())
    assert found.exit_code == 0, found.output
    settings = get_settings()
    assert (settings.netuid, settings.run_api, settings.immediate, settings.offline) == (21, True, True, True)
    assert settings.scoring_api_url == ("http://a:1", "http://b:2")
    assert (settings.dont_set_weights, settings.alpha) == (True, 0.5)
    assert (settings.wallet_name, settings.wallet_hotkey, settings.subtensor_network) == ("w", "h", "test")
    assert (settings.clean_period_minutes, settings.update_delay_minutes) == (7, 3)
    assert ran == [RunOptions(flower=False, api=True)]
    assert VALIDATORS[21] == "app.cli.run_models:run_models"
    for name in ("NETUID", "RUN_API", "SCORING_API_URL"):
        assert os.environ[name]
