"""What a container could reach of the host itself: an internal network ends at the host, not before it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

_LISTENING: Final = "0A"
_EVERYWHERE: Final = {"0" * 8, "0" * 32}
_TABLES: Final = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))


def ports_open_to_containers(tables: Iterable[Path] = _TABLES) -> tuple[int, ...]:
    """The TCP ports on which this host listens at every address, a container network's gateway included."""
    ports: set[int] = set()
    for table in tables:
        try:
            rows = table.read_text().splitlines()[1:]
        except OSError:
            continue
        for row in rows:
            _, local, _, state, *_ = row.split()
            address, port = local.split(":")
            if state == _LISTENING and address in _EVERYWHERE:
                ports.add(int(port, 16))
    return tuple(sorted(ports))
