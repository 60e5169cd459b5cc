"""What an evaluation makes on this host, whose it is, and how it goes: by label, by lock file, and nothing else.

Everything bears the labels below. A lock file beside the evaluation's folder is held (``flock``) by the process that
evaluates: the kernel lets go of it when that process ends, however it ends. What belongs to this node and is held by
nobody is left over.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tenacity import Retrying, retry_if_exception, retry_if_result, stop_after_attempt, wait_incrementing

from app.untrusted import read_json
from gpu.evaluation.docker_engine import EngineErrors, explanation, speaking

NODE: Final = "celery-validator.node"
EVALUATION: Final = "celery-validator.evaluation"
CREATED: Final = "celery-validator.created"
DEADLINE: Final = "celery-validator.deadline"

_SAFE: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,46}[a-z0-9])?")
_GRACE_SECONDS: Final = 3600.0
_TRIES: Final = 4
_ROUNDS: Final = 4
_PAUSE_SECONDS: Final = 0.25

log = logging.getLogger("celery_validator.evaluation")


@dataclass(frozen=True, slots=True)
class Labels:
    """Whose a thing is. ``deadline`` and ``created`` are Unix times in whole seconds."""

    node: str
    evaluation: str
    created: int
    deadline: int

    def as_dict(self) -> dict[str, str]:
        """As the Engine takes them."""
        return {
            NODE: self.node,
            EVALUATION: self.evaluation,
            CREATED: str(self.created),
            DEADLINE: str(self.deadline),
        }


def safe_name(evaluation_id: str) -> str:
    """An evaluation's id as a name for containers, images, networks and folders; other than plain ids are hashed."""
    if _SAFE.fullmatch(evaluation_id):
        return evaluation_id
    return f"id-{hashlib.sha256(evaluation_id.encode('utf-8', 'surrogatepass')).hexdigest()[:40]}"


