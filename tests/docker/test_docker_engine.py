"""With a Docker daemon: Compose reads its files, both images are built, and the small one works (make test-docker)."""

from __future__ import annotations

import json
import subprocess
import uuid
from pathlib import Path

import pytest

from tests.command_lines import PROJECT

pytestmark = [pytest.mark.docker, pytest.mark.timeout(3600)]

COMPOSE = "docker/compose.yaml"


def _docker(*words: str, check: bool = True) -> str:
    said = subprocess.run(["docker", *words], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert not check or said.returncode == 0, said.stderr
    return said.stdout


@pytest.fixture(scope="module")
def cpu_image() -> str:
    """The cpu image, built from the Dockerfile."""
    name = f"celery-validator-test:{uuid.uuid4().hex[:8]}"
    _docker("build", "-f", "docker/Dockerfile", "--target", "cpu", "-t", name, ".")
    return name


@pytest.mark.parametrize("overlay", [None, "docker/compose.cpu.yaml", "docker/compose.models.yaml"])
def test_compose_reads_its_files(overlay: str | None) -> None:
    files = ["-f", COMPOSE, *(["-f", overlay] if overlay else [])]
    document = json.loads(_docker("compose", *files, "config", "--format", "json"))
    workers = [
        name
        for name, service in document["services"].items()
        if "worker" in (service.get("command") or []) and not service.get("profiles")
    ]
    assert len(workers) == 3


def test_the_cpu_image_works_and_holds_nothing_it_should_not(cpu_image: str) -> None:
    locked = ["run", "--rm", "--read-only", "--cap-drop", "ALL", "--tmpfs", "/tmp", cpu_image]
    assert "was brought from revision none" in _docker(*locked, "python", "-m", "app", "migrate")
    assert _docker(*locked, "id", "-u").strip() == "10001"
    assert _docker(*locked, "sh", "-c", "command -v gcc cc make || true").strip() == ""
    absent = "import importlib.util as u; print([n for n in ('torch', 'pytest') if u.find_spec(n)])"
    assert _docker(*locked, "python", "-c", absent).strip() == "[]"
    drawn = "from rdkit.Chem.Draw import rdMolDraw2D; print(rdMolDraw2D.MolDraw2DSVG(9, 9) is not None)"
    assert _docker(*locked, "python", "-c", drawn).strip() == "True"


def test_an_epoch_runs_in_the_cpu_image(cpu_image: str) -> None:
    """Scores come from the recording, so that no model is needed."""
    words = [
        "python",
        "-m",
        "app",
        "epoch",
        "replay",
        "app/demo/recording",
        "--scores",
        "recorded",
        "--cluster",
        "eager",
    ]
    said = _docker("run", "--rm", "--tmpfs", "/tmp", cpu_image, *words, "--out", "/data/result.json", "--force")
    assert "Weights: " in said


def test_the_gpu_image_is_built_with_tritons_driver() -> None:
    name = f"celery-validator-test-gpu:{uuid.uuid4().hex[:8]}"
    _docker("build", "-f", "docker/Dockerfile", "--target", "gpu", "-t", name, ".")
    listed = _docker("run", "--rm", name, "sh", "-c", "ls /tmp/triton/*/cuda_utils*.so; command -v gcc || true")
    assert len(listed.split()) == 2
    assert Path(listed.split()[0]).name.startswith("cuda_utils")
