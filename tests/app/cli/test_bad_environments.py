"""Every command in every kind of bad surroundings ends by itself with a sentence that names the setting.

The slow half runs every command in every other kind, too: it works, or says what it lacks.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from app.cli import cli
from app.demo import RECORDING
from tests.pool import processes_of

ROOT = Path(__file__).parents[3]

# far beyond the seconds that a command needs: this machine may be busy
SECONDS = 60.0

NOWHERE = "redis://127.0.0.1:1/0"

# a command, and the kinds of surroundings that it must refuse; all refuse a setting that is wrong
STORE = ("data in /proc", "data in a file", "database refuses", "database is a text", "database in /proc")
COMMANDS: dict[str, tuple[str, ...]] = {
    f"epoch replay {RECORDING} --cluster {NOWHERE}": ("redis",),
    f"epoch replay {RECORDING} --cluster embedded --out result.json": STORE,
    f"epoch replay {RECORDING} --cluster eager --out result.json": STORE,
    "epoch replay /nowhere": ("nothing",),
    "epoch list": STORE,
    "epoch show 1": STORE,
    "epoch watch": STORE,
    "epoch record out --epoch 1": STORE,
    "rules show /nowhere": ("nothing",),
    "submission check names.txt": ("nothing",),
    "submission check rxn:4:1:2 --recording /nowhere": ("nothing",),
    "submission seal rxn:4:1:2 --uid 1 --to a/b/c": ("chain",),
    "score psichic --smiles /nowhere --out out.csv": ("nothing",),
    "score boltz --smiles /nowhere --out out.csv --sequence MKT": ("nothing",),
    "checkpoints demo --out /proc/nope": ("nothing",),
    "checkpoints fetch nothing": ("nothing",),
    "competition list": STORE,
    "competition add voicebench --percentage 0.5": STORE,
    "competition set-baseline voicebench 0.5": STORE,
    "competition archive voicebench": STORE,
    "competition benchmark voicebench profile": STORE,
    "weights preview": STORE,
    "weights preview --input /nowhere": ("nothing",),
    "api": (*STORE, "ports"),
    "scoring-api": ("ports", "wallet"),
    "run --netuid 68": ("wallet",),
    "run --netuid 68 --offline": (*STORE, "ports"),
    "run --netuid 21": ("wallet",),
    "up": (*STORE, "ports"),
    "flower": ("redis", "ports", "data in /proc", "data in a file"),
    "doctor": STORE,
    "migrate": STORE,
    "settings": (),
    "healthcheck chain": ("redis",),
    "healthcheck beat": ("redis",),
    "healthcheck api": ("nothing",),
    "healthcheck validator": (*STORE, "unmigrated"),
}
NAMED = {
    "redis": ("BROKER_URL", "Redis"),
    "data in /proc": ("DATA_DIR",),
    "data in a file": ("DATA_DIR",),
    "database refuses": ("DATABASE_URL",),
    "database is a text": ("DATABASE_URL",),
    "database in /proc": ("DATABASE_URL",),
    "ports": ("API_PORT", "FLOWER_PORT"),
    "wallet": ("WALLET_PATH",),
    "unmigrated": ("DATABASE_URL: the store is not up to date",),
    "wrong setting": ("LOG_LEVEL", "/nowhere", "/proc/nope", "names.txt", "nothing"),
    "chain": ("127.0.0.1:1", "num_molecules", "molecules"),
}
CASES = [(command, kind) for command, kinds in COMMANDS.items() for kind in (*kinds, "wrong setting")]

# all others: surroundings that a command may do without
OTHERS = [(command, kind) for command in COMMANDS for kind in NAMED | {"nothing": ()} if (command, kind) not in CASES]
LASTING = ("api", "scoring-api", "run", "up", "flower", "epoch watch", "epoch replay")
LASTING_SECONDS = 8.0


@pytest.fixture(scope="module")
def runner() -> Iterator[subprocess.Popen[str]]:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": "/nowhere"}
    command = [sys.executable, str(Path(__file__).with_name("forked_commands.py")), str(SECONDS)]
    process = subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/"
    )
    with process:
        yield process
        process.kill()


@pytest.fixture(scope="module")
def taken() -> Iterator[int]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening.getsockname()[1]


def surroundings(kind: str, folder: Path, port: int) -> dict[str, str]:
    (folder / "file").write_text("this is no database, and no folder\n" * 100)
    everything = {"DATA_DIR": str(folder / "data"), "METRICS_PORT": "0", "WALLET_PATH": str(folder / "wallets")}
    return (
        everything
        | {
            "nothing": {},
            "redis": {"BROKER_URL": NOWHERE},
            "data in /proc": {"DATA_DIR": "/proc/nope"},
            "data in a file": {"DATA_DIR": str(folder / "file")},
            "database refuses": {"DATABASE_URL": "postgresql://u:hunter2@127.0.0.1:1/d"},
            "database is a text": {"DATABASE_URL": f"sqlite:///{folder / 'file'}"},
            "database in /proc": {"DATABASE_URL": "sqlite:////proc/nope/store.sqlite"},
            "ports": {"API_PORT": str(port), "FLOWER_PORT": str(port), "SCORING_API_PORT": str(port)},
            "wallet": {},
            "unmigrated": {},
            "chain": {"SUBTENSOR_NETWORK": "ws://127.0.0.1:1", "SUBTENSOR_FALLBACKS": "none"},
            "wrong setting": {"LOG_LEVEL": "LOUD"},
        }[kind]
    )


def end_of(
    command: str, environment: dict[str, str], runner: subprocess.Popen[str], folder: Path, seconds: float
) -> dict[str, Any]:
    assert runner.stdin is not None
    assert runner.stdout is not None
    case = {"argv": command.split(), "environment": environment, "folder": str(folder), "seconds": seconds}
    runner.stdin.write(json.dumps(case) + "\n")
    runner.stdin.flush()
    return json.loads(runner.stdout.readline())


@pytest.mark.parametrize(("command", "kind"), CASES)
def test_it_ends_with_a_sentence(
    command: str, kind: str, runner: subprocess.Popen[str], taken: int, tmp_path: Path
) -> None:
    ended = end_of(command, surroundings(kind, tmp_path, taken), runner, tmp_path, SECONDS)
    assert "Traceback" not in ended["output"]
    assert ended["status"] is not None, f"it had not ended after {SECONDS:.0f} s: {ended['output']}"
    assert ended["status"] != 0, ended["output"]
    assert any(word in ended["output"] for word in NAMED.get(kind, ("",))), ended["output"]
    assert len(ended["output"].strip()) > 20
    assert "hunter2" not in ended["output"]


@pytest.mark.slow
@pytest.mark.parametrize(("command", "kind"), OTHERS)
def test_it_does_without_or_ends_with_a_sentence(
    command: str, kind: str, runner: subprocess.Popen[str], taken: int, tmp_path: Path
) -> None:
    lasting = command.startswith(LASTING)
    seconds = LASTING_SECONDS if lasting else SECONDS
    ended = end_of(command, surroundings(kind, tmp_path, taken), runner, tmp_path, seconds)
    assert "Traceback" not in ended["output"]
    assert "hunter2" not in ended["output"]
    assert lasting or ended["status"] is not None, ended["output"]
    if ended["status"]:
        assert len(ended["output"].strip()) > 20


@pytest.mark.slow
def test_no_command_that_was_killed_leaves_a_process(tmp_path_factory: pytest.TempPathFactory) -> None:
    deadline = time.monotonic() + SECONDS
    while (left := processes_of(tmp_path_factory.getbasetemp())) and time.monotonic() < deadline:
        time.sleep(1)
    assert left == []


def test_every_command_is_here() -> None:
    def leaves(group: object, path: tuple[str, ...]) -> Iterator[str]:
        for name, inner in getattr(group, "commands", {}).items():
            yield from leaves(inner, (*path, name)) if hasattr(inner, "commands") else [" ".join((*path, name))]

    for leaf in leaves(typer.main.get_command(cli), ()):
        assert any(f"{command} ".startswith(f"{leaf} ") for command in COMMANDS), leaf
