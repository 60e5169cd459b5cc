"""Where a process keeps its metrics for others to read: in the files of the lowest number that no living process holds.

prometheus_client names the files after the process, so every child that a worker replaces would leave its own behind. A
number is taken over from an ended process instead, and counting goes on from its values: the sums stay right, and there
are never more files than there were processes at once. The number is held by a lock, which the system frees with its
process.

A worker forks its children, and has imported the metrics before it knows where they are to be kept: it keeps its own in
a folder that is soon removed, and a child, whose number is another, begins in the folder that is named by then.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from contextlib import suppress
from functools import cache
from itertools import count
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout
from prometheus_client import multiprocess, values

from app.settings import get_settings

FOLDER_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"


def use() -> None:
    """Let the metrics that are defined from now on be kept so, where the environment names a folder, or in a worker."""
    if FOLDER_VARIABLE not in os.environ and _is_worker() and get_settings().metrics_port:
        os.environ[FOLDER_VARIABLE] = _Worker.folder = tempfile.mkdtemp(prefix="celery-validator-metrics-")
        _Worker.process = os.getpid()
    if FOLDER_VARIABLE in os.environ:
        values.ValueClass = values.MultiProcessValue(_number)  # type: ignore[no-untyped-call]


def keep_in(folder: Path) -> None:
    """Let the processes that this one starts from now on keep their metrics in a folder."""
    os.environ[FOLDER_VARIABLE] = str(folder)
    if _Worker.folder:
        shutil.rmtree(_Worker.folder, ignore_errors=True)


class _Worker:
    """This process, if it is a worker, and where it keeps its own metrics, which nobody reads."""

    folder = ""
    process = 0


def _is_worker() -> bool:
    program = Path(sys.argv[0])
    return "celery" in (program.name, program.parent.name) and "worker" in sys.argv


def forget_ended(folder: Path) -> None:
    """Remove what ended processes said about themselves, such as the tasks that they were running."""
    for path in folder.glob("*.lock"):
        lock = FileLock(path)
        with suppress(Timeout), lock.acquire(timeout=0):
            multiprocess.mark_process_dead(int(path.stem), str(folder))  # type: ignore[no-untyped-call]


def _number() -> int:
    # no child has the worker's number: it is by another number that a child knows itself forked
    return -1 if os.getpid() == _Worker.process else _number_of(os.getpid())


@cache
def _number_of(_: int) -> int:
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
