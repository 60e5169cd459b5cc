"""An untrusted model in a container of its own on the Docker Engine."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from app.settings import Settings
from app.untrusted import shown, visible
from gpu.evaluation.contract import Deadline, EvaluationImpossible, ModelFault, ModelFaultCode, ModelSource
from gpu.evaluation.docker_engine import EngineErrors, engine, explanation, speaking
from gpu.evaluation.exposure import ports_open_to_containers
from gpu.evaluation.health import is_healthy
from gpu.evaluation.image_build import BuildLimits, Image, build
from gpu.evaluation.leftovers import (
    EVALUATION,
    NODE,
    EvaluationsFolder,
    Labels,
    Removal,
    remove_evaluation,
    remove_folder,
    safe_name,
    sweep,
)
from gpu.evaluation.locks import GIB, Locks
from gpu.evaluation.repository import ModelHub, disk_free

BRIDGE_PREFIX: Final = "cv-"
"""Every evaluation's network is a bridge of this name's beginning, so that a host firewall can name them all."""

_KEPT_LOG: Final = 1 << 18
_KEPT_LOGS: Final = 400
_QUOTED_LOG: Final = 2000
_ANSWER_SECONDS: Final = 5.0
_PROTECTED: Final = ("/proc", "/sys", "/dev", "/etc")

log = logging.getLogger("celery_validator.evaluation")


@dataclass(frozen=True, slots=True)
class Limits:
    """What one evaluation may take of this node. Sizes in bytes, times in seconds.

    ``disk_reserve`` must stay free after the snapshot; a build that leaves less than half of it is stopped.
    ``firewall`` says that the host drops new connections from the evaluations' bridges (``cv-*``).
    """

    model_size: int = 18 * GIB
    disk_reserve: int = 40 * GIB
    build_seconds: float = 1800.0
    start_seconds: float = 600.0
    build_memory: int = 32 * GIB
    build_cpus: float = 4.0
    build_network: str = "default"
    registries: tuple[str, ...] = ("docker.io", "ghcr.io", "nvcr.io", "quay.io")
    health_pause: float = 1.0
    firewall: bool = False
    locks: Locks = field(default_factory=Locks)


class DockerSandbox:
    """Runs models through the Docker Engine at ``address`` (None: DOCKER_HOST, or the usual socket).

    ``evaluations`` holds this node's evaluations while they run, ``logs`` the end of each model's build and run.
    """

    def __init__(
        self,
        evaluations: Path,
        logs: Path,
        hub: ModelHub,
        limits: Limits | None = None,
        address: str | None = None,
        free: Callable[[Path], int] = disk_free,
    ) -> None:
        self._evaluations = EvaluationsFolder(evaluations)
        self._logs = logs
        self._hub = hub
        self._limits = limits or Limits()
        self._address = address
        self._free = free

    @contextmanager
    def running(self, model: ModelSource, deadline: Deadline) -> Iterator[str]:
        """The model, fetched, built, locked in and healthy: its base URL. All that was made for it goes on leaving.

        Raises:
            ModelFault: its repository, its build or its start failed.
            EvaluationImpossible: the disk, the hub or the Docker Engine did, or a lock could not be taken.
        """
        name = safe_name(model.evaluation_id)
        now = int(time.time())
        over = now + int(deadline.check("waiting for its turn")) + 1
        with contextlib.ExitStack() as stack:
            client = stack.enter_context(engine(self._address))
            info = _isolating(client, self._limits.locks.runtime)
            if not stack.enter_context(self._evaluations.held(name, over)):
                raise EvaluationImpossible(f"evaluation {model.evaluation_id} is already running on this node")
            labels = Labels(self._evaluations.node(), name, now, over)
            # an earlier try at the same evaluation that was killed
            self._remove(client, labels)
            run = _Evaluation(client, self, name, labels.as_dict(), model, deadline, info)
            try:
                yield run.started()
            finally:
                run.keep_container_log()
                removal = self._remove(client, labels)
                if removal.left:
                    log.error("Left of evaluation %s, for the sweeper: %s", name, "; ".join(removal.left))
                else:
                    self._evaluations.forget(name)

    def check(self) -> None:
        """See that the Docker Engine answers, isolates and knows the runtime; makes nothing.

        Raises:
            EvaluationImpossible: it does not; the message names the fix.
        """
        with engine(self._address, timeout=_ANSWER_SECONDS) as client:
            _isolating(client, self._limits.locks.runtime)

    def sweep(self) -> Removal:
        """Remove what evaluations of this node left that were killed; see :func:`gpu.evaluation.leftovers.sweep`.

        Raises:
            EvaluationImpossible: the Docker Engine does not answer.
        """
        with engine(self._address) as client:
            return sweep(self._evaluations, client)

    def _remove(self, client: Any, labels: Labels) -> Removal:
        """Everything of one evaluation; each part is tried, whatever becomes of the others."""
        gone = remove_evaluation(client, {NODE: labels.node, EVALUATION: labels.evaluation})
        fault = remove_folder(self._evaluations.folder(labels.evaluation))
        self._evaluations.remove_bases(client)
        return Removal(gone.removed, (*gone.left, *([fault] if fault else [])))


class _Evaluation:
    """One model on its way from repository to healthy server."""

    def __init__(
        self,
        client: Any,
        sandbox: DockerSandbox,
        name: str,
        labels: Mapping[str, str],
        model: ModelSource,
        deadline: Deadline,
        info: Mapping[str, Any],
    ) -> None:
        self._client = client
        self._sandbox = sandbox
        self._limits = sandbox._limits
        # Docker refuses to promise more cores than there are
        cores = float(info.get("NCPU") or self._limits.locks.cpus)
        self._locks = replace(self._limits.locks, cpus=min(cores, self._limits.locks.cpus))
        self._root = Path(info.get("DockerRootDir") or "/nonexistent")
        self._name = name
        self._labels = dict(labels)
        self._model = model
        self._deadline = deadline
        self._container: str | None = None

    def started(self) -> str:
        source = self._snapshot()
        image = self._build(source)
        # the image holds the files now
        remove_folder(source)
        network = self._network()
        self._warn_of_the_host()
        self._create(image, network)
        return self._healthy(image, self._start(image, network))

    def _snapshot(self) -> Path:
        hub, limits = self._sandbox._hub, self._limits
        folder = self._sandbox._evaluations.folder(self._name)
        source = folder / "repository"
        source.mkdir(parents=True)
        listing = hub.listing(self._model.repository, self._model.revision, self._deadline)
        (folder / "commit").write_text(listing.commit)
        log.info("Evaluation %s: %s at %s, %d bytes", self._name, listing.repository, listing.commit, listing.size)
        hub.snapshot(
            listing, source, size_limit=limits.model_size, disk_reserve=limits.disk_reserve, deadline=self._deadline
        )
        return source

    def _build(self, source: Path) -> Image:
        limits = self._limits
        docker_root = self._docker_root()
        free = self._sandbox._free(docker_root)
        if free < limits.disk_reserve:
            raise EvaluationImpossible(
                f"{docker_root} has {free} bytes free; a build wants {limits.disk_reserve}: make room "
                "(docker system df), or lower DISK_RESERVE"
            )
        return build(
            self._client,
            source,
            f"cv-eval-{self._name}:latest",
            self._labels,
            BuildLimits(
                limits.build_seconds,
                limits.build_memory,
                limits.build_cpus,
                limits.disk_reserve // 2,
                limits.build_network,
                limits.registries,
            ),
            self._sandbox._evaluations,
            lambda: self._sandbox._free(docker_root),
            self._deadline,
            lambda text: self._keep("build", text),
        )

    def _docker_root(self) -> Path:
        """Where Docker keeps its images, or, where that cannot be seen from here, the evaluations' folder."""
        visible = os.access(self._root, os.F_OK)
        return self._root if visible else self._sandbox._evaluations.root

    def _network(self) -> str:
        bridge = BRIDGE_PREFIX + hashlib.sha256(self._labels[NODE].encode() + self._name.encode()).hexdigest()[:11]
        with speaking("making the evaluation's network"):
            made: Mapping[str, Any] = self._client.create_network(
                f"cv-eval-{self._name}",
                driver="bridge",
                internal=True,
                attachable=False,
                labels=self._labels,
                options={
                    "com.docker.network.bridge.name": bridge,
                    "com.docker.network.bridge.enable_icc": "false",
                    "com.docker.network.bridge.enable_ip_masquerade": "false",
                },
            )
        return str(made["Id"])

    def _warn_of_the_host(self) -> None:
        """An internal network keeps a container from the world; the host itself is on that network."""
        if self._limits.firewall or not (ports := ports_open_to_containers()):
            return
        log.warning(
            "Evaluation %s: a model's container can reach TCP ports %s of this host. Have its firewall drop new "
            "connections from %s*, then set CONTAINER_FIREWALL (docs/evaluation.md, 'Isolation')",
            self._name,
            ", ".join(map(str, ports)),
            BRIDGE_PREFIX,
        )

    def _create(self, image: Image, network: str) -> None:
        for volume in image.volumes:
            if not _coverable(volume):
                raise ModelFault(
                    ModelFaultCode.START_FAILED,
                    f"the image declares '{shown(volume)}' as a VOLUME, which cannot be one: remove the instruction",
                )
        client, locks = self._client, self._locks
        try:
            with speaking("creating the container"):
                try:
                    made = client.create_container(
                        image.id,
                        name=f"cv-eval-{self._name}",
                        labels=self._labels,
                        host_config=locks.host_config(client, f"cv-eval-{self._name}", image.volumes),
                        **locks.container(image.document),
                    )
                except EngineErrors.refused() as error:
                    if _is_the_images(said := explanation(error)):
                        raise ModelFault(
                            ModelFaultCode.START_FAILED, f"no container can be made of the image: {said}"
                        ) from None
                    raise
        finally:
            # whatever became of the answer, the container may be there
            self._container = f"cv-eval-{self._name}"
        for warning in made.get("Warnings") or ():
            log.warning("Docker about evaluation %s: %s", self._name, shown(str(warning), 400))
        self._require_locks(image, network)

    def _require_locks(self, image: Image, network: str) -> Mapping[str, Any]:
        with speaking("inspecting the container"):
            document: Mapping[str, Any] = self._client.inspect_container(self._container)
            lacking = self._locks.missing(document, self._client.inspect_network(network), image.volumes)
        if lacking:
            raise EvaluationImpossible(
                f"Docker did not give the container of {self._model.repository} every lock: {'; '.join(lacking)} "
                "missing. Nothing was evaluated; see docs/evaluation.md, 'Isolation'"
            )
        return document

    def _start(self, image: Image, network: str) -> str:
        """Start the container, see that every lock holds, and return its base URL."""
        with speaking("starting the container"):
            try:
                self._client.start(self._container)
            except EngineErrors.refused() as error:
                # a fault of this node's (no GPU runtime, a limit that the daemon may not set) is nobody's score
                if _is_the_images(said := explanation(error)):
                    raise ModelFault(ModelFaultCode.START_FAILED, f"the container did not start: {said}") from None
                raise
        document = self._require_locks(image, network)
        self._require_running(document, image)
        settings, port = document["NetworkSettings"], self._locks.port
        for binding in (settings.get("Ports") or {}).get(f"{port}/tcp") or ():
            return f"http://127.0.0.1:{int(binding['HostPort'])}"
        # a daemon publishes nothing of a container that is on an internal network alone; the host is on that network
        address = next(iter(settings["Networks"].values())).get("IPAddress")
        if not address:
            self._require_running(document, image, stopped=True)
        return f"http://{address}:{port}"

    def _healthy(self, image: Image, base_url: str) -> str:
        started = time.monotonic()
        while True:
            waited = time.monotonic() - started
            left = min(self._limits.start_seconds - waited, self._deadline.remaining())
            if left > 0 and is_healthy(base_url, min(_ANSWER_SECONDS, left)):
                return base_url
            with speaking("watching the container"):
                document = self._client.inspect_container(self._container)
            self._require_running(document, image)
            if left <= 0:
                self._too_late(waited)
            time.sleep(min(self._limits.health_pause, left))

    def _too_late(self, waited: float) -> None:
        quoted = self._quoted_log()
        if self._deadline.remaining() <= 0:
            raise ModelFault(ModelFaultCode.TIME_LIMIT, f"the time limit was over before the model was healthy{quoted}")
        raise ModelFault(
            ModelFaultCode.UNHEALTHY,
            f"the model did not answer GET /api/v1/health on port {self._locks.port} with "
            f'{{"status": "healthy"}} within {waited:.0f} s{quoted}',
        )

    def _require_running(self, document: Mapping[str, Any], image: Image, *, stopped: bool = False) -> None:
        state = document.get("State") or {}
        if state.get("Running") and not stopped:
            return
        reasons = [f"the container stopped with exit code {state.get('ExitCode')}"]
        if state.get("OOMKilled"):
            reasons.append(f"it was out of memory (limit {self._locks.memory} bytes)")
        if state.get("Error"):
            reasons.append(shown(str(state["Error"]), 200))
        if image.volumes:
            reasons.append(f"what the image keeps in its VOLUMEs ({shown(', '.join(image.volumes), 200)}) is not there")
        raise ModelFault(ModelFaultCode.START_FAILED, "; ".join(reasons) + self._quoted_log())

    # logs

    def keep_container_log(self) -> None:
        """Put the end of the container's log into the logs folder; a log that cannot be read is only reported."""
        if self._container is None:
            return
        try:
            self._keep("run", visible(self._container_log(), keep="\n\t"))
        except EngineErrors.missing():
            return
        except EngineErrors.all() as error:
            log.warning("No log of evaluation %s: %s", self._name, explanation(error))

    def _container_log(self) -> str:
        kept = bytearray()
        pieces = self._client.logs(self._container, stdout=True, stderr=True, stream=True, follow=False)
        for piece in pieces:
            kept += piece
            del kept[:-_KEPT_LOG]
        return kept.decode("utf-8", "replace")

    def _quoted_log(self) -> str:
        with contextlib.suppress(*EngineErrors.all()):
            if text := visible(self._container_log(), keep="\n\t")[-_QUOTED_LOG:].strip():
                return f"; the end of its log:\n{text}"
        return "; it logged nothing"

    def _keep(self, kind: str, text: str) -> None:
        try:
            self._sandbox._logs.mkdir(parents=True, exist_ok=True)
            (self._sandbox._logs / f"{self._name}.{kind}.log").write_text(text[-_KEPT_LOG:], encoding="utf-8")
            oldest_first = sorted(self._sandbox._logs.glob("*.log"), key=lambda path: path.stat().st_mtime)
            for path in oldest_first[:-_KEPT_LOGS]:
                path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("The %s log of evaluation %s could not be kept: %s", kind, self._name, error)


