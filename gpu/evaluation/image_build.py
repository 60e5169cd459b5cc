"""An untrusted image: its base pulled by digest, its Dockerfile built with bounds on time, memory, log and disk."""

from __future__ import annotations

import json
import os
import stat
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from app.untrusted import quoted, shown, visible
from gpu.evaluation import dockerfile
from gpu.evaluation.build_context import tar_stream
from gpu.evaluation.contract import Deadline, EvaluationImpossible, ModelFault, ModelFaultCode
from gpu.evaluation.docker_engine import ANONYMOUS, Stream, speaking, stream
from gpu.evaluation.leftovers import EvaluationsFolder

_KEPT_LOG: Final = 1 << 16
_QUOTED_LOG: Final = 2000
_LOOK_SECONDS: Final = 0.2
_SLACK_SECONDS: Final = 10.0
_CPU_PERIOD: Final = 100_000


@dataclass(frozen=True, slots=True)
class BuildLimits:
    """What a build may take: ``seconds`` in all, ``memory`` bytes and ``cpus`` a step, ``floor`` bytes of disk left."""

    seconds: float
    memory: int
    cpus: float
    floor: int
    network: str
    registries: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Image:
    """A built image, as the Engine's ``inspect`` shows it, and the end of its build's log."""

    id: str
    document: Mapping[str, Any]
    log: str

    @property
    def volumes(self) -> tuple[str, ...]:
        """The folders that it declares as volumes."""
        return tuple(sorted((self.document.get("Config") or {}).get("Volumes") or ()))


@dataclass
class _Tail:
    """The last part of a log."""

    limit: int = _KEPT_LOG
    _kept: bytearray = field(default_factory=bytearray)

    def add(self, text: str) -> None:
        self._kept += text.encode("utf-8", "replace")
        del self._kept[: -self.limit]

    def __str__(self) -> str:
        return visible(self._kept.decode("utf-8", "replace"), keep="\n\t")


def build(
    client: Any,
    source: Path,
    tag: str,
    labels: Mapping[str, str],
    limits: BuildLimits,
    evaluations: EvaluationsFolder,
    free: Callable[[], int],
    deadline: Deadline,
    keep_log: Callable[[str], None],
) -> Image:
    """Build the repository in ``source`` and return its image, every layer of which bears ``labels``.

    Raises:
        ModelFault: it has no Dockerfile, the build fails or takes too long or too much; with the end of its log.
        EvaluationImpossible: the Engine or a registry is unavailable.
    """
    parsed = dockerfile.parse(_dockerfile_of(source))
    end = Deadline(min(limits.seconds, deadline.check("its image was built")))
    with evaluations.using_bases():
        pinned = {name: _pinned(client, name, limits, evaluations, free, end) for name in parsed.images}
        context = _until(end, tar_stream(source, parsed.rewritten(labels, pinned)))
        tail = _Tail()
        try:
            identity = _built(client, context, tag, labels, limits, free, end, tail)
        finally:
            keep_log(str(tail))
    with speaking("inspecting the built image"):
        document = client.inspect_image(identity)
    found = (document.get("Config") or {}).get("Labels") or {}
    if any(found.get(key) != value for key, value in labels.items()):
        raise EvaluationImpossible("Docker did not put this evaluation's labels on the image it built")
    return Image(identity, document, str(tail))


def _dockerfile_of(source: Path) -> bytes:
    path = source / "Dockerfile"
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise dockerfile.refused("it is no file")
            return file.read(dockerfile.LARGEST_DOCKERFILE + 1)
    except (FileNotFoundError, IsADirectoryError):
        raise ModelFault(ModelFaultCode.BUILD_FAILED, "the repository has no Dockerfile at its top") from None


def _until(end: Deadline, chunks: Iterable[bytes]) -> Iterator[bytes]:
    for chunk in chunks:
        end.check("its files were sent to Docker")
        if chunk:
            yield chunk


def _built(
    client: Any,
    context: Iterator[bytes],
    tag: str,
    labels: Mapping[str, str],
    limits: BuildLimits,
    free: Callable[[], int],
    end: Deadline,
    tail: _Tail,
) -> str:
    parameters = {
        "t": tag,
        "labels": json.dumps(dict(labels)),
        "rm": True,
        "forcerm": True,
        "memory": limits.memory,
        "memswap": limits.memory,
        "cpuperiod": _CPU_PERIOD,
        "cpuquota": int(limits.cpus * _CPU_PERIOD),
        "networkmode": limits.network,
    }
    headers = {"Content-Type": "application/tar"}
    identity: str | None = None
    fault: str | None = None
    refusal = 0
    with speaking("building the image"):
        # a silent build is the guard's to end; the socket's own limit is for an Engine that hangs
        seconds = end.check("its image was built") + _SLACK_SECONDS
        with stream(client, "/build", seconds, params=parameters, headers=headers, data=context) as messages:
            if messages.status >= 400:
                refusal = messages.status
            with _guarded(messages, end, free, limits.floor) as why:
                for message in messages:
                    tail.add(str(message.get("stream") or message.get("status") or ""))
                    identity = (message.get("aux") or {}).get("ID") or identity
                    fault = message.get("error") or (message.get("message") if refusal else None) or fault
    if why:
        raise _build_fault(why[0], tail)
    if refusal >= 500 and not str(fault or "").lower().startswith(("dockerfile", "cannot locate")):
        raise EvaluationImpossible(f"Docker failed while building the image: {shown(str(fault), 400)}")
    if fault or refusal:
        raise _build_fault(f"the build failed: {shown(str(fault), 400)}", tail)
    if identity is None:
        raise EvaluationImpossible("Docker broke off the build without a result; is the Docker daemon still running?")
    return identity


