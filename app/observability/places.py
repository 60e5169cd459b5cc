"""Where a process keeps its metrics for others to read: in the files of the lowest number that no living process holds.

prometheus_client names the files after the process, so every child that a worker replaces would leave its own behind. A
number is taken over from an ended process instead, and counting goes on from its values: the sums stay right, and there
are never more files than there were processes at once. The number is held by a lock, which the system frees with its
process.
"""

from __future__ import annotations

import os
from contextlib import suppress
from functools import cache
from itertools import count
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout
from prometheus_client import multiprocess, values

FOLDER_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"


def use() -> None:
    """Let the metrics that are defined from now on be kept so, where the environment names a folder."""
    if FOLDER_VARIABLE in os.environ:
        values.ValueClass = values.MultiProcessValue(_own)  # type: ignore[no-untyped-call]


def forget_ended(folder: Path) -> None:
    """Take away what ended processes said about themselves, such as the tasks that they were running."""
    for path in folder.glob("*.lock"):
        lock = FileLock(path)
        with suppress(Timeout), lock.acquire(timeout=0):
            multiprocess.mark_process_dead(int(path.stem), str(folder))  # type: ignore[no-untyped-call]


@cache
def _own() -> int:
    folder = Path(os.environ[FOLDER_VARIABLE])
    for number in count():
        lock = FileLock(folder / f"{number}.lock")
        with suppress(Timeout):
            lock.acquire(timeout=0)
            _held.append(lock)
            multiprocess.mark_process_dead(number, str(folder))  # type: ignore[no-untyped-call]
            return number
    raise AssertionError("numbers do not end")


# A lock that nobody refers to is released.
_held: list[FileLock] = []
