"""``up`` as an operator meets it: it says where everything is, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.cluster

PROJECT = Path(__file__).parents[2]
NAMES = ("redis", "chain", "cpu", "gpu", "beat", "flower", "api")


Running = tuple[subprocess.Popen[str], dict[str, int], int, int]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Running]:
    """The running command, the process ids that it printed, and its two ports."""
    port, api_port = free_port(), free_port()
    environment = {**os.environ, "DATA_DIR": str(tmp_path / "data"), "PYTHONPATH": str(PROJECT)}
    environment |= {
        "FLOWER_PORT": str(port),
        "API_PORT": str(api_port),
        "CPU_CONCURRENCY": "1",
        "COLUMNS": "200",
        "PYTHONUNBUFFERED": "1",
    }
    log = tmp_path / "up.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "app", "up"], env=environment, stdout=output, stderr=output, text=True, cwd=tmp_path
        )
    deadline = time.monotonic() + 90
    while "Ctrl-C stops everything" not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)
    pids = {name: int(pid) for name, pid in re.findall(r"│ (\w+) +│ process (\d+)", log.read_text())}
    assert set(NAMES) <= set(pids)
    yield process, pids, port, api_port
    process.kill()
    process.wait()


def tree(pids: dict[str, int]) -> set[int]:
    """The processes and their children."""
    found = set(pids.values())
    for pid in pids.values():
        for task in Path(f"/proc/{pid}/task").iterdir():
            found |= {int(child) for child in (task / "children").read_text().split()}
    return found


def gone(pids: set[int], seconds: float = 45) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        # a zombie has ended; its new parent reaps it
        alive = [pid for pid in pids if _state(pid) not in {"", "Z"}]
        if not alive:
            return True
        time.sleep(0.2)
    return False


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return ""


def shown_queues(port: int) -> dict[str, str]:
    """Queue → number of workers, as the home page has it."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}/", headers={"Accept": "text/html"})
    with urllib.request.urlopen(request) as page:
        html = page.read().decode()
    return dict(
        re.findall(r'<th scope="row">(\w+)</th>(?:\s*<td class="num">[^<]*</td>){2}\s*<td class="num">(\w+)', html)
    )


def test_up_shows_flower_and_the_pages_and_stops_on_sigterm(up: Running) -> None:
    process, pids, port, api_port = up
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/") as page:
        assert b"Flower" in page.read()
    deadline = time.monotonic() + 30
    while shown_queues(api_port) != {"chain": "1", "cpu": "1", "gpu": "1"}:
        assert time.monotonic() < deadline, shown_queues(api_port)
        time.sleep(0.5)
    everything = tree(pids)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    assert gone(everything, 5)


def test_nothing_outlives_an_up_that_was_killed(up: Running) -> None:
    process, pids, *_ = up
    everything = tree(pids)
    process.kill()
    process.wait()
    assert gone(everything)
