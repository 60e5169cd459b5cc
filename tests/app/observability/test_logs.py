"""Logs: one line per event whatever others wrote, with its task's subject, and never a secret."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.observability import logs
from app.observability.logs import HumanLines, JsonLines, configuration, logged_with
from app.observability.redaction import MARK, Redaction, redaction, secrets_of
from app.settings import Settings, get_settings

PROJECT = Path(__file__).parents[3]

log = logging.getLogger("celery_validator.tests.logs")

Written = Callable[[], str]


@pytest.fixture(params=["human", "json"])
def written(request: pytest.FixtureRequest) -> Iterator[Written]:
    """What was logged in this test, as it would be printed, in each format."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(HumanLines("cpu") if request.param == "human" else JsonLines("cpu"))
    log.addHandler(handler)
    log.propagate = False
    log.setLevel(logging.DEBUG)
    redaction.cache_clear()
    yield stream.getvalue
    log.removeHandler(handler)
    log.propagate = True
    redaction.cache_clear()


def emitted(formatter: logging.Formatter, message: str, *args: object) -> str:
    return formatter.format(logging.LogRecord("x", logging.INFO, "f", 1, message, args, None))


# -- lines -------------------------------------------------------------------------------------------------------------


def test_a_human_line_says_who_and_about_what() -> None:
    fields = {"task": "examine_submission", "epoch": 21455, "epoch_id": 3, "uid": 17, "task_id": "1b2c3d4e-5f60"}
    with logged_with(fields):
        line = emitted(HumanLines("cpu"), "finished in %.1f s: %s", 1.23, "valid")
    time, rest = line[:23], line[24:]
    assert len(time) == len("2026-11-22 04:05:06.123")
    assert rest.split() == [
        *("INFO", f"cpu/{os.getpid()}", "examine_submission", "epoch=21455", "uid=17"),
        *("finished", "in", "1.2", "s:", "valid", "task=1b2c3d4e"),
    ]


def test_a_json_line_has_every_field() -> None:
    with logged_with({"task": "score_boltz", "epoch": 7, "epoch_id": 3, "batch": 2, "task_id": "1b2c3d4e-5f60"}):
        line = json.loads(emitted(JsonLines("gpu"), "hello"))
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "info",
        "process": "gpu",
        "pid": os.getpid(),
        "logger": "x",
        "message": "hello",
        "task": "score_boltz",
        "epoch": 7,
        "epoch_id": 3,
        "batch": 2,
        "task_id": "1b2c3d4e-5f60",
    }


@given(st.text())
def test_untrusted_text_is_one_line(text: str) -> None:
    with logged_with({"task": "check_repository", "hotkey": text, "task_id": text}):
        for formatter in (HumanLines("cpu"), JsonLines("cpu")):
            line = emitted(formatter, "path %s", text)
            assert len(line.splitlines()) == 1
            line.encode()
            assert "\x1b" not in line
    assert json.loads(line)["process"] == "cpu"


def test_a_forged_line_stays_inside_its_own(written: Written) -> None:
    log.warning("path %s", "a/b\n2026-01-01 00:00:00.000 INFO     chain/1 weights set\r\x1b[2K\u202e")
    assert len(written().splitlines()) == 1
    assert "\\n2026-01-01" in written()


def test_an_exception_is_part_of_its_event(written: Written) -> None:
    try:
        raise ValueError("no\n2026-01-01 00:00:00.000 INFO     chain/1 forged")
    except ValueError:
        log.exception("it failed")
    first, *others = written().splitlines()
    if first.startswith("{"):
        assert others == []
        assert json.loads(first)["exception"] == "ValueError"
        assert "Traceback" in json.loads(first)["traceback"]
    else:
        assert others
        assert all(line.startswith("    ") for line in others)


def test_a_long_message_is_cut() -> None:
    assert len(emitted(HumanLines("cpu"), "x" * 1_000_000)) < 10_000


@pytest.mark.parametrize(
    "text", ["x" * 200_000, "a://" * 5_000, "password" * 30_000, "token " * 30_000, "mnemonic a " * 20_000]
)
def test_no_untrusted_text_makes_redaction_slow(text: str) -> None:
    began = time.process_time()
    Redaction()(text)
    assert time.process_time() - began < 3


