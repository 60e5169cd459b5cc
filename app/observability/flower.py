"""Flower as this validator shows it: behind its password, remembering over restarts, tasks in words (docs/logs.md)."""

from __future__ import annotations

import ast
import ipaddress
import os
from typing import Any, Final

from celery import Celery

from app.domain import ValidatorError
from app.observability.task_arguments import short_name
from app.settings import Settings

# How often what is known is written down (ms), and how much of it is kept.
_SAVE_EVERY: Final = 60_000
_MOST_TASKS: Final = 20_000

# A worker that is gone this long is forgotten (s): containers come back under other names.
_GONE: Final = 24 * 3600

# What a result says beside its status is in the arguments already.
_KNOWN_FROM_ARGUMENTS: Final = frozenset({"epoch", "uid", "batch", "status", "destination", "scoring"})


class FlowerError(ValidatorError):
    """Flower cannot be started as it is set up."""


def users(settings: Settings) -> list[str]:
    """Flower's ``user:password`` pairs.

    Raises:
        FlowerError: it would be open to other machines without a password.
    """
    if settings.flower_basic_auth is not None:
        return [user.strip() for user in settings.flower_basic_auth.get_secret_value().split(",")]
    if not is_loopback(settings.flower_address):
        raise FlowerError(
            f"Flower at FLOWER_ADDRESS={settings.flower_address} could be reached from other machines and can stop "
            "workers: set FLOWER_BASIC_AUTH=user:password, or FLOWER_ADDRESS=127.0.0.1"
        )
    return []


def is_loopback(address: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


def arguments(settings: Settings) -> list[str]:
    """Flower's command line; the password is not on it."""
    folder = settings.data_dir.expanduser().resolve() / "flower"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return [
        "flower",
        f"--address={settings.flower_address}",
        f"--port={settings.flower_port}",
        "--persistent=True",
        f"--db={folder / 'flower'}",
        f"--state_save_interval={_SAVE_EVERY}",
        f"--max_tasks={_MOST_TASKS}",
        f"--purge_offline_workers={_GONE}",
        "--tasks_columns=name,args,kwargs,state,result,received,started,runtime,worker,uuid",
        # tornado would set up the log again
        "--logging=none",
        # who needs no password may look, but stop no worker
        *([] if settings.flower_basic_auth else ["--read_only=True"]),
    ]


def serve(settings: Settings, app: Celery) -> None:
    """Run Flower in this process until SIGTERM or Ctrl-C.

    Raises:
        FlowerError: see :func:`users`.
    """
    allowed = users(settings)
    # Flower reads FLOWER_… itself; the settings, which know .env and secret files too, have the last word
    os.environ.pop("FLOWER_BASIC_AUTH", None)
    from flower.options import options

    options.format_task = readable
    if allowed:
        options.basic_auth = allowed
    app.start(argv=arguments(settings))


def readable(task: Any) -> Any:
    """A copy of Flower's task with a short name and a result in words; the arguments are words since they were sent."""
    task.name = short_name(task.name or "")
    if task.result:
        task.result = _in_words(str(task.result))
    return task


def _in_words(result: str) -> str:
    """``{'epoch': 3, 'uid': 17, 'status': 'valid'}`` → ``valid``."""
    try:
        found = ast.literal_eval(result)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return result
    if not isinstance(found, dict) or "status" not in found:
        return result
    rest = [f"{name}={value}" for name, value in found.items() if name not in _KNOWN_FROM_ARGUMENTS]
    return " ".join([str(found["status"]), *rest])
