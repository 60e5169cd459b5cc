"""A process that evaluates over and over in children of its own, so that a test can kill one at any moment.

``python killed_evaluation.py ENGINE HUB ROOT``: each line ``ID`` on standard input forks a child that runs one
evaluation of that id; the child's process id is answered at once, and ``done`` or ``killed`` when it has ended.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from pathlib import Path

from gpu.evaluation.contract import Deadline, ModelSource
from gpu.evaluation.locks import MIB, Locks
from gpu.evaluation.repository import ModelHub
from gpu.evaluation.sandbox import DockerSandbox, Limits

RUNNING_SECONDS = 0.15


def evaluate(engine: str, hub: str, root: Path, evaluation: str) -> None:
    limits = Limits(disk_reserve=0, build_memory=256 * MIB, health_pause=0.02, locks=Locks(memory=256 * MIB))
    sandbox = DockerSandbox(root / "evaluations", root / "logs", ModelHub(hub), limits, engine)
    with sandbox.running(ModelSource(evaluation, "someone/model", None, "5Hotkey", "v1"), Deadline(100)):
        time.sleep(RUNNING_SECONDS)


def main(engine: str, hub: str, root: str) -> None:
    # imported before the first fork, so that the children begin at once
    import docker.api  # noqa: F401
    import huggingface_hub  # noqa: F401
    from huggingface_hub import HfApi  # noqa: F401

    print("ready", flush=True)
    for line in sys.stdin:
        child = os.fork()
        if not child:
            code = 1
            try:
                signal.alarm(120)
                evaluate(engine, hub, Path(root), line.strip())
                code = 0
            except Exception:
                traceback.print_exc()
            finally:
                os._exit(code)
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        print("killed" if os.WIFSIGNALED(status) else f"done {os.waitstatus_to_exitcode(status)}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