def test_a_librarys_wrong_arguments_cost_no_line() -> None:
    assert "no number" in emitted(HumanLines("cpu"), "%d of %s", "no number")


# -- context -----------------------------------------------------------------------------------------------------------


def test_threads_that_a_task_starts_carry_its_subject() -> None:
    with logged_with({"epoch": 5}, whole_process=True), ThreadPoolExecutor(1) as pool:
        assert pool.submit(logs.log_context).result() == {"epoch": 5}
    assert logs.log_context() == {}


def test_contexts_nest_and_end() -> None:
    with logged_with({"epoch": 5, "uid": 1}):
        with logged_with({"uid": 2}):
            assert logs.log_context() == {"epoch": 5, "uid": 2}
        assert logs.log_context() == {"epoch": 5, "uid": 1}
    seen: list[object] = []
    with logged_with({"epoch": 6}):
        thread = threading.Thread(target=lambda: seen.append(dict(logs.log_context())))
        thread.start()
        thread.join()
    assert seen == [{}], "without whole_process a thread is on its own"


def test_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    quiet = configuration("cpu", settings=Settings(log_level="ERROR", _env_file=None))
    assert quiet["root"]["level"] == "ERROR"
    assert quiet["loggers"]["kombu"]["level"] == "ERROR", "a library is never louder than LOG_LEVEL"
    loud = configuration("cpu", settings=Settings(log_level="DEBUG", _env_file=None))
    assert loud["root"]["level"] == "DEBUG"
    assert loud["loggers"]["httpcore"]["level"] == "INFO", "its debug lines hold headers"
    assert configuration("cpu", level="DEBUG", settings=Settings(_env_file=None))["root"]["level"] == "DEBUG"


# -- secrets -----------------------------------------------------------------------------------------------------------

PRIVATE = "s3cr3t-Marked/Value+1"


@pytest.mark.parametrize(
    "text",
    [
        f"redis://:{PRIVATE}@host:6379/0",
        f"redis://user:{PRIVATE}@host:6379/0",
        f"postgresql+psycopg://nova:{PRIVATE}@host/db",
        f"https://user:{PRIVATE}@github.com/a/b.git",
        f"https://{PRIVATE.replace('/', '')}@github.com/a/b.git".replace(PRIVATE.replace("/", ""), "ghx" + "s3cr3t"),
        f"https://host/path?access_token={PRIVATE}&x=1",
        f"{{'Authorization': 'Bearer {PRIVATE}', 'Accept': '*/*'}}",
        f"[('Authorization', 'Bearer {PRIVATE}')]",
        f"[(b'authorization', b'Basic {PRIVATE}')]",
        f"Authorization: Bearer {PRIVATE}",
        f'"X-Signature": "{PRIVATE}"',
        f"X-Signature: {PRIVATE}",
        f"wallet_password={PRIVATE}",
        f'{{"secretPhrase": "{PRIVATE}"}}',
        f"secretSeed='{PRIVATE}'",
        f"api_key={PRIVATE})",
        f"BT_PW_WALLET_PASSWORD: {PRIVATE}",
    ],
)
def test_secrets_are_known_by_where_they_stand(text: str) -> None:
    shown = Redaction()(text)
    assert "s3cr3t" not in shown
    assert MARK in shown


WORDS = "bottom drive obey lake curtain smoke basket hold race lonely fit walk"


@pytest.mark.parametrize(
    "text", [f"mnemonic: {WORDS}", f'"mnemonic": "{WORDS}"', f"seed phrase {WORDS}", f"--mnemonic {WORDS}"]
)
def test_a_wallets_words_are_not_written(text: str) -> None:
    assert "lonely" not in Redaction()(text)


@pytest.mark.parametrize(
    "token", ["ghp_" + "a1B2" * 9, "github_pat_" + "a1B2" * 9, "hf_" + "aBcD" * 8, "sk-" + "a1B2" * 9]
)
def test_tokens_with_a_face_are_not_written(token: str) -> None:
    assert Redaction()(f"refused {token}.") == f"refused {MARK}."


