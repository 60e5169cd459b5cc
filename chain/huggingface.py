"""Datasets on the Hugging Face hub: one revision per epoch, each file fetched once, resumed, and proven."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from filelock import FileLock

from app.observability.metrics import Fault, Service, fault_of, fault_of_status, service_asked
from chain.sources import SourceUnavailable

T = TypeVar("T")

_ATTEMPTS: Final = 3
_PAUSE_SECONDS: Final = 1.0
_API_SECONDS: Final = 10.0
_CHUNK: Final = 1 << 20

log = logging.getLogger("celery_validator.huggingface")


class FileAbsent(Exception):
    """The dataset has no file of this name at this revision."""


class Hub:
    """Datasets by name and revision, kept under ``folder`` for good.

    The hub's library keeps the cache, locks it between processes and resumes what broke off; on top of that every file
    is checked once against the SHA the hub lists, because the library compares sizes only.
    """

    def __init__(self, folder: Path, endpoint: str, token: str | None = None) -> None:
        self._folder = folder
        self._endpoint = endpoint.rstrip("/")
        self._token = token

    def revision(self, dataset: str) -> str:
        """The newest commit of a dataset.

        Raises:
            SourceUnavailable: the hub does not say.
        """
        return str(self._asked(f"the revision of {dataset}", lambda hub: self._info(hub, dataset, None).sha))

    def known_revision(self, dataset: str) -> str | None:
        """The newest revision that was used here before; for when the hub is away."""
        listings = list((self._folder / "listings" / dataset).glob("*.json"))
        return max(listings, key=lambda path: path.stat().st_mtime).stem if listings else None

    def files(self, dataset: str, revision: str) -> Mapping[str, Mapping[str, Any]]:
        """Name → ``size``, ``sha256`` (large files) or ``sha1`` (git blobs), as the hub lists them at a revision."""
        path = self._folder / "listings" / dataset / f"{revision}.json"
        if not path.exists():
            info = self._asked(f"the files of {dataset}", lambda hub: self._info(hub, dataset, revision))
            listing = {entry.rfilename: _proofs(entry) for entry in info.siblings or ()}
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished = path.with_suffix(".partial")
            unfinished.write_text(json.dumps(listing))
            unfinished.replace(path)
        found: dict[str, dict[str, Any]] = json.loads(path.read_text())
        path.touch()
        return found

    def file(self, dataset: str, revision: str, name: str) -> Path:
        """The file, downloaded if it is not here yet, and checked against the hub's own digest.

        Raises:
            FileAbsent: no such file at this revision.
            SourceUnavailable: the hub is away, or what it served does not match its digest.
        """
        proofs = self.files(dataset, revision).get(name)
        if proofs is None:
            raise FileAbsent(f"{dataset} has no {name} at {revision[:12]}")
        proven = self._folder / "proven" / dataset / revision / f"{name}.path"
        if proven.exists() and (path := Path(proven.read_text())).exists():
            return path
        proven.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{proven}.lock"):
            return self._proven_file(dataset, revision, name, proofs, proven)

    def _proven_file(self, dataset: str, revision: str, name: str, proofs: Mapping[str, Any], proven: Path) -> Path:
        for _ in range(2):
            download = partial(self._download, dataset=dataset, revision=revision, name=name)
            path = Path(self._asked(f"{name} of {dataset}", download, attempts=1))
            if fault := _mismatch(path, proofs):
                log.warning("%s of %s: %s; fetching it again", name, dataset, fault)
                path.resolve().unlink(missing_ok=True)
                path.unlink(missing_ok=True)
                continue
            proven.write_text(str(path))
            return path
        raise SourceUnavailable(f"Hugging Face serves a damaged {name} of {dataset}: {fault}")

    def _info(self, hub: Any, dataset: str, revision: str | None) -> Any:
        api = hub.HfApi(endpoint=self._endpoint, token=self._token or False)
        return api.dataset_info(dataset, revision=revision, files_metadata=revision is not None, timeout=_API_SECONDS)

    def _download(self, hub: Any, dataset: str, revision: str, name: str) -> str:
        return str(
            hub.hf_hub_download(
                dataset,
                name,
                repo_type="dataset",
                revision=revision,
                cache_dir=self._folder / "cache",
                endpoint=self._endpoint,
                token=self._token or False,
            )
        )

    def _asked(self, what: str, call: Callable[[Any], T], attempts: int = _ATTEMPTS) -> T:
        """Ask the hub, a few times where it fails; downloads are retried and resumed by the library itself."""
        import huggingface_hub
        from httpx2 import HTTPError
        from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

        fault = ""
        for attempt in range(attempts):
            if attempt:
                time.sleep(_PAUSE_SECONDS * 2 ** (attempt - 1))
            try:
                answer = call(huggingface_hub)
            except LocalEntryNotFoundError as error:
                fault = _first_line(error)
                service_asked(Service.HUGGINGFACE, Fault.CONNECTION)
            except EntryNotFoundError as error:
                service_asked(Service.HUGGINGFACE)
                raise FileAbsent(_first_line(error)) from None
            except (HfHubHTTPError, HTTPError, OSError, ValueError, RuntimeError) as error:
                fault = _first_line(error)
                service_asked(Service.HUGGINGFACE, _counted_as(error))
            else:
                service_asked(Service.HUGGINGFACE)
                return answer
        raise SourceUnavailable(f"Hugging Face ({self._endpoint}) did not give {what}: {fault}")


def _counted_as(error: Exception) -> Fault:
    status = getattr(getattr(error, "response", None), "status_code", None)
    return fault_of(error) if status is None else fault_of_status(int(status))


def _proofs(entry: Any) -> dict[str, Any]:
    large = entry.lfs
    if large is not None:
        return {"size": large.size, "sha256": large.sha256}
    return {"size": entry.size, "sha1": entry.blob_id}


def _mismatch(path: Path, proofs: Mapping[str, Any]) -> str | None:
    """How the file differs from what the hub lists; None where it does not, or the hub lists no digest."""
    size = path.stat().st_size
    if proofs.get("size") is not None and size != proofs["size"]:
        return f"it has {size} bytes instead of {proofs['size']}"
    for kind, prefix in (("sha256", b""), ("sha1", f"blob {size}\0".encode())):
        if proofs.get(kind):
            digest = hashlib.new(kind, prefix, usedforsecurity=False)
            with path.open("rb") as stream:
                while chunk := stream.read(_CHUNK):
                    digest.update(chunk)
            if digest.hexdigest() != proofs[kind]:
                return f"its {kind} is {digest.hexdigest()[:16]}… instead of {proofs[kind][:16]}…"
    return None


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200] if lines else 'no detail'}"