def _isolating(client: Any, runtime: str | None) -> Mapping[str, Any]:
    """What the Engine says of itself; one whose own defaults are off would silently drop a lock."""
    with speaking("asking Docker what it is"):
        info: Mapping[str, Any] = client.info()
    options = [str(option) for option in info.get("SecurityOptions") or ()]
    if info.get("OSType") not in {"linux", None} or not any("name=seccomp" in option for option in options):
        raise EvaluationImpossible("this Docker Engine has no seccomp: models are evaluated on Linux with seccomp only")
    if any("unconfined" in option for option in options):
        raise EvaluationImpossible(
            "this Docker Engine runs with seccomp or AppArmor unconfined: take that setting back"
        )
    known = sorted(info.get("Runtimes") or ("its own",))
    if runtime is not None and runtime not in known:
        raise EvaluationImpossible(
            f"CONTAINER_RUNTIME: this Docker Engine knows no runtime {runtime}, only {', '.join(known)}; "
            "name it in the daemon's configuration (runtimes in /etc/docker/daemon.json), or unset CONTAINER_RUNTIME"
        )
    return info


def _is_the_images(said: str) -> bool:
    """Whether a start failed over what the image names: a program that is not there, a folder that is none."""
    signs = ('exec: "', "exec /", "exec format error", "chdir to cwd", "no command specified", "invalid mount")
    return any(sign in said.lower() for sign in signs)


