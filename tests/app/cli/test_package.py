"""The package: its version, its entry point, its dependencies, and what an installed command needs."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import yaml

from app import __version__

PROJECT = Path(__file__).parents[3]
METADATA = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_version_is_shown() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "app", "--version"], capture_output=True, text=True, check=True, cwd=PROJECT
    )
    assert shown.stdout == f"celery-validator {__version__}\n"


def test_every_file_that_the_metadata_reads_is_there_and_plain() -> None:
    dynamic = METADATA["tool"]["setuptools"]["dynamic"]
    named = [dynamic["dependencies"], *dynamic["optional-dependencies"].values()]
    for name in (name for entry in named for name in entry["file"]):
        lines = (PROJECT / name).read_text(encoding="utf-8").splitlines()
        # the build reads requirements, and no options such as -r
        assert not [line for line in lines if line.startswith("-")], name


def test_every_data_file_of_the_application_is_packaged() -> None:
    """An installed command has its templates, its static files and its bundled recordings."""
    patterns = METADATA["tool"]["setuptools"]["package-data"]["app"]
    packaged = {path for pattern in patterns for path in (PROJECT / "app").glob(pattern) if path.is_file()}
    kept = subprocess.run(["git", "ls-files", "app"], capture_output=True, text=True, check=True, cwd=PROJECT)
    data = {PROJECT / name for name in kept.stdout.split("\n") if name and not name.endswith((".py", "py.typed"))}
    assert not {path for path in data - packaged if "migrations" not in path.parts}


def test_every_room_is_typed() -> None:
    assert all((PROJECT / room / "py.typed").exists() for room in ("app", "workers", "chem", "gpu", "chain"))


def test_ci_installs_the_package_in_a_fresh_environment() -> None:
    jobs = yaml.safe_load((PROJECT / ".github" / "workflows" / "ci.yaml").read_text(encoding="utf-8"))["jobs"]
    commands = "\n".join(step.get("run", "") for step in jobs["package"]["steps"])
    assert 'fresh/bin/pip" install .\n' in commands
    assert "fresh/bin/celery-validator --version" in commands
