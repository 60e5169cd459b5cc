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


def processes_of(data: Path) -> list[str]:
    """The command lines of processes whose DATA_DIR is this folder or one below it."""
    found = []
    for process in Path("/proc").iterdir():
        with suppress(OSError):
            if process.name.isdigit() and f"\0DATA_DIR={data}".encode() in b"\0" + (process / "environ").read_bytes():
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found
