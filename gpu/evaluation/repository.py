"""A miner's repository on the Hugging Face hub: what it holds at its revision, and a copy of exactly that."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Final, TypeVar

from app.untrusted import quoted
from chain.huggingface import FileAbsent, HubClient, HubUnavailable, NotOnHub
from gpu.evaluation.contract import Deadline, EvaluationImpossible, ModelFault, ModelFaultCode

T = TypeVar("T")

_MOST_FILES: Final = 20_000
_LONGEST_PATH: Final = 1024
_LONGEST_NAME: Final = 255
_REVISION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,199}")

DiskFree = Callable[[Path], int]


def disk_free(folder: Path) -> int:
    """Bytes that are free where ``folder`` is."""
    return shutil.disk_usage(folder).free


@dataclass(frozen=True, slots=True)
class RepositoryFile:
    """One file as the hub lists it: ``sha256`` of large files, ``blob`` (git's SHA-1) of small ones."""

    path: PurePosixPath
    size: int
    sha256: str | None
    blob: str | None


@dataclass(frozen=True, slots=True)
class Listing:
    """What a repository holds at one commit."""

    repository: str
    commit: str
    files: tuple[RepositoryFile, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


class ModelHub:
    """The hub at ``endpoint``, asked without an account unless a token is given: a model to be scored is public."""

    def __init__(self, endpoint: str, token: str | None = None, free: DiskFree = disk_free) -> None:
        self._client = HubClient(endpoint, token)
        self._endpoint = self._client.endpoint
        self._free = free

    def listing(self, repository: str, revision: str | None, deadline: Deadline) -> Listing:
        """The files of ``repository`` at ``revision`` (None: ``main``), and the commit that this is.

        Raises:
            ModelFault: there is no such public repository or revision, or it names files that cannot be.
            EvaluationImpossible: the hub does not answer.
        """
        where = f"{repository} at {revision or 'main'}"
        if revision is not None and not _REVISION.fullmatch(revision):
            raise ModelFault(ModelFaultCode.REPOSITORY_MISSING, f"{quoted(revision)} is no revision of a repository")

        left = partial(deadline.check, f"the files of {where} were listed")
        info = self._attributed(lambda: self._client.model(repository, revision, left))
        commit = str(info.sha or "")
        if not re.fullmatch(r"[0-9a-f]{40,64}", commit):
            raise EvaluationImpossible(f"Hugging Face ({self._endpoint}) names no commit for {where}")
        entries = info.siblings or ()
        if len(entries) > _MOST_FILES:
            raise ModelFault(
                ModelFaultCode.REPOSITORY_TOO_LARGE, f"{where} holds {len(entries)} files; at most {_MOST_FILES}"
            )
        files = tuple(_listed(entry, where) for entry in entries)
        _refuse_clashes(files, where)
        return Listing(repository, commit, files)

    def beginning(
        self, repository: str, revision: str | None, name: str, limit: int, deadline: Deadline
    ) -> bytes | None:
        """The first ``limit`` bytes of one file at ``revision``; None where the repository has no such file.

        Raises:
            ModelFault: there is no such public repository or revision.
            EvaluationImpossible: the hub does not answer.
        """
        listing = self.listing(repository, revision, deadline)
        file = next((file for file in listing.files if str(file.path) == name), None)
        if file is None:
            return None

        def ask() -> bytes:
            body = bytearray()
            with self._stream(listing, file, 0, deadline) as (_, chunks):
                for chunk in chunks:
                    body += chunk
                    if len(body) >= limit:
                        break
            return bytes(body[:limit])

        return self._asked(f"{name} of {repository}", ask, deadline)

    def snapshot(
        self, listing: Listing, folder: Path, *, size_limit: int, disk_reserve: int, deadline: Deadline
    ) -> None:
        """Copy every file into the empty ``folder``; sizes and the disk are checked before the first byte.

        Only plain files and folders are made, each checked against the hub's size and digest.

        Raises:
            ModelFault: the repository is larger than ``size_limit`` bytes, or the time was over.
            EvaluationImpossible: less than ``disk_reserve`` bytes would stay free, or the hub does not deliver.
        """
        if listing.size > size_limit:
            raise ModelFault(
                ModelFaultCode.REPOSITORY_TOO_LARGE,
                f"{listing.repository} holds {listing.size} bytes at {listing.commit[:12]}; at most {size_limit}",
            )
        free = self._free(folder)
        if free - listing.size < disk_reserve:
            raise EvaluationImpossible(
                f"{folder} has {free} bytes free; {listing.repository} takes {listing.size} and {disk_reserve} must "
                "stay free: make room, or lower DISK_RESERVE"
            )
        for file in listing.files:
            target = folder.joinpath(*file.path.parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            self._fetch(listing, file, target, deadline)

    def _fetch(self, listing: Listing, file: RepositoryFile, target: Path, deadline: Deadline) -> None:
        what = f"{file.path} of {listing.repository}"
        digest = _digest_of(file)
        size = 0
        with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644), "wb") as out:

            def ask() -> None:
                nonlocal digest, size
                with self._stream(listing, file, size, deadline) as (resumed, chunks):
                    if not resumed:
                        digest, size = _digest_of(file), 0
                        out.seek(0)
                        out.truncate()
                    for chunk in chunks:
                        deadline.check(f"{what} was downloaded")
                        size += len(chunk)
                        if size > file.size:
                            raise EvaluationImpossible(
                                f"Hugging Face ({self._endpoint}) serves more of {what} than the {file.size} bytes it "
                                "lists; nothing of it was kept"
                            )
                        digest.update(chunk)
                        out.write(chunk)
                if size != file.size:
                    raise OSError(f"{what} broke off after {size} of {file.size} bytes")

            self._asked(what, ask, deadline)
        expected = file.sha256 or file.blob
        if expected and digest.hexdigest() != expected:
            raise EvaluationImpossible(
                f"Hugging Face ({self._endpoint}) serves a damaged {what}: its digest is another"
            )

    @contextmanager
    def _stream(
        self, listing: Listing, file: RepositoryFile, offset: int, deadline: Deadline
    ) -> Iterator[tuple[bool, Iterator[bytes]]]:
        """Whether the answer goes on at ``offset``, and the bytes as they come."""
        seconds = deadline.check(f"{file.path} of {listing.repository} was downloaded")
        with self._client.stream(listing.repository, listing.commit, str(file.path), offset, seconds) as answer:
            yield answer

    def _asked(self, what: str, call: Callable[[], T], deadline: Deadline) -> T:
        return self._attributed(lambda: self._client.ask(what, call, left=deadline.remaining))

    def _attributed(self, call: Callable[[], T]) -> T:
        """What the hub gives; what it does not show the public is the model's fault, its own failures nobody's."""
        try:
            return call()
        except NotOnHub as error:
            raise ModelFault(ModelFaultCode.REPOSITORY_MISSING, str(error)) from None
        except (FileAbsent, HubUnavailable) as error:
            raise EvaluationImpossible(str(error)) from None


def _listed(entry: Any, where: str) -> RepositoryFile:
    large = entry.lfs
    size = large.size if large is not None else entry.size
    if size is None:
        raise EvaluationImpossible(f"Hugging Face gives no size for {quoted(entry.rfilename, 200)} of {where}")
    return RepositoryFile(
        _inside(entry.rfilename, where),
        size,
        None if large is None else large.sha256,
        None if large is not None else entry.blob_id,
    )


def _inside(name: str, where: str) -> PurePosixPath:
    """``name`` as a path that stays below the folder it is joined to."""
    parts = name.split("/")
    harmless = all(
        # what is printable has no lone surrogates, which cannot be encoded
        part not in {"", ".", ".."} and part.isprintable() and len(os.fsencode(part)) <= _LONGEST_NAME
        for part in parts
    )
    if not harmless or "\\" in name or len(name) > _LONGEST_PATH:
        raise ModelFault(
            ModelFaultCode.REPOSITORY_MISSING, f"{where} names a file {quoted(name, 200)}, which cannot be one"
        )
    return PurePosixPath(name)


def _refuse_clashes(files: tuple[RepositoryFile, ...], where: str) -> None:
    names = {file.path for file in files}
    folders = {parent for file in files for parent in file.path.parents}
    if len(names) < len(files) or names & folders:
        raise ModelFault(ModelFaultCode.REPOSITORY_MISSING, f"{where} lists one path twice, or a file as a folder")


def _digest_of(file: RepositoryFile) -> Any:
    if file.sha256:
        return hashlib.sha256()
    return hashlib.sha1(f"blob {file.size}\0".encode(), usedforsecurity=False)
