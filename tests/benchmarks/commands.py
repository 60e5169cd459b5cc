"""How long the commands of the store take, from the start of Python to its end: median under 0.8 s each.

    python -m tests.benchmarks commands

Each runs as its user runs it, a process of its own, on a SQLite store with one epoch and one competition. Beside the
time on the clock stands the processor's, which says more where the machine has other work.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TARGET_SECONDS = 0.8
TIMES = 5

PROJECT = Path(__file__).parents[2]


def main() -> None:
    """Print the medians."""
    from app.store.database import Store
    from app.store.schema import migrate
    from tests.app.cli.store_commands import STORE_COMMANDS, fill

    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/store.sqlite"
        store = Store(url)
        migrate(store)
        fill(store)
        store.close()
        environment = os.environ | {"DATABASE_URL": url, "DATA_DIR": folder}
        print(f"median of {TIMES} runs, wall and CPU seconds, load {os.getloadavg()[0]:.1f}:", flush=True)
        # round after round, for a competition that is archived can be added again
        rounds = [[_timed(argv, environment) for argv in STORE_COMMANDS] for _ in range(TIMES)]
    slowest = 0.0
    for argv, times in zip(STORE_COMMANDS, zip(*rounds, strict=True), strict=True):
        wall, cpu = (statistics.median(values) for values in zip(*times, strict=True))
        slowest = max(slowest, wall)
        print(f"  {wall:.2f} {cpu:.2f}  {' '.join(argv)}")
    print(f"target {TARGET_SECONDS} s of wall: {'met' if slowest < TARGET_SECONDS else f'MISSED, {slowest:.2f} s'}")


def _timed(argv: tuple[str, ...], environment: dict[str, str]) -> tuple[float, float]:
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "app", *argv], cwd=PROJECT, env=environment, stdout=subprocess.DEVNULL, check=True
    )
    wall, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