class EvaluationsFolder:
    """``root`` holds, of each evaluation on this node, ``<name>/`` and ``<name>.lock``; and the node's own id."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def node(self) -> str:
        """This node's id: random, kept in ``root``, so that two clusters on one Docker host stay apart."""
        path = self.root / ".node-id"
        self.root.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            if re.fullmatch(r"[0-9a-f]{32}", known := path.read_text().strip()):
                return known
        unfinished = self.root / f".node-id-{secrets.token_hex(8)}"
        unfinished.write_text(secrets.token_hex(16))
        try:
            # of two processes that come first, one wins
            os.link(unfinished, path)
        except FileExistsError:
            if not re.fullmatch(r"[0-9a-f]{32}", path.read_text().strip()):
                unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
        return path.read_text().strip()

    def folder(self, name: str) -> Path:
        """Where an evaluation keeps its files."""
        return self.root / name

    def lock_file(self, name: str) -> Path:
        """The file whose lock says that the evaluation lives."""
        return self.root / f"{name}.lock"

    def names(self) -> set[str]:
        """The evaluations that have a lock file here, held or not."""
        if not self.root.is_dir():
            return set()
        return {path.stem for path in self.root.glob("*.lock") if _SAFE.fullmatch(path.stem)}

    def deadline(self, name: str) -> float | None:
        """The Unix time at which a known evaluation must have been over; None where its lock file does not say."""
        try:
            return float(read_json(self.lock_file(name).read_text())["deadline"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    @contextmanager
    def held(self, name: str, deadline: float | None = None) -> Iterator[bool]:
        """Hold the evaluation's lock, where nobody does: True. The file stays until :meth:`forget`."""
        self.root.mkdir(parents=True, exist_ok=True)
        descriptor = _locked(self.lock_file(name), fcntl.LOCK_EX)
        if descriptor is None:
            yield False
            return
        try:
            if deadline is not None:
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, json.dumps({"deadline": deadline}).encode(), 0)
            yield True
        finally:
            os.close(descriptor)

    def forget(self, name: str) -> None:
        """Remove the lock file; called while it is held, and after everything else has gone."""
        self.lock_file(name).unlink(missing_ok=True)

    # images that were not here before and that a FROM brought

    @property
    def _bases(self) -> Path:
        return self.root / ".pulled"

    @contextmanager
    def using_bases(self) -> Iterator[None]:
        """While it is open, no process of this node removes a pulled image."""
        self._bases.mkdir(parents=True, exist_ok=True)
        descriptor = _locked(self._bases / ".in-use", fcntl.LOCK_SH, wait=True)
        assert descriptor is not None
        try:
            yield
        finally:
            os.close(descriptor)

    def pulling(self, reference: str) -> None:
        """Remember, before it is pulled, that an image was not here."""
        name = hashlib.sha256(reference.encode()).hexdigest()[:32]
        unfinished = self._bases / f".{name}-{secrets.token_hex(4)}"
        unfinished.write_text(reference)
        unfinished.replace(self._bases / f"{name}.pulled")

    def remove_bases(self, client: Any) -> None:
        """Remove the images that this node's builds pulled, unless a build is going on or something else uses them."""
        if not self._bases.is_dir():
            return
        descriptor = _locked(self._bases / ".in-use", fcntl.LOCK_EX)
        if descriptor is None:
            return
        try:
            for path in sorted(self._bases.glob("*.pulled")):
                if _removed_base(client, path.read_text()):
                    path.unlink(missing_ok=True)
        finally:
            os.close(descriptor)


def _locked(path: Path, kind: int, *, wait: bool = False) -> int | None:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, kind | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            os.close(descriptor)
            return None
        with contextlib.suppress(FileNotFoundError):
            if os.fstat(descriptor).st_ino == path.stat().st_ino:
                return descriptor
        # the file was removed between opening and locking it
        os.close(descriptor)


def _removed_base(client: Any, reference: str) -> bool:
    """Whether a pulled image has gone, or is somebody else's by now (it has a tag: we pull by digest)."""
    try:
        if client.inspect_image(reference).get("RepoTags"):
            return True
        client.remove_image(reference, force=False, noprune=True)
    except EngineErrors.missing():
        return True
    except EngineErrors.all() as error:
        log.warning("The pulled image %s stays for now: %s", reference, explanation(error))
        return False
    return True


@dataclass(frozen=True, slots=True)
class Removal:
    """What a clean-up removed, and what it could not, each as ``kind id``."""

    removed: tuple[str, ...]
    left: tuple[str, ...]


def remove_evaluation(client: Any, labels: Mapping[str, str]) -> Removal:
    """Remove the containers, networks and images that bear all of ``labels``: each is tried, whatever fails.

    The Engine's faults are retried a little. What the Engine refuses to remove is in :attr:`Removal.left`.
    """
    filters = {"label": [f"{key}={value}" for key, value in labels.items()]}
    removed: dict[str, None] = {}
    # a cancelled build may add a last layer or container while this runs: until nothing is found
    rounds = Retrying(
        retry=retry_if_result(lambda done: done != (0, [])),
        stop=stop_after_attempt(_ROUNDS),
        wait=_pauses(),
        retry_error_callback=lambda last: last.outcome and last.outcome.result(),
    )
    _, left = rounds(_remove_round, client, filters, removed)
    return Removal(tuple(removed), tuple(left))


def _remove_round(client: Any, filters: dict[str, Any], removed: dict[str, None]) -> tuple[int, list[str]]:
    """How many things were found, and what could not be removed; what could is added to ``removed``."""
    found, left = 0, []
    for kind, names, remove in _kinds(client, filters):
        try:
            identities = _retried(names)
        except EngineErrors.all() as error:
            left.append(f"{kind}s: {explanation(error)}")
            continue
        found += len(identities)
        for identity in identities:
            try:
                _retried(remove, identity)
                removed[f"{kind} {identity[:19]}"] = None
            except EngineErrors.missing():
                continue
            except EngineErrors.all() as error:
                left.append(f"{kind} {identity[:19]}: {explanation(error)}")
    return found, left


def _kinds(
    client: Any, filters: dict[str, Any]
) -> tuple[tuple[str, Callable[[], list[str]], Callable[[str], None]], ...]:
    def containers() -> list[str]:
        return [item["Id"] for item in client.containers(all=True, filters=filters)]

    def remove_container(identity: str) -> None:
        with contextlib.suppress(EngineErrors.refused()):
            client.kill(identity)
        client.remove_container(identity, v=True, force=True)

    def networks() -> list[str]:
        return [item["Id"] for item in client.networks(filters=filters)]

    def images() -> list[str]:
        found = client.images(all=True, filters=filters)
        return _children_first({item["Id"]: item.get("ParentId") or "" for item in found})

    def remove_image(identity: str) -> None:
        client.remove_image(identity, force=True, noprune=True)

    return (
        ("container", containers, remove_container),
        ("network", networks, client.remove_network),
        ("image", images, remove_image),
    )


def _children_first(parents: Mapping[str, str]) -> list[str]:
    def depth(identity: str) -> int:
        steps = 0
        while (identity := parents.get(identity, "")) and steps <= len(parents):
            steps += 1
        return steps

    return sorted(parents, key=depth, reverse=True)


def _pauses() -> wait_incrementing:
    return wait_incrementing(_PAUSE_SECONDS, _PAUSE_SECONDS)


def _may_pass(error: BaseException) -> bool:
    """The Engine's own faults (5xx, a dropped connection), not its refusals."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    refused = isinstance(status, int) and status < 500 and status not in {403, 409}
    return isinstance(error, EngineErrors.all()) and not refused


def _retried(call: Callable[..., Any], *arguments: str) -> Any:
    tries = Retrying(retry=retry_if_exception(_may_pass), stop=stop_after_attempt(_TRIES), wait=_pauses(), reraise=True)
    return tries(call, *arguments)


def remove_folder(folder: Path) -> str | None:
    """Remove an evaluation's folder, however its files are protected; what went wrong, or None."""

    def loosened(function: Callable[[str], object], path: str, _: object) -> None:
        Path(path).parent.chmod(0o700)
        with contextlib.suppress(FileNotFoundError):
            function(path)

    try:
        shutil.rmtree(folder, onerror=loosened)
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"folder {folder}: {error}"
    return None


def sweep(folder: EvaluationsFolder, client: Any, now: Callable[[], float] = time.time) -> Removal:
    """Remove what dead evaluations of this node left: whose lock nobody holds, or whose deadline is long past.

    Raises:
        EvaluationImpossible: the Docker Engine does not answer.
    """
    node = folder.node()
    removed: list[str] = []
    left: list[str] = []
    with speaking("looking for what dead evaluations left"):
        seen = _labelled(client, node)
    for name in sorted(folder.names() | set(seen)):
        deadline = max(folder.deadline(name) or 0.0, seen.get(name, 0.0))
        overdue = 0 < deadline < now() - _GRACE_SECONDS
        with folder.held(name) as ours:
            if not ours and not overdue:
                continue
            gone = remove_evaluation(client, {NODE: node, EVALUATION: name})
            fault = remove_folder(folder.folder(name))
            removed += gone.removed
            left += [*gone.left, *([fault] if fault else [])]
            if ours and not gone.left and not fault:
                folder.forget(name)
    folder.remove_bases(client)
    if removed:
        log.warning("Removed what dead evaluations left: %s", ", ".join(removed))
    if left:
        log.error("Could not remove, will be tried again: %s", "; ".join(left))
    return Removal(tuple(removed), tuple(left))


def _labelled(client: Any, node: str) -> dict[str, float]:
    """Evaluation → latest deadline, of everything on the Engine that bears this node's label."""
    filters = {"label": [f"{NODE}={node}"]}
    found: dict[str, float] = {}
    listings: Iterable[Iterable[Mapping[str, Any]]] = (
        client.containers(all=True, filters=filters),
        client.networks(filters=filters),
        client.images(all=True, filters=filters),
    )
    for listing in listings:
        for item in listing:
            labels = item.get("Labels") or {}
            name = labels.get(EVALUATION, "")
            if _SAFE.fullmatch(name):
                stated = labels.get(DEADLINE, "")
                found[name] = max(found.get(name, 0.0), float(stated) if stated.isdigit() else 0.0)
    return found
