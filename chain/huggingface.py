"""The Hugging Face hub: one client, and datasets by revision, each file fetched once, resumed, and proven."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from filelock import FileLock
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from app.domain import ValidatorError
from app.observability.metrics import Fault, Service, fault_of, fault_of_status, service_asked
from app.untrusted import shown
from chain.sources import SourceUnavailable

T = TypeVar("T")

_ATTEMPTS: Final = 3
_PAUSE_SECONDS: Final = 1.0
_ANSWER_SECONDS: Final = 20.0
_CHUNK: Final = 1 << 20
_PRIVATE: Final = frozenset({401, 403})

log = logging.getLogger("celery_validator.huggingface")


class FileAbsent(ValidatorError):
    """The repository has no file of this name at this revision."""


class NotOnHub(ValidatorError):
    """The hub shows the public no such repository, or not this revision of it."""


class HubUnavailable(SourceUnavailable):
    """The hub does not answer, or with something that is no answer of a hub."""


class HubClient:
    """``huggingface_hub`` at one endpoint; without an account, unless ``token`` names one."""

    def __init__(self, endpoint: str, token: str | None = None) -> None:
        self.endpoint = endpoint.rstrip("/")
        self.token = token

    def created_at(self, repository: str) -> datetime | None:
        """When the model repository ``namespace/name`` was created; None where the public is shown none.

        Raises:
            HubUnavailable: the hub does not say.
        """
        what = f"the creation date of {repository}"
        try:
            found = self.ask(
                what,
                lambda: self._api().model_info(repository, timeout=_ANSWER_SECONDS, expand=["createdAt"]).created_at,
                attempts=1,
            )
        except NotOnHub:
            return None
        if not isinstance(found, datetime):
            raise HubUnavailable(f"Hugging Face ({self.endpoint}) did not give {what}: it gave none")
        return found if found.tzinfo else found.replace(tzinfo=UTC)

    def model(self, repository: str, revision: str | None, left: Callable[[], float]) -> Any:
        """A model repository's ``ModelInfo`` with the files at ``revision``. ``left()`` is how many seconds there are.

        Raises:
            NotOnHub, HubUnavailable.
        """

        def info() -> Any:
            seconds = min(_ANSWER_SECONDS, left())
            return checked(self._api().model_info(repository, revision=revision, files_metadata=True, timeout=seconds))

        return self.ask(f"the files of {repository} at {revision or 'main'}", info, left=left)

    def dataset(self, dataset: str, revision: str | None) -> Any:
        """A dataset's ``DatasetInfo``; with a revision also its files.

        Raises:
            NotOnHub, HubUnavailable.
        """
        files = revision is not None
        return self.ask(
            f"the files of {dataset}" if files else f"the revision of {dataset}",
            lambda: checked(
                self._api().dataset_info(dataset, revision=revision, files_metadata=files, timeout=_ANSWER_SECONDS)
            ),
        )

    @contextmanager
    def stream(
        self, repository: str, commit: str, name: str, offset: int, seconds: float
    ) -> Iterator[tuple[bool, Iterator[bytes]]]:
        """One file of a model: whether the answer goes on at ``offset``, and the bytes as they come."""
        from httpx2 import Timeout
        from huggingface_hub import get_session, hf_hub_url
        from huggingface_hub.utils import hf_raise_for_status  # type: ignore[attr-defined]

        headers = {"Accept-Encoding": "identity"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        if offset:
            headers["Range"] = f"bytes={offset}-"
        url = hf_hub_url(repository, name, revision=commit, endpoint=self.endpoint)
        timeout = Timeout(min(_ANSWER_SECONDS, seconds))
        with get_session().stream("GET", url, headers=headers, timeout=timeout) as response:
            if response.is_error:
                hf_raise_for_status(response)
            yield offset > 0 and response.status_code == 206, response.iter_raw()

    def download(self, dataset: str, revision: str, name: str, cache: Path) -> Path:
        """A dataset's file in the library's cache, which locks it between processes and resumes what broke off.

        Raises:
            FileAbsent, NotOnHub, HubUnavailable.
        """
        import huggingface_hub

        download = partial(huggingface_hub.hf_hub_download, dataset, name, repo_type="dataset", revision=revision)
        # the library retries downloads itself
        return Path(
            self.ask(
                f"{name} of {dataset}",
                lambda: str(download(cache_dir=cache, endpoint=self.endpoint, token=self.token or False)),
                attempts=1,
            )
        )

    def ask(
        self, what: str, call: Callable[[], T], *, attempts: int = _ATTEMPTS, left: Callable[[], float] | None = None
    ) -> T:
        """What ``call()`` gives, tried again where the hub fails; whatever it answers, its failure is one of these.

        Raises:
            FileAbsent: no such file.
            NotOnHub: no such repository or revision, for the public.
            HubUnavailable: all attempts failed.
        """

        def pause(seconds: float) -> None:
            time.sleep(seconds if left is None else min(seconds, left()))

        retrying = Retrying(
            stop=stop_after_attempt(attempts),
            wait=wait_exponential(_PAUSE_SECONDS),
            retry=retry_if_exception_type(HubUnavailable),
            sleep=pause,
            reraise=True,
        )
        found: T = retrying(self._asked, what, call)
        return found

    def _asked(self, what: str, call: Callable[[], T]) -> T:
        from httpx2 import HTTPError
        from huggingface_hub.errors import (
            DisabledRepoError,
            EntryNotFoundError,
            HfHubHTTPError,
            HFValidationError,
            LocalEntryNotFoundError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )

        try:
            answer = call()
        except (DisabledRepoError, RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
            # a gated repository is a RepositoryNotFoundError of the library's
            service_asked(Service.HUGGINGFACE)
            raise NotOnHub(f"Hugging Face shows no {what} to the public: {_first_line(error)}") from None
        except LocalEntryNotFoundError as error:
            service_asked(Service.HUGGINGFACE, Fault.CONNECTION)
            raise self._unavailable(what, error) from None
        except EntryNotFoundError as error:
            service_asked(Service.HUGGINGFACE)
            raise FileAbsent(f"Hugging Face ({self.endpoint}) does not serve {what}: {_first_line(error)}") from None
        except (HfHubHTTPError, HTTPError, OSError) as error:
            status = getattr(getattr(error, "response", None), "status_code", None)
            service_asked(Service.HUGGINGFACE, fault_of(error) if status is None else fault_of_status(int(status)))
            # without an account this is how a private repository looks; with one, the account is what is refused
            if not self.token and status in _PRIVATE:
                raise NotOnHub(f"Hugging Face shows no {what} to the public: {_first_line(error)}") from None
            raise self._unavailable(what, error) from None
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            # what the library makes of an answer in no form that it knows: a list, a number, other types in its fields
            service_asked(Service.HUGGINGFACE, Fault.MALFORMED)
            raise self._unavailable(what, error) from None
        service_asked(Service.HUGGINGFACE)
        return answer

    def _unavailable(self, what: str, error: Exception) -> HubUnavailable:
        return HubUnavailable(f"Hugging Face ({self.endpoint}) did not give {what}: {_first_line(error)}")

    def _api(self) -> Any:
        from huggingface_hub import HfApi

        return HfApi(endpoint=self.endpoint, token=self.token or False)


def checked(info: Any) -> Any:
    """A ``ModelInfo`` or ``DatasetInfo`` whose files are listed in the types that the library promises.

    Raises:
        TypeError: the hub answered with others, which the library passes on.
    """
    for entry in info.siblings or ():
        digests = [entry.blob_id, *([] if entry.lfs is None else [entry.lfs.sha256])]
        sizes = [entry.size, *([] if entry.lfs is None else [entry.lfs.size])]
        if not (
            isinstance(entry.rfilename, str)
            and all(digest is None or isinstance(digest, str) for digest in digests)
            and all(size is None or (type(size) is int and size >= 0) for size in sizes)
        ):
            raise TypeError(f"the listing holds {shown(repr(entry), 120)}")
    return info


class Hub:
    """Datasets by name and revision, kept under ``folder`` for good.

    The hub's library keeps the cache, locks it between processes and resumes what broke off; on top of that every file
    is checked once against the SHA the hub lists, because the library compares sizes only.
    """

    def __init__(self, folder: Path, endpoint: str, token: str | None = None) -> None:
        self._folder = folder
        self._client = HubClient(endpoint, token)

    def revision(self, dataset: str) -> str:
        """The newest commit of a dataset.

        Raises:
            SourceUnavailable: the hub does not say.
        """
        return str(self._info(dataset, None).sha)

    def known_revision(self, dataset: str) -> str | None:
        """The newest revision that was used here before; for when the hub is unavailable."""
        listings = list((self._folder / "listings" / dataset).glob("*.json"))
        return max(listings, key=lambda path: path.stat().st_mtime).stem if listings else None

    def files(self, dataset: str, revision: str) -> Mapping[str, Mapping[str, Any]]:
        """Name → ``size``, ``sha256`` (large files) or ``sha1`` (git blobs), as the hub lists them at a revision."""
        path = self._folder / "listings" / dataset / f"{revision}.json"
        if not path.exists():
            info = self._info(dataset, revision)
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
            SourceUnavailable: the hub is unavailable, or what it served does not match its digest.
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
            try:
                path = self._client.download(dataset, revision, name, self._folder / "cache")
            except NotOnHub as error:
                raise HubUnavailable(str(error)) from None
            if fault := _mismatch(path, proofs):
                log.warning("%s of %s: %s; fetching it again", name, dataset, fault)
                path.resolve().unlink(missing_ok=True)
                path.unlink(missing_ok=True)
                continue
            proven.write_text(str(path))
            return path
        raise SourceUnavailable(f"Hugging Face serves a damaged {name} of {dataset}: {fault}")

    def _info(self, dataset: str, revision: str | None) -> Any:
        try:
            return self._client.dataset(dataset, revision)
        except NotOnHub as error:
            # the datasets are the subnet's own: where one cannot be seen, that may pass
            raise HubUnavailable(str(error)) from None


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
    return f"{type(error).__name__}: {shown(lines[0], 200) if lines else 'no detail'}"
