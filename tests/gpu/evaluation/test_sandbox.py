"""The container runner through the real SDK against the fake Engine: what reaches it, and what stays."""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import shutil
import socket
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.settings import get_settings
from gpu.evaluation import leftovers
from gpu.evaluation.contract import Deadline, EvaluationImpossible, ModelFault, ModelFaultCode, ModelSource
from gpu.evaluation.exposure import ports_open_to_containers
from gpu.evaluation.leftovers import CREATED, DEADLINE, EVALUATION, NODE, EvaluationsFolder
from gpu.evaluation.locks import GIB, MIB, Locks
from gpu.evaluation.repository import ModelHub
from gpu.evaluation.sandbox import BRIDGE_PREFIX, DockerSandbox, Limits, docker_sandbox
from tests.gpu.evaluation.fake_engine import HEALTHY_SERVER, FakeEngine
from tests.gpu.evaluation.model_hub import ModelRepositories

NAME = "someone/model"
DOCKERFILE = b'FROM scratch\nCOPY . /\nRUN true\nVOLUME /keep\nENV HF_HOME=/models\nCMD ["python", "server.py"]\n'
LOCKS = Locks(memory=2 * GIB, cpus=1.5, pids=77, scratch=64 * MIB, shared_memory=32 * MIB)
LIMITS = Limits(disk_reserve=0, build_seconds=20, start_seconds=10, health_pause=0.02, locks=LOCKS)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelRepositories]:
    monkeypatch.setattr("chain.huggingface._PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(leftovers, "_PAUSE_SECONDS", 0.01)
    with ModelRepositories() as server:
        server.repositories[NAME] = {"Dockerfile": DOCKERFILE, "server.py": HEALTHY_SERVER.encode()}
        yield server


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeEngine]:
    # a socket's path may have 107 bytes; pytest's folders are longer
    folder = Path(tempfile.mkdtemp(prefix="engine-"))
    try:
        with FakeEngine(folder / "docker.sock") as engine:
            yield engine
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def sandbox(hub: ModelRepositories, engine: FakeEngine, tmp_path: Path) -> DockerSandbox:
    return made(hub, engine, tmp_path)


def made(hub: ModelRepositories, engine: FakeEngine, tmp_path: Path, limits: Limits = LIMITS) -> DockerSandbox:
    return DockerSandbox(tmp_path / "evaluations", tmp_path / "logs", ModelHub(hub.url), limits, engine.address)


def model(evaluation: str = "e1") -> ModelSource:
    return ModelSource(evaluation, NAME, None, "5Hotkey", "v1")


def nothing_left(engine: FakeEngine, tmp_path: Path) -> None:
    state = engine.state()
    assert {kind: state[kind] for kind in ("containers", "images", "networks", "volumes")} == {
        "containers": [], "images": [], "networks": [], "volumes": [],
    }  # fmt: skip
    assert all(path.name.startswith(".") for path in (tmp_path / "evaluations").glob("*"))


def created(engine: FakeEngine) -> dict[str, Any]:
    (body,) = engine.bodies("POST", "/containers/create")
    assert isinstance(body, dict)
    return body


def test_a_model_runs_and_nothing_of_it_stays(sandbox: DockerSandbox, engine: FakeEngine, tmp_path: Path) -> None:
    with sandbox.running(model(), Deadline(60)) as base_url:
        assert base_url.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(f"{base_url}/api/v1/health", timeout=5) as response:
            assert response.status == 200
        assert len(engine.containers) == len(engine.networks) == 1
        assert not (tmp_path / "evaluations/e1/repository").exists()
        assert (tmp_path / "evaluations/e1/commit").read_text()
    nothing_left(engine, tmp_path)
    assert (tmp_path / "logs/e1.run.log").read_text().startswith("listening\n")
    assert "Step 1/" in (tmp_path / "logs/e1.build.log").read_text()


