"""Memory of the API while many fetch one epoch's result.json at once: ``python -m tests.benchmarks downloads``."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import requests

from app.cluster.embedded import port_taken
from app.settings import get_settings
from app.store.database import get_store
from app.store.schema import migrate
from tests.app.page_stores import full_epoch

AT_ONCE = 24
PORT = next(port for port in range(18_000, 18_100) if not port_taken("127.0.0.1", port))


def main() -> None:
    """Print the server's memory before, at its highest, and how long it took."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"DATA_DIR": folder, "API_PORT": str(PORT), "METRICS_PORT": "0"}
        get_settings.cache_clear()
        migrate(get_store())
        epoch = full_epoch(get_store())
        command = [sys.executable, "-m", "app", "api"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
            address = f"http://127.0.0.1:{PORT}"
            _await(f"{address}/epochs")
            before = _memory(server.pid)["VmRSS"]
            begun = time.monotonic()
            with ThreadPoolExecutor(AT_ONCE) as pool:
                sizes = set(pool.map(_size, [f"{address}/epochs/{epoch}/result.json"] * AT_ONCE))
            seconds = time.monotonic() - begun
            print(
                f"{AT_ONCE} at once of {sizes.pop() / 1e6:.1f} MB each in {seconds:.1f} s: "
                f"{before / 1024:.0f} MB before, {_memory(server.pid)['VmHWM'] / 1024:.0f} MB at most"
            )
            server.terminate()


def _size(address: str) -> int:
    with requests.get(address, stream=True, timeout=120) as answer:
        answer.raise_for_status()
        return sum(len(piece) for piece in answer.iter_content(1 << 16))


def _await(address: str) -> None:
    for _ in range(600):
        try:
            requests.get(address, timeout=10).raise_for_status()
            return
        except requests.RequestException:
            time.sleep(0.1)
    raise SystemExit("the server did not start")


def _memory(pid: int) -> dict[str, int]:
    """``VmRSS`` and ``VmHWM`` in KiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {line.split(":")[0]: int(line.split()[1]) for line in lines if line.startswith(("VmRSS", "VmHWM"))}


if __name__ == "__main__":
    main()
