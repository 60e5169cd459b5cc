"""The container runner on a real Docker daemon: ``make test-docker``, on Linux, as a user who may talk to Docker.

The image holds this machine's Python interpreter, so that no registry is needed.
"""

from __future__ import annotations

import io
import json
import os
import random
import re
import subprocess
import sys
import tarfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gpu.evaluation.contract import Deadline, ModelFault, ModelSource
from gpu.evaluation.docker_engine import engine
from gpu.evaluation.leftovers import EVALUATION, NODE, EvaluationsFolder, sweep
from gpu.evaluation.locks import MIB, Locks
from gpu.evaluation.repository import ModelHub
from gpu.evaluation.sandbox import DockerSandbox, Limits
from tests.gpu.evaluation.evaluation_killer import Killer
from tests.gpu.evaluation.model_hub import ModelRepositories

pytestmark = [pytest.mark.docker, pytest.mark.enable_socket]

ADDRESS = os.environ.get("DOCKER_HOST")
REPOSITORY = "someone/model"
PYTHON = Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}"
LEFT_OUT = {"test", "tests", "idlelib", "tkinter", "__pycache__", "site-packages", "ensurepip", "lib2to3", "turtledemo"}


def root_tar() -> bytes:
    """The interpreter, its standard library and the libraries that these load, at the same paths, readable to all."""
    library = Path(sys.base_prefix) / "lib" / f"python3.{sys.version_info.minor}"
    files = {PYTHON}
    for path in library.rglob("*"):
        parts = path.relative_to(library).parts
        if path.is_file() and not LEFT_OUT & set(parts) and not parts[0].startswith("config-"):
            files.add(path)
    linked = [path for path in files if path.suffix == ".so" or path == PYTHON]
    printed = subprocess.run(["ldd", *linked], capture_output=True, text=True, check=True).stdout
    files |= {Path(found) for found in re.findall(r"(/\S+)(?= \(0x)", printed)}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as archive:
        for path in sorted(files):
            content = path.read_bytes()
            member = tarfile.TarInfo(str(path).lstrip("/"))
            member.size, member.mode = len(content), 0o755
            archive.addfile(member, io.BytesIO(content))
        for folder in ("tmp", "run", "var/tmp", "proc", "sys", "dev", "etc"):
            member = tarfile.TarInfo(folder)
            member.type, member.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(member)
    return buffer.getvalue()


def dockerfile(*lines: str, program: str = "/server.py") -> bytes:
    command = json.dumps([str(PYTHON), program])
    return "\n".join(["FROM scratch AS base", "ADD root.tar.gz /", "FROM base", *lines, f"CMD {command}"]).encode()


@pytest.fixture(scope="module")
def interpreter() -> bytes:
    return root_tar()


@pytest.fixture
def hub(interpreter: bytes) -> Iterator[ModelRepositories]:
    with ModelRepositories() as server:
        server.large = (".gz",)
        server.repositories[REPOSITORY] = {
            "Dockerfile": dockerfile("COPY server.py /server.py", 'VOLUME ["/keep"]', "HEALTHCHECK CMD false"),
            "server.py": (Path(__file__).parent / "confined_server.py").read_bytes(),
            "root.tar.gz": interpreter,
        }
        yield server


@pytest.fixture
def sandbox(hub: ModelRepositories, tmp_path: Path) -> DockerSandbox:
    locks = Locks(memory=512 * MIB, cpus=1.0, pids=64, scratch=32 * MIB, shared_memory=16 * MIB)
    limits = Limits(disk_reserve=1, build_memory=512 * MIB, health_pause=0.1, start_seconds=30, locks=locks)
    return DockerSandbox(tmp_path / "evaluations", tmp_path / "logs", ModelHub(hub.url), limits, ADDRESS)


def everything() -> dict[str, set[str]]:
    """What the daemon holds, no matter to which node it belongs."""
    with engine(ADDRESS) as client:
        return {
            "containers": {item["Id"] for item in client.containers(all=True)},
            "images": {item["Id"] for item in client.images(all=True)},
            "networks": {item["Id"] for item in client.networks()},
            "volumes": {item["Name"] for item in client.volumes()["Volumes"] or ()},
        }


def source(name: str = "docker-test") -> ModelSource:
    return ModelSource(f"{name}-{os.getpid()}", REPOSITORY, None, "5Hotkey", "v1")