LOCKED = {
    "capabilities": ("HostConfig.CapDrop", ["ALL"]),
    "new privileges": ("HostConfig.SecurityOpt", ["no-new-privileges"]),
    "root": ("HostConfig.ReadonlyRootfs", True),
    "processes": ("HostConfig.PidsLimit", 77),
    "memory": ("HostConfig.Memory", 2 * GIB),
    "swap": ("HostConfig.MemorySwap", 2 * GIB),
    "cpus": ("HostConfig.NanoCpus", 1_500_000_000),
    "shared memory": ("HostConfig.ShmSize", 32 * MIB),
    "ipc": ("HostConfig.IpcMode", "private"),
    "cgroups": ("HostConfig.CgroupnsMode", "private"),
    "restart": ("HostConfig.RestartPolicy", {"Name": "no"}),
    "init": ("HostConfig.Init", True),
    "out of memory": ("HostConfig.OomScoreAdj", 1000),
    "log": ("HostConfig.LogConfig", {"Type": "json-file", "Config": {"max-size": str(8 * MIB), "max-file": "1"}}),
    "ulimits": (
        "HostConfig.Ulimits",
        [{"Name": "nofile", "Soft": 16384, "Hard": 16384}, {"Name": "core", "Soft": 0, "Hard": 0}],
    ),
    "port": ("HostConfig.PortBindings", {"8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}]}),
    "network": ("HostConfig.NetworkMode", "cv-eval-e1"),
    "names": ("HostConfig.Dns", ["192.0.2.1"]),
    "user": ("User", "65534:65534"),
    "health": ("Healthcheck.Test", ["NONE"]),
    "host name": ("Hostname", "model"),
    "gpu": ("HostConfig.DeviceRequests", None),
}


@pytest.fixture(scope="module")
def request_for_a_container(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What reached the Engine when a container was made."""
    tmp_path = tmp_path_factory.mktemp("locks")
    folder = Path(tempfile.mkdtemp(prefix="engine-"))
    with ModelRepositories() as hub, FakeEngine(folder / "docker.sock") as engine:
        hub.repositories[NAME] = {"Dockerfile": DOCKERFILE, "server.py": HEALTHY_SERVER.encode()}
        with made(hub, engine, tmp_path).running(model(), Deadline(60)):
            pass
    folder.rmdir()
    return created(engine)


@pytest.mark.parametrize("lock", LOCKED)
def test_every_lock_reaches_the_engine(request_for_a_container: dict[str, Any], lock: str) -> None:
    path, value = LOCKED[lock]
    found: Any = request_for_a_container
    for part in path.split("."):
        found = found.get(part)
    assert found == value


@pytest.mark.parametrize(
    "opening",
    ["Privileged", "Binds", "CapAdd", "Devices", "VolumesFrom", "PidMode", "UTSMode", "UsernsMode", "GroupAdd",
     "ExtraHosts", "Links", "PublishAllPorts", "Mounts", "Runtime", "AutoRemove", "OomKillDisable"],
)  # fmt: skip
def test_no_opening_is_asked_for(request_for_a_container: dict[str, Any], opening: str) -> None:
    assert not request_for_a_container["HostConfig"].get(opening)


def test_scratch_and_the_images_volumes_are_bounded(request_for_a_container: dict[str, Any]) -> None:
    tmpfs = request_for_a_container["HostConfig"]["Tmpfs"]
    assert set(tmpfs) == {"/tmp", "/var/tmp", "/run", "/keep"}
    for options in tmpfs.values():
        assert {"nosuid", "nodev"} <= set(options.split(","))
        assert "size=" in options
    assert f"size={64 * MIB}" in tmpfs["/keep"].split(",")


def test_the_environment_says_offline(request_for_a_container: dict[str, Any]) -> None:
    environment = dict(item.split("=", 1) for item in request_for_a_container["Env"])
    assert environment["HF_HUB_OFFLINE"] == environment["TRANSFORMERS_OFFLINE"] == "1"
    assert environment["HOME"] == environment["TMPDIR"] == "/tmp"
    # the image says where its models are
    assert "HF_HOME" not in environment
    assert environment["TORCH_HOME"].startswith("/tmp/")
    assert not any("proxy" in name.lower() for name in environment)


def test_labels_name_node_and_evaluation(sandbox: DockerSandbox, engine: FakeEngine, tmp_path: Path) -> None:
    begun = int(time.time())
    with sandbox.running(model(), Deadline(60)):
        (network,) = engine.networks.values()
        (container,) = engine.containers.values()
        images = list(engine.images.values())
    expected = {NODE: EvaluationsFolder(tmp_path / "evaluations").node(), EVALUATION: "e1"}
    assert len(images) > 4
    for labels in (network["Labels"], container.document["Labels"], *(image.labels for image in images)):
        assert expected.items() <= labels.items()
        assert begun <= int(labels[CREATED]) <= begun + 30
        assert begun + 60 <= int(labels[DEADLINE]) <= begun + 120


def test_the_network_is_internal_and_its_own(sandbox: DockerSandbox, engine: FakeEngine) -> None:
    with sandbox.running(model(), Deadline(60)):
        pass
    with sandbox.running(model("e2"), Deadline(60)):
        pass
    first, second = engine.bodies("POST", "/networks/create")
    assert first["Internal"] is second["Internal"] is True
    assert first["Driver"] == "bridge"
    assert first["Options"]["com.docker.network.bridge.enable_icc"] == "false"
    bridges = {body["Options"]["com.docker.network.bridge.name"] for body in (first, second)}
    # Linux allows 15 characters
    assert len(bridges) == 2
    assert all(bridge.startswith(BRIDGE_PREFIX) and len(bridge) <= 15 for bridge in bridges)


def test_the_gpu_is_the_bound_one(hub: ModelRepositories, engine: FakeEngine, tmp_path: Path) -> None:
    limits = replace(LIMITS, locks=replace(LOCKS, gpu="GPU-1234"))
    with made(hub, engine, tmp_path, limits).running(model(), Deadline(60)):
        pass
    (device,) = created(engine)["HostConfig"]["DeviceRequests"]
    assert device["DeviceIDs"] == ["GPU-1234"]
    assert device["Count"] == 0
    assert device["Capabilities"] == [["gpu", "compute", "utility"]]


@pytest.mark.allow_hosts(["127.0.0.1", *(f"127.18.0.{last}" for last in range(256))])
def test_an_unpublished_container_is_asked_at_its_own_address(
    hub: ModelRepositories, engine: FakeEngine, sandbox: DockerSandbox
) -> None:
    engine.publish = False
    with sandbox.running(model(), Deadline(60)) as base_url:
        (container,) = engine.containers.values()
        assert base_url == f"http://{container.address}:8000"


ALTERATIONS = {
    "user nobody": ("Config.User", "root"),
    "no capabilities": ("HostConfig.CapAdd", ["SYS_ADMIN"]),
    "not privileged": ("HostConfig.Privileged", True),
    "no-new-privileges": ("HostConfig.SecurityOpt", None),
    "seccomp": ("HostConfig.SecurityOpt", ["no-new-privileges", "seccomp=unconfined"]),
    "AppArmor": ("AppArmorProfile", "unconfined"),
    "read-only root": ("HostConfig.ReadonlyRootfs", False),
    "tmpfs": ("HostConfig.Tmpfs", {"/tmp": ""}),
    "process limit": ("HostConfig.PidsLimit", None),
    "memory limit": ("HostConfig.Memory", 0),
    "swap limit": ("HostConfig.MemorySwap", -1),
    "cpu limit": ("HostConfig.NanoCpus", 0),
    "shared memory limit": ("HostConfig.IpcMode", "host"),
    "own namespaces": ("HostConfig.PidMode", "host"),
    "ulimits": ("HostConfig.Ulimits", []),
    "no restart": ("HostConfig.RestartPolicy", {"Name": "always"}),
    "bounded log": ("HostConfig.LogConfig", {"Type": "json-file", "Config": {}}),
    "no mounts of the host's": ("Mounts", [{"Type": "bind", "Source": "/"}]),
    "no devices": ("HostConfig.Devices", [{"PathOnHost": "/dev/kvm"}]),
    "no health check of its own": ("Config.Healthcheck", {"Test": ["CMD", "x"]}),
    "nothing published beyond the loopback": (
        "NetworkSettings.Ports", {"8000/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8000"}]}
    ),
    "its own internal network": ("NetworkSettings.Networks", {"bridge": {"IPAddress": "172.17.0.2"}}),
}  # fmt: skip


@pytest.mark.parametrize("lock", ALTERATIONS)
def test_a_lock_that_the_daemon_left_out_stops_the_evaluation(
    sandbox: DockerSandbox, engine: FakeEngine, tmp_path: Path, lock: str
) -> None:
    path, value = ALTERATIONS[lock]
    engine.alterations[path] = value
    with pytest.raises(EvaluationImpossible, match=lock), sandbox.running(model(), Deadline(60)):
        pytest.fail("the model ran")
    # before any of the miner's code had run
    assert engine.count("POST", "/containers/") == 1 + engine.count("POST", "/containers/cv-eval-e1/kill") + sum(
        request.path.endswith("/kill") for request in engine.requests
    )
    nothing_left(engine, tmp_path)


def test_a_network_that_is_not_internal_stops_the_evaluation(
    sandbox: DockerSandbox, engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = FakeEngine.network
    monkeypatch.setattr(FakeEngine, "network", lambda self, name: real(self, name) | {"Internal": False})
    with pytest.raises(EvaluationImpossible, match="its own internal network"), sandbox.running(model(), Deadline(60)):
        pytest.fail("the model ran")
    assert not any(request.path.endswith("/start") for request in engine.requests)


@pytest.mark.parametrize(
    "options", [[], ["name=apparmor"], ["name=seccomp,profile=unconfined"]], ids=["none", "no seccomp", "unconfined"]
)
def test_a_daemon_without_seccomp_is_not_used(sandbox: DockerSandbox, engine: FakeEngine, options: list[str]) -> None:
    engine.info["SecurityOptions"] = options
    with pytest.raises(EvaluationImpossible, match="seccomp"), sandbox.running(model(), Deadline(60)):
        pytest.fail("the model ran")
    assert not engine.count("POST", "/")


@pytest.mark.parametrize("runtime", [None, "runsc"])
def test_the_runtime_is_the_engine_s_own_or_the_one_that_is_set(
    hub: ModelRepositories, engine: FakeEngine, tmp_path: Path, runtime: str | None
) -> None:
    engine.info["Runtimes"] = {"runc": {}, "runsc": {"path": "/usr/bin/runsc"}}
    sandbox = made(hub, engine, tmp_path, replace(LIMITS, locks=replace(LOCKS, runtime=runtime)))
    sandbox.check()
    with sandbox.running(model(), Deadline(60)):
        assert created(engine)["HostConfig"].get("Runtime") == runtime


def test_a_runtime_that_the_engine_does_not_know_or_keep_to_is_refused(
    hub: ModelRepositories, engine: FakeEngine, tmp_path: Path
) -> None:
    sandbox = made(hub, engine, tmp_path, replace(LIMITS, locks=replace(LOCKS, runtime="runsc")))
    words = "CONTAINER_RUNTIME: this Docker Engine knows no runtime runsc, only io.containerd.runc.v2, runc; name it"
    with pytest.raises(EvaluationImpossible, match=words):
        sandbox.check()
    with pytest.raises(EvaluationImpossible, match=words), sandbox.running(model(), Deadline(60)):
        pytest.fail("the model ran")
    assert not engine.count("POST", "/")
    engine.info["Runtimes"]["runsc"] = {}
    engine.alterations["HostConfig.Runtime"] = "runc"
    with pytest.raises(EvaluationImpossible, match="its runtime"), sandbox.running(model(), Deadline(60)):
        pytest.fail("the model ran")


# the build


def test_what_the_build_is_told(
    hub: ModelRepositories, sandbox: DockerSandbox, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".docker").mkdir()
    (tmp_path / ".docker/config.json").write_text(
        '{"auths": {"docker.io": {"auth": "b3BlcmF0b3I6c2VjcmV0"}}, "proxies": {"default": {"httpProxy": "http://x"}}}'
    )
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / ".docker"))
    hub.repositories[NAME] |= {
        ".dockerignore": b"Dockerfile\nserver.py\n*",
        "Dockerfile": b"FROM scratch AS a\nLABEL celery-validator.node=x\nFROM a\n" + DOCKERFILE.split(b"\n", 1)[1],
        "deep/er/file": b"x",
    }
    with sandbox.running(model(), Deadline(60)):
        pass
    (request,) = [request for request in engine.requests if request.path == "/build"]
    assert request.query["memory"] == request.query["memswap"] == str(LIMITS.build_memory)
    assert request.query["cpuquota"] == "400000"
    assert request.query["networkmode"] == "default"
    assert request.query["forcerm"] == request.query["rm"] == "True"
    assert EVALUATION in request.query["labels"]
    assert "X-Registry-Config" not in request.headers
    assert "buildargs" not in request.query
    assert request.body["names"] == ["Dockerfile", "deep/er/file", "server.py"]
    lines = request.body["Dockerfile"].splitlines()
    node = EvaluationsFolder(tmp_path / "evaluations").node()
    assert [line.split()[0] for line in lines] == [
        "FROM", "LABEL", "FROM", "LABEL", "COPY", "RUN", "VOLUME", "ENV", "CMD",
    ]  # fmt: skip
    assert all(f'{NODE}="{node}"' in line for line in lines if line.startswith("LABEL"))
    assert "httpProxy" not in str(created(engine))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"Dockerfile": b"FROM scratch\nRUN false\n"}, "non-zero code"),
        ({"Dockerfile": b"FROM missing.example/x\n"}, "comes from missing.example"),
        ({"Dockerfile": b"FROM private/x\n"}, "no image private/x to the public"),
        ({"Dockerfile": b"FROM local-image\n"}, "no image local-image to the public"),
        ({"Dockerfile": b"FROM scratch\nCOPY --from=local-image / /\n"}, "no image local-image to the public"),
        ({"readme": b""}, "no Dockerfile"),
        ({"Dockerfile/x": b""}, "no Dockerfile"),
        ({"Dockerfile": b"FROM scratch\nADD http://169.254.169.254/ /x\n"}, "ADD"),
    ],
)
def test_a_model_that_does_not_build_leaves_nothing(
    hub: ModelRepositories,
    sandbox: DockerSandbox,
    engine: FakeEngine,
    tmp_path: Path,
    files: dict[str, bytes],
    message: str,
) -> None:
    local = engine.add_image("local-image:latest")
    hub.repositories[NAME] = files
    with pytest.raises(ModelFault, match=message) as raised, sandbox.running(model(), Deadline(60)):
        pytest.fail("the model ran")
    assert raised.value.code is ModelFaultCode.BUILD_FAILED
    assert set(engine.images) == {local}
    engine.remove_image(local, force=True, noprune=True)
    nothing_left(engine, tmp_path)


def test_only_the_end_of_a_builds_log_is_kept(
    hub: ModelRepositories, sandbox: DockerSandbox, engine: FakeEngine, tmp_path: Path
) -> None:
    hub.repositories[NAME]["Dockerfile"] = b"FROM scratch\nRUN spam 2000\nRUN false\n"
    with pytest.raises(ModelFault) as raised, sandbox.running(model(), Deadline(60)):
        pytest.fail("the model ran")
    assert "000001999" in str(raised.value)
    assert len(str(raised.value)) < 3000
    kept = (tmp_path / "logs/e1.build.log").stat().st_size
    assert 60_000 < kept <= 2**16


@pytest.mark.parametrize(("build", "whole", "code"), [(0.6, 60.0, "build_failed"), (60.0, 1.2, "build_failed")])
def test_a_build_ends_with_its_time(
    hub: ModelRepositories, engine: FakeEngine, tmp_path: Path, build: float, whole: float, code: str
) -> None:
    hub.repositories[NAME]["Dockerfile"] = b"FROM scratch\nRUN sleep 60\n"
    sandbox = made(hub, engine, tmp_path, replace(LIMITS, build_seconds=build))
    begun = time.monotonic()
    with pytest.raises(ModelFault, match="not built in time") as raised, sandbox.running(model(), Deadline(whole)):
        pytest.fail("the model ran")
    assert raised.value.code == code
    assert time.monotonic() - begun < 10
    nothing_left(engine, tmp_path)


def test_a_build_that_fills_the_disk_is_stopped(hub: ModelRepositories, engine: FakeEngine, tmp_path: Path) -> None:
    hub.repositories[NAME]["Dockerfile"] = b"FROM scratch\nRUN sleep 60\n"
    room = itertools.chain([100 * GIB] * 3, itertools.repeat(19 * GIB))
    limits = replace(LIMITS, disk_reserve=40 * GIB)
    folders = tmp_path / "evaluations", tmp_path / "logs"
    hub_client = ModelHub(hub.url, free=lambda _: 100 * GIB)
    sandbox = DockerSandbox(*folders, hub_client, limits, engine.address, free=lambda _: next(room))
    with pytest.raises(ModelFault, match="filling this node's disk"), sandbox.running(model(), Deadline(60)):
        pytest.fail("the model ran")
    nothing_left(engine, tmp_path)


BASE = "docker.io/library/python:3.11"


def test_a_base_image_is_pulled_by_digest_and_goes_again(
    hub: ModelRepositories, sandbox: DockerSandbox, engine: FakeEngine, tmp_path: Path
) -> None:
    engine.registry[BASE] = {}
    hub.repositories[NAME]["Dockerfile"] = b'ARG V=3.11\nFROM python:$V\nCOPY . /\nCMD ["python", "server.py"]\n'
    with sandbox.running(model(), Deadline(60)):
        assert any(image.digests for image in engine.images.values())
    nothing_left(engine, tmp_path)
    (request,) = [request for request in engine.requests if request.path == "/images/create"]
    assert request.query["fromImage"] == "python"
    assert request.query["tag"].startswith("sha256:")
    (build,) = [request for request in engine.requests if request.path == "/build"]
    assert f"FROM python@{request.query['tag']}" in build.body["Dockerfile"]


def test_a_base_image_that_was_here_stays(hub: ModelRepositories, sandbox: DockerSandbox, engine: FakeEngine) -> None:
    engine.registry[BASE] = {}
    here = engine.pull(BASE)
    hub.repositories[NAME]["Dockerfile"] = b'FROM python:3.11\nCOPY . /\nCMD ["python", "server.py"]\n'
    with sandbox.running(model(), Deadline(60)):
        pass
    assert set(engine.images) == {here}
    assert engine.images[here].tags == [BASE]
    assert not engine.count("POST", "/images/create")


def test_a_private_image_of_the_operators_cannot_be_built_on(
    hub: ModelRepositories, sandbox: DockerSandbox, engine: FakeEngine
) -> None:
    digest = "sha256:" + "a" * 64
    private = engine.add_image("ghcr.io/operator/private:1", digests=(f"ghcr.io/operator/private@{digest}",))
    for name in ("ghcr.io/operator/private:1", f"ghcr.io/operator/private@{digest}", private, private[7:19]):
        hub.repositories[NAME]["Dockerfile"] = f"FROM {name}\n".encode()
        with pytest.raises(ModelFault, match="to the public"), sandbox.running(model(), Deadline(60)):
            pytest.fail("the model ran")
    assert set(engine.images) == {private}
    assert not engine.count("POST", "/build")


@pytest.mark.parametrize(
    ("message", "error"), [("manifest unknown", ModelFault), ("dial tcp: i/o timeout", EvaluationImpossible)]
)
def test_whose_fault_a_failed_pull_is(
    hub: ModelRepositories, sandbox: DockerSandbox, engine: FakeEngine, message: str, error: type[Exception]
) -> None:
    engine.registry[BASE] = {}
    engine.faults["POST /images/create"] = {"status": 500, "message": message}
    hub.repositories[NAME]["Dockerfile"] = b"FROM python:3.11\n"
    with pytest.raises(error, match=message), sandbox.running(model(), Deadline(60)):
        pytest.fail("the model ran")


def test_a_base_image_that_somebody_tagged_meanwhile_stays(
    hub: ModelRepositories, sandbox: DockerSandbox, engine: FakeEngine
) -> None:
    engine.registry[BASE] = {}
    hub.repositories[NAME]["Dockerfile"] = b'FROM python:3.11\nCOPY . /\nCMD ["python", "server.py"]\n'
    with sandbox.running(model(), Deadline(60)):
        engine.pull(BASE)
        (base,) = [image for image in engine.images.values() if image.digests]
        base.tags.append("mine:latest")
    assert set(engine.images) == {base.id}


def test_a_base_image_with_triggers_is_not_built_on(
    hub: ModelRepositories, sandbox: DockerSandbox, engine: FakeEngine, tmp_path: Path
) -> None:
    engine.registry[BASE] = {"OnBuild": ["ADD http://169.254.169.254/ /x"]}
    hub.repositories[NAME]["Dockerfile"] = b"FROM python:3.11\n"
    with pytest.raises(ModelFault, match="ONBUILD"), sandbox.running(model(), Deadline(60)):
        pytest.fail("the model ran")
    nothing_left(engine, tmp_path)


# the start


def server(body: str) -> dict[str, bytes]:
    return {"Dockerfile": DOCKERFILE, "server.py": body.encode()}


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        (
            "print('no weights \\x1b[2J'); raise SystemExit(3)",
            "start_failed",
            r"exit code 3.*\n.*weights ⟨U\+001B⟩\[2J",
        ),
        ("import time; print('loading', flush=True); time.sleep(60)", "unhealthy", r"did not answer.*\n.*loading"),
        (HEALTHY_SERVER.replace('"healthy"', '"starting"'), "unhealthy", "did not answer"),
        (HEALTHY_SERVER.replace("200 if", "500 if"), "unhealthy", "did not answer"),
        (HEALTHY_SERVER.replace('{"status": "healthy"}', '"x" * 10**8'), "unhealthy", "did not answer"),
        (HEALTHY_SERVER.replace("json.dumps({", "json.dumps([{").replace("})", "}])"), "unhealthy", "did not answer"),
        (
            HEALTHY_SERVER.replace("200 if", "302 if")
            .replace("else 404", "else 200")
            .replace("self.end_headers()", "self.send_header('Location', '/else'); self.end_headers()"),
            "unhealthy",
            "did not answer",
        ),
        (HEALTHY_SERVER.replace("self.wfile.write(body)", "import time; time.sleep(60)"), "unhealthy", "did not ans"),
    ],
    ids=["stops", "silent", "starting", "500", "huge", "list", "redirect", "hangs"],
)
def test_a_model_that_does_not_get_healthy_leaves_nothing(
    hub: ModelRepositories, engine: FakeEngine, tmp_path: Path, body: str, code: str, message: str
) -> None:
    hub.repositories[NAME] = server(body)
    sandbox = made(hub, engine, tmp_path, replace(LIMITS, start_seconds=1.0))
    begun = time.monotonic()
    with pytest.raises(ModelFault, match=message) as raised, sandbox.running(model(), Deadline(60)):
        pytest.fail("the model ran")
    assert raised.value.code == code
    assert time.monotonic() - begun < 15
    nothing_left(engine, tmp_path)


def test_a_model_that_ran_out_of_memory_says_so(hub: ModelRepositories, engine: FakeEngine, tmp_path: Path) -> None:
    hub.repositories[NAME] = server("raise SystemExit(137)")
    engine.alterations["State.OOMKilled"] = True
    with pytest.raises(ModelFault, match="out of memory"), made(hub, engine, tmp_path).running(model(), Deadline(60)):
        pytest.fail("the model ran")


def test_the_whole_time_limit_ends_a_start(hub: ModelRepositories, engine: FakeEngine, tmp_path: Path) -> None:
    hub.repositories[NAME] = server("import time; time.sleep(60)")
    with pytest.raises(ModelFault) as raised, made(hub, engine, tmp_path).running(model(), Deadline(2)):
        pytest.fail("the model ran")
    assert raised.value.code is ModelFaultCode.TIME_LIMIT
    nothing_left(engine, tmp_path)


def test_a_chatty_models_log_is_bounded(hub: ModelRepositories, sandbox: DockerSandbox, tmp_path: Path) -> None:
    chatter = "for number in range(9000): print(f'{number:09d}' + 'y' * 90)\n"
    hub.repositories[NAME] = server(chatter + HEALTHY_SERVER)
    with sandbox.running(model(), Deadline(60)):
        pass
    kept = (tmp_path / "logs/e1.run.log").read_text()
    assert 250_000 < len(kept) <= 2**18
    assert "\nlistening\n" in kept


def test_only_the_newest_logs_stay(sandbox: DockerSandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpu.evaluation.sandbox._KEPT_LOGS", 3)
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/notes.txt").touch()
    for number in range(4):
        old = tmp_path / f"logs/old{number}.run.log"
        old.touch()
        os.utime(old, (number, number))
    with sandbox.running(model(), Deadline(60)):
        pass
    assert {path.name for path in (tmp_path / "logs").iterdir()} == {
        "notes.txt", "old3.run.log", "e1.build.log", "e1.run.log",
    }  # fmt: skip


@pytest.mark.parametrize("volume", ["/", "/proc/x", "relative", "/a/../.."])
def test_a_volume_that_cannot_be_covered_is_the_models_fault(
    hub: ModelRepositories, sandbox: DockerSandbox, engine: FakeEngine, volume: str
) -> None:
    hub.repositories[NAME]["Dockerfile"] = f'FROM scratch\nVOLUME {volume}\nCMD ["python", "server.py"]\n'.encode()
    with pytest.raises(ModelFault, match="VOLUME"), sandbox.running(model(), Deadline(60)):
        pytest.fail("the model ran")
    assert not engine.count("POST", "/containers/create")


def test_no_more_cores_are_promised_than_there_are(sandbox: DockerSandbox, engine: FakeEngine) -> None:
    engine.info["NCPU"] = 1
    with sandbox.running(model(), Deadline(60)):
        pass
    assert created(engine)["HostConfig"]["NanoCpus"] == 1_000_000_000


@pytest.mark.parametrize(
    ("message", "error"), [("No command specified", ModelFault), ("Range of CPUs is from 0.01", EvaluationImpossible)]
)
def test_whose_fault_a_refused_container_is(
    sandbox: DockerSandbox, engine: FakeEngine, tmp_path: Path, message: str, error: type[Exception]
) -> None:
    engine.faults["POST /containers/create"] = {"status": 400, "message": message}
    with pytest.raises(error, match=message), sandbox.running(model(), Deadline(60)):
        pytest.fail("the model ran")
    nothing_left(engine, tmp_path)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ({"status": 400, "message": "OCI runtime: exec: \"x\": not found"}, ModelFault),
        ({"status": 500, "message": "could not select device driver for [[gpu]]"}, EvaluationImpossible),
        ({"status": 500, "message": "error setting rlimit type 7"}, EvaluationImpossible),
        ({"drop": True}, EvaluationImpossible),
    ],
    ids=["program", "gpu", "rlimit", "drop"],
)  # fmt: skip
def test_whose_fault_a_failed_start_is(
    sandbox: DockerSandbox, engine: FakeEngine, tmp_path: Path, fault: dict[str, Any], error: type[Exception]
) -> None:
    engine.faults["POST /containers/cv-eval-e1/start"] = fault
    with pytest.raises(error), sandbox.running(model(), Deadline(60)):
        pytest.fail("the model ran")
    nothing_left(engine, tmp_path)


# leaving


@pytest.mark.parametrize(
    "error", [ModelFault(ModelFaultCode.ANSWER_INVALID, "x"), RuntimeError("x"), KeyboardInterrupt()]
)
def test_whatever_ends_the_evaluation_nothing_stays(
    sandbox: DockerSandbox, engine: FakeEngine, tmp_path: Path, error: BaseException
) -> None:
    with pytest.raises(type(error)), sandbox.running(model(), Deadline(60)):
        raise error
    nothing_left(engine, tmp_path)


@pytest.mark.parametrize(
    "request_line",
    ["GET /info", "POST /build", "POST /networks/create", "POST /containers/create", "GET /containers/cv"],
)
@pytest.mark.parametrize("fault", [{"status": 500}, {"drop": True}, {"drop": True, "after": True}], ids=str)
def test_a_fault_of_the_engines_at_any_point_leaves_nothing(
    sandbox: DockerSandbox, engine: FakeEngine, tmp_path: Path, request_line: str, fault: dict[str, Any]
) -> None:
    engine.faults[request_line] = dict(fault)
    with pytest.raises(EvaluationImpossible, match="Docker"), sandbox.running(model(), Deadline(60)):
        pytest.fail("the model ran")
    engine.faults.clear()
    nothing_left(engine, tmp_path)


@pytest.mark.parametrize(
    "request_line", ["GET /containers/json", "DELETE /containers", "DELETE /networks", "DELETE /images"]
)
@pytest.mark.parametrize("fault", [{"status": 500, "times": 2}, {"drop": True, "times": 2}], ids=str)
def test_a_removal_that_fails_is_tried_again(
    sandbox: DockerSandbox, engine: FakeEngine, tmp_path: Path, request_line: str, fault: dict[str, Any]
) -> None:
    with sandbox.running(model(), Deadline(60)):
        engine.faults[request_line] = dict(fault)
    nothing_left(engine, tmp_path)


@pytest.mark.parametrize("kind", ["containers", "networks", "images"])
def test_each_part_goes_though_another_does_not(
    sandbox: DockerSandbox, engine: FakeEngine, tmp_path: Path, kind: str
) -> None:
    with sandbox.running(model(), Deadline(60)):
        engine.faults[f"DELETE /{kind}"] = {"status": 500}
    state = engine.state()
    stuck = {"containers": {"containers", "networks", "images"}, "networks": {"networks"}, "images": {"images"}}[kind]
    for other in {"containers", "networks", "images"} - stuck:
        assert state[other] == []
    assert not (tmp_path / "evaluations/e1").exists()
    # the sweeper finishes it
    engine.faults.clear()
    assert (tmp_path / "evaluations/e1.lock").exists()
    sandbox.sweep()
    nothing_left(engine, tmp_path)


def test_only_its_own_is_removed(sandbox: DockerSandbox, engine: FakeEngine, tmp_path: Path) -> None:
    other_node = {NODE: "f" * 32, EVALUATION: "e1"}
    other_evaluation = {NODE: EvaluationsFolder(tmp_path / "evaluations").node(), EVALUATION: "e10"}
    unlike = {"celery-validator.nodes": "x", EVALUATION: "e1"}
    for number, labels in enumerate([{}, other_node, other_evaluation, unlike]):
        engine.add_container(f"cv-eval-e1{number}", labels)
        engine.add_network(f"cv-eval-e1{number}", labels)
        engine.add_image(f"cv-eval-e1{number}:latest", labels=labels)
        engine.add_image(labels=labels)
    (tmp_path / "evaluations/e10").mkdir()
    (tmp_path / "evaluations/e1-notes").mkdir()
    before = engine.state()
    with sandbox.running(model(), Deadline(60)):
        pass
    after = engine.state()
    assert {k: v for k, v in before.items() if k != "requests"} == {k: v for k, v in after.items() if k != "requests"}
    assert (tmp_path / "evaluations/e10").is_dir()
    assert (tmp_path / "evaluations/e1-notes").is_dir()


def test_a_killed_try_is_cleared_away_by_the_next(sandbox: DockerSandbox, engine: FakeEngine, tmp_path: Path) -> None:
    folder = EvaluationsFolder(tmp_path / "evaluations")
    labels = {NODE: folder.node(), EVALUATION: "e1"}
    engine.add_container("cv-eval-e1", labels)
    engine.add_network("cv-eval-e1", labels)
    engine.add_image(labels=labels)
    (folder.folder("e1") / "repository").mkdir(parents=True)
    folder.lock_file("e1").touch()
    with sandbox.running(model(), Deadline(60)):
        assert len(engine.containers) == len(engine.networks) == 1
    nothing_left(engine, tmp_path)


def test_one_evaluation_does_not_run_twice_at_once(sandbox: DockerSandbox, engine: FakeEngine, tmp_path: Path) -> None:
    with sandbox.running(model(), Deadline(60)):
        with pytest.raises(EvaluationImpossible, match="already running"), sandbox.running(model(), Deadline(60)):
            pytest.fail("it ran twice")
        assert len(engine.containers) == 1
    nothing_left(engine, tmp_path)


def test_two_evaluations_run_side_by_side(sandbox: DockerSandbox, engine: FakeEngine, tmp_path: Path) -> None:
    with sandbox.running(model(), Deadline(60)), sandbox.running(model("e2"), Deadline(60)):
        assert len(engine.containers) == len(engine.networks) == 2
    nothing_left(engine, tmp_path)


@pytest.mark.parametrize("evaluation", ["../../etc", "a/b", "A" * 300, "", "ä", "-x", "x.lock", "\0"])
def test_an_id_from_outside_is_safe(
    sandbox: DockerSandbox, engine: FakeEngine, tmp_path: Path, evaluation: str
) -> None:
    with sandbox.running(model(evaluation), Deadline(60)):
        (container,) = engine.containers.values()
        assert container.name.removeprefix("cv-eval-id-").isalnum()
    nothing_left(engine, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} <= {"evaluations", "logs", "data"}


# what the host leaves open


def test_ports_that_are_open_to_containers(tmp_path: Path) -> None:
    table = tmp_path / "tcp"
    table.write_text(
        "  sl  local_address rem_address   st tx_queue\n"
        "   0: 00000000:0016 00000000:0000 0A 00000000:00000000\n"
        "   1: 0100007F:1F90 00000000:0000 0A 00000000:00000000\n"
        "   2: 00000000:0017 0200007F:0000 01 00000000:00000000\n"
        f"   3: {'0' * 32}:01BB {'0' * 32}:0000 0A 00000000:00000000\n"
    )
    assert ports_open_to_containers([table, tmp_path / "absent"]) == (22, 443)


@pytest.mark.parametrize("firewall", [False, True])
def test_open_ports_are_warned_of_unless_there_is_a_firewall(
    hub: ModelRepositories,
    engine: FakeEngine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    firewall: bool,
) -> None:
    monkeypatch.setattr("gpu.evaluation.sandbox.ports_open_to_containers", lambda: (22, 6379))
    with made(hub, engine, tmp_path, replace(LIMITS, firewall=firewall)).running(model(), Deadline(60)):
        pass
    assert any("22, 6379" in record.message and "cv-*" in record.message for record in caplog.records) is not firewall


# no Engine


# a connection that the SDK could not make is closed when it is collected
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("kind", ["absent", "silent", "refuses"])
def test_no_engine_names_the_fix(
    hub: ModelRepositories, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(tempfile.mkdtemp(prefix="engine-"))
    path = folder / "docker.sock"
    with contextlib.ExitStack() as stack:
        if kind == "silent":
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            listener.bind(str(path))
            listener.listen()
            listener.settimeout(10)
            hang_up = threading.Thread(target=lambda: [listener.accept()[0].close() for _ in range(1)], daemon=True)
            hang_up.start()
        if kind == "refuses":
            engine = stack.enter_context(FakeEngine(path))
            engine.faults["GET /version"] = {"status": 403, "message": "permission denied"}
        sandbox = DockerSandbox(tmp_path / "e", tmp_path / "l", ModelHub(hub.url), LIMITS, f"unix://{path}")
        with pytest.raises(EvaluationImpossible, match="DOCKER_HOST"), sandbox.running(model(), Deadline(60)):
            pytest.fail("the model ran")
    shutil.rmtree(folder)
    gc.collect()


def test_the_settings_reach_the_container(
    hub: ModelRepositories, engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "DOCKER_HOST": engine.address, "HF_ENDPOINT": hub.url, "CONTAINER_MEMORY": "3GiB", "CONTAINER_CPUS": "2",
        "CONTAINER_PORT": "9001", "DISK_RESERVE": "0", "BUILD_NETWORK": "none", "BUILD_LIMIT": "50",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    get_settings.cache_clear()
    with docker_sandbox(get_settings(), "0").running(model(), Deadline(60)):
        pass
    host = created(engine)["HostConfig"]
    assert host["Memory"] == 3 * GIB
    assert host["NanoCpus"] == 2_000_000_000
    assert list(host["PortBindings"]) == ["9001/tcp"]
    assert host["DeviceRequests"][0]["DeviceIDs"] == ["0"]
    (build,) = [request for request in engine.requests if request.path == "/build"]
    assert build.query["networkmode"] == "none"
    assert (get_settings().data_dir / "logs/evaluations/e1.run.log").exists()
