"""The processes of a worker's pool, as the system sees them."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def pool_children(worker: int | None) -> list[int]:
    """The children that run a worker's tasks: forked, so that their command line is the worker's own."""
    with suppress(OSError):
        children = Path(f"/proc/{worker}/task/{worker}/children").read_text().split()
        own = Path(f"/proc/{worker}/cmdline").read_bytes()
        return [int(child) for child in children if _command_line(child) == own]
    return []


def _command_line(pid: str) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""