def test_a_model_is_locked_in_and_nothing_of_it_stays(sandbox: DockerSandbox, tmp_path: Path) -> None:
    before = everything()
    with sandbox.running(source(), Deadline(120)) as base_url:
        with urllib.request.urlopen(f"{base_url}/probe", timeout=30) as response:
            seen: dict[str, Any] = json.load(response)
        with engine(ADDRESS) as client:
            node = EvaluationsFolder(tmp_path / "evaluations").node()
            (container,) = client.containers(filters={"label": [f"{NODE}={node}"]})
            assert container["Labels"][EVALUATION].startswith("docker-test")
    assert everything() == before
    assert seen["uid"] == 65534
    assert seen["groups"] == [65534]
    assert {int(mask, 16) for mask in seen["capabilities"]} == {0}
    assert seen["no_new_privileges"] == "1"
    assert seen["seccomp"] == "2"
    assert seen["root"] == "OSError 30"
    assert seen["own_code"] == "OSError 30"
    assert seen["volume"] == seen["scratch"] == "written"
    assert seen["volume_too_much"] == seen["scratch_too_much"] == "OSError 28"
    assert seen["mounts"]["/"].startswith("ro,")
    for folder in ("/tmp", "/keep", "/var/tmp", "/run"):
        assert {"nosuid", "nodev"} <= set(seen["mounts"][folder].split(","))
    # no route, or dropped by Docker's own rules, as the Engine's version has it
    assert seen["beyond"] in {"OSError 101", "OSError 113", "TimeoutError None"}
    assert seen["name"].startswith("gaierror")
    assert seen["interfaces"] == ["eth0", "lo"]
    assert "eth0" not in seen["addresses"]
    assert seen["environment"]["HF_HUB_OFFLINE"] == "1"
    assert seen["hostname"] == "model"
    assert not {"nvidia0", "sda", "vda", "kvm", "mem"} & set(seen["devices"])
    assert (tmp_path / "logs" / f"docker-test-{os.getpid()}.run.log").read_text().startswith("listening")
    assert "Step 1/" in (tmp_path / "logs" / f"docker-test-{os.getpid()}.build.log").read_text()
    assert not [path for path in (tmp_path / "evaluations").iterdir() if path.name.startswith("docker-test")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"FROM scratch\nCOPY absent.txt /\n", "the build failed: COPY failed"),
        (b"FROM scratch\nFOO bar\n", "unknown instruction"),
        (b"FROM no.such.registry.example/model\n", "comes from no.such.registry.example"),
        (b'FROM scratch\nCOPY server.py /\nCMD ["/absent"]\n', "exit code 127"),
        (dockerfile("COPY server.py /server.py", program="/absent.py"), "exit code 2"),
    ],
)
def test_a_model_that_cannot_run_leaves_nothing(
    hub: ModelRepositories, sandbox: DockerSandbox, content: bytes, message: str
) -> None:
    hub.repositories[REPOSITORY]["Dockerfile"] = content
    before = everything()
    with pytest.raises(ModelFault, match=re.escape(message)), sandbox.running(source(), Deadline(120)):
        pass
    assert everything() == before


def test_a_build_that_takes_too_long_leaves_nothing(hub: ModelRepositories, tmp_path: Path) -> None:
    sleep = json.dumps([str(PYTHON), "-c", "import time; time.sleep(60)"])
    hub.repositories[REPOSITORY]["Dockerfile"] = dockerfile(f"RUN {sleep}")
    before = everything()
    sandbox = DockerSandbox(
        tmp_path / "evaluations", tmp_path / "logs", ModelHub(hub.url), Limits(disk_reserve=1, build_seconds=8), ADDRESS
    )
    begun = time.monotonic()
    with pytest.raises(ModelFault, match="not built in time"), sandbox.running(source(), Deadline(120)):
        pass
    assert time.monotonic() - begun < 40
    assert everything() == before


def test_an_evaluation_killed_anywhere_leaves_nothing_after_a_sweep(hub: ModelRepositories, tmp_path: Path) -> None:
    draw = random.Random(6)
    before = everything()
    killer = Killer(ADDRESS or "unix:///var/run/docker.sock", hub.url, tmp_path)
    try:
        begun = time.monotonic()
        assert killer.run("whole") == "done 0"
        whole = time.monotonic() - begun
        for number in range(8):
            end = time.monotonic() + whole * (number + draw.random()) / 8
            assert killer.run(f"e{number}", lambda end=end: time.monotonic() > end) in {"killed", "done 0"}
            for _ in range(60):
                with engine(ADDRESS) as client:
                    sweep(EvaluationsFolder(tmp_path / "evaluations"), client)
                if everything() == before:
                    break
                # a step that copies files is not interrupted: its layer comes when it is done
                time.sleep(1)
            assert everything() == before
            assert {path.name for path in (tmp_path / "evaluations").iterdir()} <= {".node-id", ".pulled"}
    finally:
        killer.close()