def _coverable(volume: str) -> bool:
    """Whether a tmpfs may lie over a folder that an image declares as its volume."""
    path = Path(volume)
    return (
        path.is_absolute()
        and ".." not in path.parts
        and str(path) != "/"
        and volume.isprintable()
        and not any(path.is_relative_to(folder) for folder in _PROTECTED)
    )


def docker_sandbox(settings: Settings, gpu: str | None, hub: ModelHub | None = None) -> DockerSandbox:
    """The sandbox of this node by its settings; ``gpu`` is the device index or UUID its models get, None for none."""
    data = settings.data_dir.expanduser().resolve()
    limits = Limits(
        model_size=int(settings.model_size_limit),
        disk_reserve=int(settings.disk_reserve),
        build_seconds=settings.build_limit.total_seconds(),
        start_seconds=settings.start_limit.total_seconds(),
        build_memory=int(settings.container_memory),
        build_cpus=settings.container_cpus,
        build_network=settings.build_network,
        registries=settings.base_registries,
        firewall=settings.container_firewall,
        locks=Locks(
            memory=int(settings.container_memory),
            cpus=settings.container_cpus,
            gpu=gpu,
            port=settings.container_port,
            runtime=settings.container_runtime,
        ),
    )
    return DockerSandbox(
        data / "evaluations",
        data / "logs" / "evaluations",
        hub or ModelHub(settings.hf_endpoint),
        limits,
        settings.docker_host,
    )
