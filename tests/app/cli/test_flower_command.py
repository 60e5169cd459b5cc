"""Flower as it is set up: never open to others without a password, tasks in words."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from app.observability.flower import FlowerError, arguments, is_loopback, readable, users
from app.observability.task_arguments import STAGES, subject, written
from app.settings import Settings, SettingsError, get_settings

PROJECT = Path(__file__).parents[3]


def test_an_open_flower_beyond_this_machine_is_refused() -> None:
    with pytest.raises(FlowerError, match="FLOWER_BASIC_AUTH"):
        users(Settings(flower_address="0.0.0.0", _env_file=None))
    assert users(Settings(_env_file=None)) == []
    both = Settings(flower_address="0.0.0.0", flower_basic_auth="one:first-pw,two:second-pw", _env_file=None)
    assert users(both) == ["one:first-pw", "two:second-pw"]


def test_the_command_refuses_with_a_sentence(tmp_path: Path) -> None:
    environment = {**os.environ, "FLOWER_ADDRESS": "0.0.0.0", "DATA_DIR": str(tmp_path), "PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-m", "app", "flower"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "FLOWER_BASIC_AUTH=user:password" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "10.0.0.1", "validator.example"])
def test_addresses_that_others_reach(address: str) -> None:
    assert not is_loopback(address)


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_addresses_of_this_machine_alone(address: str) -> None:
    assert is_loopback(address)


def test_the_password_is_not_on_the_command_line(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, flower_basic_auth="operator:marked-pw", _env_file=None)
    assert "marked" not in " ".join(arguments(settings))
    assert f"--db={tmp_path / 'flower' / 'flower'}" in arguments(settings)
    assert "--read_only=True" not in arguments(settings)
    assert "--read_only=True" in arguments(Settings(data_dir=tmp_path, _env_file=None)), (
        "who has no password looks only"
    )


@pytest.mark.parametrize("text", ["operator", "operator:", ":password", "a:b,c"])
def test_a_password_that_is_none_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWER_BASIC_AUTH", text)
    get_settings.cache_clear()
    with pytest.raises(SettingsError, match="FLOWER_BASIC_AUTH: expected user:password") as refused:
        get_settings()
    assert text not in str(refused.value).replace("user:password", "")


@pytest.mark.parametrize(
    ("result", "shown"),
    [
        ("{'epoch': 3, 'uid': 17, 'status': 'valid'}", "valid"),
        ("{'status': 'announced', 'epoch': 5, 'missed': 2}", "announced missed=2"),
        ("{'moved': []}", "{'moved': []}"),
        ("'...cut", "'...cut"),
        (None, None),
    ],
)
def test_results_in_words(result: str | None, shown: str | None) -> None:
    task = SimpleNamespace(name="workers.submissions.examine_submission", result=result)
    assert readable(task).result == shown
    assert task.name == "examine_submission"


def test_arguments_in_words() -> None:
    def examine(epoch_id: int, uid: int) -> None: ...
    def evaluate(hf_repo_id: str, block: int = 0, **kwargs: object) -> None: ...

    # the store knows no epoch 3: its id is shown
    assert written(subject(examine, (3, 17), {})) == "epoch_id=3 uid=17"
    assert (
        written(subject(evaluate, (), {"hf_repo_id": "a/b", "block": 5, "hotkey": "5F"}))
        == "hf_repo=a/b block=5 hotkey=5F"
    )
    assert subject(examine, (1, 2, 3), {}) == {}, "wrong arguments are the task's own affair"
    assert len(written(subject(evaluate, ("x" * 1000,), {}))) < 100


def test_every_step_of_an_epoch_has_a_stage() -> None:
    from app.celery import ROUTES

    names = {name.rpartition(".")[2] for name in ROUTES}
    assert set(STAGES) <= names