@pytest.mark.parametrize(
    "text",
    [
        "examine_submission epoch=21455 uid=17 finished in 1.2 s: valid",
        "the store postgresql+psycopg://nova@host/db does not answer",
        "wrong username or password, check DATABASE_URL",
        "basic authentication is off (API_BASIC)",
        "the token that GitHub refuses",
        "https://api.github.com/repos/a/b/commits?path=c.txt&per_page=1",
        "sha256:738e5509692aa3a62227 of owner/repository@main",
        "5F3sa2TJAWMqDhXG6jhV4N8ko9SxwGy8TpaNS1repo5EYjQX",
    ],
)
def test_ordinary_lines_stay_as_they_are(text: str) -> None:
    assert Redaction()(text) == text


MARKED = {
    "BROKER_URL": "redis://:marked-broker-pw@127.0.0.1:1/0",
    "RESULT_BACKEND": "redis://:marked-result-pw@127.0.0.1:1/1",
    "DATABASE_URL": "postgresql://nova:marked-store-pw@127.0.0.1:1/nova",
    "FLOWER_BASIC_AUTH": "operator:marked-flower-pw",
    "GITHUB_TOKEN": "marked-github-token",
    "HF_TOKEN": "marked-hf-token",
    "SUBMIT_RESULTS_KEY": "marked-results-key",
    "MONITORING_KEY": "marked-monitoring-key",
}


def test_every_secret_of_the_settings_is_known(written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = [name for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)]
    assert len(hidden) >= len(MARKED)
    for name in hidden:
        monkeypatch.setenv(name.upper(), MARKED.get(name.upper(), f"marked-{name}-pw"))
    get_settings.cache_clear()
    secrets = [getattr(get_settings(), name) for name in hidden]
    for secret in secrets:
        plain = secret.get_secret_value()
        password = plain.split("@")[0].rsplit(":", 1)[-1]
        log.info("message %s", plain)
        log.info("argument %r", {"nested": [password]})
        try:
            raise RuntimeError(f"failed with {password!r}")
        except RuntimeError:
            log.exception("traceback")
    assert "traceback" in written()
    assert "marked" not in written()


def test_a_secret_with_quotes_is_found_in_json_and_repr(written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUBMIT_RESULTS_KEY", 'with "quotes" and ünïcode\\')
    get_settings.cache_clear()
    secret = get_settings().submit_results_key
    assert secret is not None
    log.info("%s %r %s", secret.get_secret_value(), secret.get_secret_value(), json.dumps(secret.get_secret_value()))
    assert "quotes" not in written()


def test_passwords_of_the_environment_are_known() -> None:
    found = set(
        secrets_of(
            Settings(_env_file=None), {"WALLET_PASSWORD": "marked-wallet", "PATH": "/usr/bin", "X_TOKEN_FILE": "/run/x"}
        )
    )
    assert "marked-wallet" in found
    assert "/usr/bin" not in found
    assert "/run/x" not in found


@pytest.mark.parametrize(
    "command",
    [
        ["-m", "app", "epoch", "list"],
        ["-m", "app", "api"],
        ["-m", "celery", "-A", "app", "worker", "-Q", "cpu"],
        ["-m", "app", "doctor"],
    ],
    ids=["cli", "api", "worker", "doctor"],
)
def test_real_processes_fail_without_telling_a_secret(tmp_path: Path, command: list[str]) -> None:
    """Wrong Redis, wrong PostgreSQL, at the most talkative level: whatever they print, no secret is in it."""
    environment = {**os.environ, **MARKED, "DATA_DIR": str(tmp_path), "LOG_LEVEL": "DEBUG", "PYTHONPATH": str(PROJECT)}
    environment |= {"METRICS_PORT": "0", "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, *command], env=environment, cwd=tmp_path, capture_output=True, timeout=120, check=False
    )
    output = (done.stdout + done.stderr).decode(errors="replace")
    assert done.returncode != 0
    assert "does not answer" in output or "refused" in output, output
    assert "marked" not in output
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"marked" in path.read_bytes()]


def test_an_uncaught_exception_goes_through_the_log(tmp_path: Path) -> None:
    program = (
        "from app.observability.logs import configure; import threading; configure('probe');"
        "t = threading.Thread(target=lambda: 1 / 0); t.start(); t.join();"
        "raise RuntimeError('at redis://:marked-pw@host/0')"
    )
    environment = {**os.environ, "DATA_DIR": str(tmp_path), "PYTHONPATH": str(PROJECT), "LOG_FORMAT": "json"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["exception"] for line in lines] == ["ZeroDivisionError", "RuntimeError"]
    assert "marked" not in done.stderr
