"""Published weights on disk: what they are, fetched whole, resumed when broken off, and checked ever after.

Downloads go through huggingface_hub, which honours ``HF_ENDPOINT``, and go on where they were broken off. Beside
the files lies ``checksums.json``: SHA-256, size and modification time of each, and the revision they came from.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from app.domain import ValidatorError
from app.untrusted import read_json, shown

RECORD: Final = "checksums.json"


class FetchError(ValidatorError):
    """A checkpoint that cannot be downloaded from the hub, or is not whole on disk."""


@dataclass(frozen=True, slots=True)
class PublishedCheckpoint:
    """A set of files in one hub repository."""

    name: str
    repository: str
    files: tuple[str, ...]
    about: str
    revision: str = "main"


PUBLISHED: Final = {
    checkpoint.name: checkpoint
    for checkpoint in (
        PublishedCheckpoint(
            name="psichic",
            repository="Metanova/TREAT-2",
            files=("config.json", "degree.pt", "model.pt"),
            about="PSICHIC's TREAT-2 weights, 24 MB",
        ),
        PublishedCheckpoint(
            name="esm2",
            repository="facebook/esm2_t33_650M_UR50D",
            files=("config.json", "pytorch_model.bin"),
            about="ESM-2 650M, contact head included, 2.6 GB",
        ),
    )
}


@dataclass(frozen=True, slots=True)
class FetchedFile:
    """One file as recorded."""

    path: Path
    sha256: str
    size: int


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of one file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def known_sha256(path: Path) -> str:
    """The file's SHA-256: the recorded one where size and modification time still agree, else computed."""
    entry = _record(path.parent).get("files", {}).get(path.name)
    if isinstance(entry, Mapping):
        stat = path.stat()
        if entry.get("size") == stat.st_size and entry.get("mtime_ns") == stat.st_mtime_ns:
            return str(entry["sha256"])
    return sha256_of(path)


def _record(folder: Path) -> dict[str, Any]:
    try:
        record = read_json((folder / RECORD).read_text())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def unsound_files(checkpoint: PublishedCheckpoint, folder: Path) -> list[str]:
    """Files of the checkpoint that are missing, cut short, changed, or were never recorded."""
    record = _record(folder)
    entries = record.get("files", {}) if record.get("repository") == checkpoint.repository else {}
    bad = []
    for name in checkpoint.files:
        path, entry = folder / name, entries.get(name)
        sound = (
            isinstance(entry, Mapping)
            and path.is_file()
            and path.stat().st_size == entry.get("size")
            and sha256_of(path) == entry.get("sha256")
        )
        if not sound:
            bad.append(name)
    return bad


def fetch(
    checkpoint: PublishedCheckpoint, folder: Path, tell: Callable[[str], None] = lambda _: None
) -> list[FetchedFile]:
    """Bring every file of the checkpoint into ``folder`` and record its checksum.

    Files that are whole and recorded are kept; a file that broke off goes on where it stopped; a file that was cut
    short or changed is fetched again. The hub's own SHA-256 is checked where it has one. Raises :class:`FetchError`.
    """
    import httpx2  # what huggingface_hub speaks HTTP with
    from huggingface_hub import HfApi

    wanted = unsound_files(checkpoint, folder)
    if not wanted:
        tell(f"{checkpoint.name} is already whole in {folder}")
        return _entries(checkpoint, folder)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        info = HfApi().model_info(checkpoint.repository, revision=checkpoint.revision, files_metadata=True)
        published = {sibling.rfilename: sibling for sibling in info.siblings or ()}
        absent = [name for name in wanted if name not in published]
        if absent:
            raise FetchError(f"{checkpoint.repository} has no {', '.join(absent)}; the repository has changed.")
        revision = info.sha or checkpoint.revision
        for name in wanted:
            tell(f"fetching {checkpoint.repository}/{name}")
            partial = _download(checkpoint, name, revision, folder)
            _check(checkpoint, name, partial, published[name])
            partial.replace(folder / name)
    except (httpx2.HTTPError, OSError, ValueError) as error:
        raise FetchError(
            f"{checkpoint.repository} could not be fetched ({_first_line(error)}); check the network and HF_ENDPOINT, "
            "then run the same command again: it goes on where it stopped."
        ) from error
    _write_record(checkpoint, folder, revision)
    return _entries(checkpoint, folder)


def _download(checkpoint: PublishedCheckpoint, name: str, revision: str, folder: Path) -> Path:
    """The file under a name of its own, continued from where an earlier try stopped.

    huggingface_hub resumes within one call only, so the partial file and its length are kept here, by revision.
    """
    from urllib.parse import urlsplit

    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    url, headers = hf_hub_url(checkpoint.repository, name, revision=revision), build_hf_headers()
    metadata = get_hf_file_metadata(url)
    partial = folder / f".{name}.{revision[:12]}.partial"
    if metadata.size is not None and partial.is_file() and partial.stat().st_size > metadata.size:
        partial.unlink()
    if urlsplit(metadata.location).netloc != urlsplit(url).netloc:
        headers.pop("authorization", None)
    with partial.open("ab") as stream:
        http_get(
            metadata.location,
            stream,
            resume_size=stream.tell(),
            headers=headers,
            expected_size=metadata.size,
            displayed_filename=name,
        )
    return partial


def _check(checkpoint: PublishedCheckpoint, name: str, path: Path, sibling: Any) -> None:
    """Remove what is not what the hub announces, and say so."""
    announced = getattr(getattr(sibling, "lfs", None), "sha256", None)
    size, actual = getattr(sibling, "size", None), path.stat().st_size
    if size is not None and actual != size:
        path.unlink()
        raise FetchError(f"{checkpoint.repository}/{name} came as {actual} bytes of {size}; run the command again.")
    if announced is not None and sha256_of(path) != announced:
        path.unlink()
        raise FetchError(
            f"{checkpoint.repository}/{name} does not have the SHA-256 that the hub announces; "
            "it was damaged on the way, run the command again."
        )


def _write_record(checkpoint: PublishedCheckpoint, folder: Path, revision: str) -> None:
    files = {}
    for name in checkpoint.files:
        stat = (folder / name).stat()
        files[name] = {"sha256": sha256_of(folder / name), "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    record = {"repository": checkpoint.repository, "revision": revision, "files": files}
    partial = folder / (RECORD + ".partial")
    partial.write_text(json.dumps(record, indent=1) + "\n")
    partial.replace(folder / RECORD)


def _entries(checkpoint: PublishedCheckpoint, folder: Path) -> list[FetchedFile]:
    entries = _record(folder)["files"]
    return [FetchedFile(folder / n, entries[n]["sha256"], entries[n]["size"]) for n in checkpoint.files]


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return shown(text.splitlines()[0], 200) if text else type(error).__name__
