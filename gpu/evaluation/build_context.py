"""The folder that an image is built from, as the tar stream that the Engine reads."""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_CHUNK: Final = 1 << 18
_IGNORED: Final = ".dockerignore"


def tar_stream(folder: Path, dockerfile: bytes) -> Iterator[bytes]:
    """Every plain file below ``folder``, with ``dockerfile`` in place of its Dockerfile, a piece at a time.

    Links and special files are left out and never followed. The repository's ``.dockerignore`` is not applied: its
    patterns are untrusted regular expressions, and could leave the Dockerfile out. Files are executable, because
    the hub does not tell which were.
    """
    yield _header("Dockerfile", len(dockerfile), 0o644)
    yield from _padded(iter([dockerfile]), len(dockerfile))
    for name, path in _files(folder, ""):
        if name in {"Dockerfile", _IGNORED}:
            continue
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            yield _header(name, size, 0o755)
            yield from _padded(iter(lambda file=file: file.read(_CHUNK), b""), size)  # type: ignore[misc]
    yield bytes(2 * tarfile.BLOCKSIZE)


def _files(folder: Path, prefix: str) -> Iterator[tuple[str, Path]]:
    with os.scandir(folder) as entries:
        ordered = sorted(entries, key=lambda entry: entry.name)
    for entry in ordered:
        mode = entry.stat(follow_symlinks=False).st_mode
        if stat.S_ISDIR(mode):
            yield from _files(Path(entry.path), f"{prefix}{entry.name}/")
        elif stat.S_ISREG(mode):
            yield prefix + entry.name, Path(entry.path)


def _header(name: str, size: int, mode: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, mode
    return member.tobuf(tarfile.PAX_FORMAT)


def _padded(chunks: Iterator[bytes], size: int) -> Iterator[bytes]:
    """Exactly ``size`` bytes, filled up to tar's blocks."""
    left = size
    for chunk in chunks:
        piece = chunk[:left]
        left -= len(piece)
        yield piece
        if not left:
            break
    if left:
        raise OSError(f"a file of the build context shrank by {left} bytes while it was read")
    yield bytes(-size % tarfile.BLOCKSIZE)
