"""Secrets from files, and passwords put into addresses."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.settings import Settings, SettingsError, get_settings
from app.settings.secret_files import secret_names


def _file(folder: Path, text: str) -> str:
    path = folder / "secret"
    path.write_text(text)
    return str(path)


FITTING = {
    "broker_url": "redis://:p@h/0",
    "result_backend": "redis://:p@h/1",
    "database_url": "sqlite:///x",
    "flower_basic_auth": "ann:hunter2hunter2",
}


@pytest.mark.parametrize("name", secret_names(Settings))
def test_every_secret_may_lie_in_a_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = FITTING.get(name, "s")
    monkeypatch.setenv(f"{name.upper()}_FILE", _file(tmp_path, f"{text}\n"))
    assert getattr(get_settings(), name).get_secret_value() == text


def test_the_file_may_be_named_in_dotenv(tmp_path: Path) -> None:
    Path(".env").write_text(f"GITHUB_TOKEN_FILE={_file(tmp_path, 'ghp_1')}\n")
    token = get_settings().github_token
    assert token is not None
    assert token.get_secret_value() == "ghp_1"


def test_an_empty_name_is_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_TOKEN_FILE", "")
    assert get_settings().github_token is None


def test_settings_that_end_in_file_are_not_taken_for_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RULES_FILE", str(tmp_path / "rules.yaml"))
    monkeypatch.setenv("NETUID_FILE", str(tmp_path / "missing"))
    assert get_settings().rules_file == tmp_path / "rules.yaml"
    assert get_settings().netuid == 68


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "does not exist; make the file, or unset HF_TOKEN_FILE"),
        ("one\nhunter2\n", "must hold the secret on one line, and holds 2"),
    ],
)
def test_a_file_that_cannot_be_used_is_a_sentence(
    content: str | None, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "missing") if content is None else _file(tmp_path, content)
    monkeypatch.setenv("HF_TOKEN_FILE", path)
    with pytest.raises(SettingsError) as caught:
        get_settings()
    assert str(caught.value).startswith(f"HF_TOKEN_FILE: {path} ")
    assert sentence in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_an_empty_file_is_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN_FILE", _file(tmp_path, "\n"))
    assert get_settings().hf_token is None


def test_a_folder_that_docker_made_is_named_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN_FILE", str(tmp_path))
    with pytest.raises(SettingsError, match="is a folder; Docker makes one"):
        get_settings()


def test_bytes_that_are_no_text_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret").write_bytes(b"\xff\xfe")
    monkeypatch.setenv("HF_TOKEN_FILE", str(tmp_path / "secret"))
    with pytest.raises(SettingsError, match="no UTF-8 text"):
        get_settings()


def test_a_file_that_this_user_may_not_read_says_who_and_what_to_do(tmp_path: Path) -> None:
    path = Path(_file(tmp_path, "s"))
    path.chmod(0o400)
    script = (
        "import os, sys; sys.path.insert(0, sys.argv[1])\n"
        "from app.settings import SettingsError, get_settings\n"
        "if os.geteuid() == 0:\n"
        "    os.setgid(10001); os.setuid(10001)\n"
        "else:\n"
        "    os.chmod(os.environ['HF_TOKEN_FILE'], 0)\n"
        "try:\n"
        "    get_settings()\n"
        "except SettingsError as error:\n"
        "    print(error)\n"
    )
    for parent in (tmp_path, *tmp_path.parents):
        if parent.is_relative_to("/tmp"):
            parent.chmod(0o755)
    said = subprocess.run(
        [sys.executable, "-c", script, str(Path(__file__).parents[3])],
        env={"PATH": os.environ["PATH"], "HF_TOKEN_FILE": str(path)},
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    ).stdout
    assert said.startswith("HF_TOKEN_FILE: user ")
    assert f"may not read {path}" in said
    assert "chgrp" in said


def test_a_secret_given_twice_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "a")
    monkeypatch.setenv("HF_TOKEN_FILE", _file(tmp_path, "b"))
    with pytest.raises(SettingsError, match="HF_TOKEN and HF_TOKEN_FILE are both set"):
        get_settings()


@pytest.mark.parametrize(
    ("url", "joined"),
    [
        ("redis://redis:6379/0", "redis://:p%40%2F%3A%23@redis:6379/0"),
        (
            "rediss://user@redis:6379/0?ssl_cert_reqs=none",
            "rediss://user:p%40%2F%3A%23@redis:6379/0?ssl_cert_reqs=none",
        ),
        ("redis://:own@redis:6379/0", "redis://:own@redis:6379/0"),
        ("redis://[::1]:6379/0", "redis://:p%40%2F%3A%23@[::1]:6379/0"),
    ],
)
def test_the_broker_gets_the_password_it_lacks(url: str, joined: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROKER_URL", url)
    monkeypatch.setenv("BROKER_PASSWORD", "p@/:#")
    assert get_settings().broker.url == joined
    assert get_settings().results.url == joined


def test_clients_read_the_joined_password_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    import redis
    from kombu.utils.url import parse_url
    from sqlalchemy import make_url

    monkeypatch.setenv("BROKER_URL", "redis://redis:6379/0")
    monkeypatch.setenv("BROKER_PASSWORD", "p@/:#%")
    monkeypatch.setenv("DATABASE_URL", "postgresql://validator@db/validator?sslmode=require")
    monkeypatch.setenv("DATABASE_PASSWORD", "p@/:#%")
    settings = get_settings()
    with redis.Redis.from_url(settings.broker.url) as client:
        assert client.connection_pool.connection_kwargs["password"] == "p@/:#%"
    assert parse_url(settings.broker.url)["password"] == "p@/:#%"
    url = make_url(settings.store_url)
    assert (url.drivername, url.username, url.password) == ("postgresql+psycopg", "validator", "p@/:#%")
    assert url.query["sslmode"] == "require"


def test_sqlite_and_socket_addresses_take_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_PASSWORD", "p")
    monkeypatch.setenv("DATABASE_URL", "sqlite:////tmp/x.sqlite")
    assert get_settings().store_url == "sqlite:////tmp/x.sqlite"
    get_settings.cache_clear()
    monkeypatch.setenv("DATABASE_URL", "postgresql:///validator?host=/run/postgresql")
    assert get_settings().store_url == "postgresql+psycopg:///validator?host=/run/postgresql"


def test_celerys_own_command_line_takes_the_joined_address(tmp_path: Path) -> None:
    script = (
        "import click\n"
        "from celery.bin.celery import celery\n"
        "@celery.command()\n"
        "@click.pass_context\n"
        "def probe(context):\n"
        "    print(context.obj.app.conf.broker_url)\n"
        "celery.main(['-A', 'app', 'probe'])\n"
    )
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(Path(__file__).parents[3]),
        "BROKER_URL": "redis://redis:6379/0",
        "BROKER_PASSWORD_FILE": _file(tmp_path, "hunter2"),
    }
    said = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True, cwd=tmp_path
    ).stdout
    assert said.strip() == "redis://:hunter2@redis:6379/0"