def _build_fault(why: str, tail: _Tail) -> ModelFault:
    log = str(tail)[-_QUOTED_LOG:].strip()
    return ModelFault(ModelFaultCode.BUILD_FAILED, f"{why}; the end of the build's log:\n{log}" if log else why)


@contextmanager
def _guarded(messages: Stream, end: Deadline, free: Callable[[], int], floor: int) -> Iterator[list[str]]:
    """Cuts the stream off when the time is over or the disk is filling; the list then says why."""
    why: list[str] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_LOOK_SECONDS):
            if end.remaining() <= 0:
                why.append("the image was not built in time")
            elif free() < floor:
                why.append("the build was filling this node's disk")
            if why:
                messages.cut()
                return

    watcher = threading.Thread(target=watch, name="build-guard", daemon=True)
    watcher.start()
    try:
        yield why
    finally:
        over.set()
        watcher.join()


def _pinned(
    client: Any,
    name: str,
    limits: BuildLimits,
    evaluations: EvaluationsFolder,
    free: Callable[[], int],
    end: Deadline,
) -> str:
    """``name`` by its digest in its registry, pulled: no local image of the operator's can be meant by it.

    By digest no tag on this host is moved, and what was not here before is known to be ours to remove.
    """
    from docker.auth import resolve_repository_name
    from docker.errors import APIError, DockerException, NotFound
    from docker.utils import parse_repository_tag

    try:
        registry, _ = resolve_repository_name(name)
    except DockerException:
        raise dockerfile.refused(f"{quoted(name)} is no name of an image") from None
    if registry not in limits.registries:
        raise dockerfile.refused(f"{name} comes from {registry}; images may come from {', '.join(limits.registries)}")
    repository, tag = parse_repository_tag(name)
    repository = repository.removeprefix("docker.io/") if registry == "docker.io" else repository
    digest = tag if tag and tag.startswith("sha256:") else None
    if digest:
        # of name:tag@digest the digest alone counts
        repository, _ = parse_repository_tag(repository)
    with speaking(f"looking {name} up in its registry"):
        end.check(f"{name} was looked up")
        try:
            # by digest too: an image that the operator pulled with an account is not for miners
            asked = f"{repository}@{digest}" if digest else f"{repository}:{tag or 'latest'}"
            digest = str(client.inspect_distribution(asked, auth_config=ANONYMOUS)["Descriptor"]["digest"])
        except APIError as error:
            if error.response is not None and error.response.status_code < 500:
                raise dockerfile.refused(f"{registry} shows no image {name} to the public") from None
            raise
        pinned = f"{repository}@{digest}"
        try:
            image = client.inspect_image(pinned)
        except NotFound:
            evaluations.pulling(pinned)
            _pull(client, repository, digest, limits, free, end)
            image = client.inspect_image(pinned)
    if (image.get("Config") or {}).get("OnBuild"):
        raise dockerfile.refused(f"{name} has ONBUILD instructions, which this build could not check")
    return pinned


def _pull(
    client: Any, repository: str, digest: str, limits: BuildLimits, free: Callable[[], int], end: Deadline
) -> None:
    from docker.auth import encode_header

    headers = {"X-Registry-Auth": encode_header(ANONYMOUS)}
    parameters = {"fromImage": repository, "tag": digest}
    fault: str | None = None
    seconds = end.check(f"{repository} was pulled") + _SLACK_SECONDS
    with (
        stream(client, "/images/create", seconds, params=parameters, headers=headers) as messages,
        _guarded(messages, end, free, limits.floor) as why,
    ):
        for message in messages:
            fault = message.get("error") or message.get("message") or fault
    if why:
        raise ModelFault(ModelFaultCode.BUILD_FAILED, f"{why[0]}, while its base image {repository} was pulled")
    if fault and any(sign in fault.lower() for sign in ("manifest unknown", "no matching manifest", "denied")):
        raise dockerfile.refused(f"{repository}@{digest} cannot be pulled: {shown(fault, 300)}")
    if fault or messages.status >= 400:
        raise EvaluationImpossible(f"Docker could not pull {repository}@{digest}: {shown(str(fault), 300)}")
