"""Runs evaluations in a process of their own (``killed_evaluation.py``) and kills them when it is told to."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path


class Killer:
    """Starts evaluations in a process of their own and kills them."""

    def __init__(self, address: str, hub: str, root: Path) -> None:
        environment = {k: v for k, v in os.environ.items() if k != "HF_HUB_OFFLINE"}
        environment["PYTHONPATH"] = str(Path(__file__).parents[3])
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).parent / "killed_evaluation.py"), address, hub, str(root)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert self._answer() == "ready"

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def run(self, evaluation: str, kill_when: Callable[[], bool] | None = None) -> str:
        """``killed``, or ``done CODE`` where the evaluation was over before ``kill_when`` said yes."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{evaluation}\n")
        self._process.stdin.flush()
        child = int(self._answer())
        if kill_when is not None:
            with contextlib.suppress(ProcessLookupError):
                process = os.pidfd_open(child)
                while not select.select([process], [], [], 0)[0] and not kill_when():
                    time.sleep(0.002)
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(process, signal.SIGKILL)
                os.close(process)
        return self._answer()

    def close(self) -> None:
        self._process.communicate(timeout=10)
