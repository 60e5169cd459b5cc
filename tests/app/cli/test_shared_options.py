"""Subnet, wallet, chain and log: every command takes Bittensor's spellings of them, and they are its settings."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from enum import EnumType
from typing import Any

import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner

from app.cli import cli
from app.settings import get_settings
from tests.command_line import command

SHARED = {
    "--netuid": ("21", "netuid"),
    "--wallet.name": ("cold", "wallet_name"),
    "--wallet.hotkey": ("hot", "wallet_hotkey"),
    "--wallet.path": ("/wallets", "wallet_path"),
    "--subtensor.network": ("test", "network"),
    "--subtensor.chain_endpoint": ("ws://127.0.0.1:1", "chain_endpoint"),
    "--logging.debug": (None, "debug"),
    "--logging.info": (None, "info"),
    "--logging.trace": (None, "trace"),
}


def leaves(group: Any, context: Any) -> Iterator[tuple[str, Any, Any]]:
    """Each command's words, the command, and its group's context."""
    for name, member in group.commands.items():
        if hasattr(member, "commands"):
            inner = typer.Context(member, info_name=name, parent=context)
            yield from ((f"{name} {words}", found, at) for words, found, at in leaves(member, inner))
        else:
            yield name, member, context


ROOT = get_command(cli)
EVERY = {
    words: (found, at)
    for words, found, at in leaves(ROOT, typer.Context(ROOT, info_name="app", **ROOT.context_settings))
}


def required(found: Any) -> list[str]:
    """Words for what a command cannot do without."""
    words = []
    for parameter in found.params:
        if parameter.required:
            kind = parameter.type_descriptor.annotation
            value = str(next(iter(kind))) if isinstance(kind, EnumType) else "7"
            words += [parameter.opts[0], value] if parameter.opts[0].startswith("-") else [value]
    return words


@pytest.fixture(autouse=True)
def own_environment() -> Iterator[None]:
    """What is typed goes into the environment, where child processes find it, and the log is set up by it."""
    before, level = dict(os.environ), logging.getLogger().level
    yield
    os.environ.clear()
    os.environ.update(before)
    logging.getLogger().setLevel(level)


@pytest.mark.parametrize("words", EVERY)
def test_every_command_takes_them_in_every_spelling(words: str) -> None:
    found, at = EVERY[words]
    for spelled in (lambda name: name, lambda name: name.replace(".", "_"), lambda name: name.replace(".", "-")):
        typed = [part for name, (value, _) in SHARED.items() for part in (spelled(name), value) if part is not None]
        context = found.make_context(words, [*required(found), *typed], parent=at)
        for value, name in SHARED.values():
            assert str(context.params[name]) == str(value if value is not None else True)


@pytest.mark.parametrize("words", EVERY)
def test_every_help_shows_them_once_and_in_one_spelling(words: str) -> None:
    options = [option for parameter in EVERY[words][0].params for option in parameter.opts]
    assert len(options) == len(set(options))
    assert set(SHARED) <= set(options)
    shown = CliRunner().invoke(cli, [*words.split(), "--help"], env={"COLUMNS": "200"}).output
    for name in SHARED:
        assert f" {name} " in shown
    assert "_" not in "".join(option for option in options if option != "--subtensor.chain_endpoint")


def test_what_is_typed_is_the_setting() -> None:
    typed = ["--netuid", "21", "--wallet.name", "cold", "--wallet.hotkey", "hot", "--wallet.path", "/wallets"]
    ended = command("settings", "--json", *typed, "--subtensor.chain_endpoint", "ws://127.0.0.1:1", "--logging.debug")
    found = {name: row["value"] for name, row in json.loads(ended.output).items()}
    assert (found["NETUID"], found["WALLET_NAME"], found["WALLET_HOTKEY"]) == ("21", "cold", "hot")
    assert (found["WALLET_PATH"], found["SUBTENSOR_NETWORK"]) == ("/wallets", "ws://127.0.0.1:1")
    assert (found["LOG_LEVEL"], logging.getLogger().level) == ("DEBUG", logging.DEBUG)
    # the processes that it starts read the same
    assert os.environ["WALLET_NAME"] == get_settings().wallet_name == "cold"


def test_what_is_wrong_is_said_in_a_sentence() -> None:
    ended = command("competition", "list", "--netuid", "5")
    assert (ended.exit_code, "NETUID: this validator knows subnets 68" in " ".join(ended.output.split())) == (2, True)
    ended = command("doctor", "--subtensor.network", "ws://a:1", "--subtensor.chain_endpoint", "ws://b:1")
    assert (ended.exit_code, "two addresses; give one" in " ".join(ended.output.split())) == (2, True)
