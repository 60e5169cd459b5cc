"""Runs commands, each in a fork of a process that has loaded the libraries: ``python forked_commands.py SECONDS``.

Reads one JSON object a line (``argv``, ``environment``, ``folder``, perhaps ``seconds``); writes one
a line (``status``, ``output``); status None means that the command had not ended in time.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import alembic.command
import celery
import kombu
import redis
import sqlalchemy.orm
import uvicorn

import app.cli
from app.settings import get_settings

for _verb in app.cli.VERBS.values():
    importlib.import_module(_verb.partition(":")[0])
LIBRARIES = (alembic, celery, kombu, redis, sqlalchemy, uvicorn)


def run(case: dict[str, Any], seconds: float) -> dict[str, Any]:
    output = Path(case["folder"]) / "output.txt"
    child = os.fork()
    if child == 0:
        os.setsid()
        descriptor = os.open(output, os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.chdir(case["folder"])
        os.environ.update(case["environment"], COLUMNS="400")
        sys.argv = ["app", *case["argv"]]
        get_settings.cache_clear()
        status = 70
        try:
            app.cli.main()
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
            if isinstance(end.code, str):
                print(end.code)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    deadline = time.monotonic() + seconds
    status: int | None = None
    while status is None and time.monotonic() < deadline:
        ended, code = os.waitpid(child, os.WNOHANG)
        status = os.waitstatus_to_exitcode(code) if ended else None
        time.sleep(0.02)
    if status is None:
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return {"status": status, "output": output.read_text(errors="replace")}


if __name__ == "__main__":
    for line in sys.stdin:
        asked = json.loads(line)
        print(json.dumps(run(asked, asked.get("seconds", float(sys.argv[1])))), flush=True)
