"""``run`` refuses in a sentence what cannot validate, before it starts anything."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

import app.cli.run
import app.cli.up
from app.cli import cli
from app.domain import ValidatorError
from app.settings import get_settings
from tests.chain.nodes import address
from tests.workers.live_scene import Scene, live_scene


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    before = dict(os.environ)
    with live_scene(tmp_path, monkeypatch) as scene:
        yield scene
    # the command puts its flags into the environment, where its child processes find them
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether the cluster would have been started."""
    calls: list[bool] = []

    def up(flower: bool, api: bool) -> None:
        calls.append(flower)

    monkeypatch.setattr(app.cli.up, "up", up)
    return calls


def run(scene: Scene, *flags: str) -> str:
    arguments = ["run", "--netuid", "68", "--wallet.name", "validator", "--wallet.hotkey", "hot", "--no-flower"]
    result = CliRunner().invoke(cli, [*arguments, *flags], env={"COLUMNS": "300"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_a_registered_validator_goes_live(scene: Scene, started: list[bool]) -> None:
    output = run(scene, "--subtensor.network", scene.node.url)
    assert "Validating subnet 68 as UID 7 with stake 1,007.00" in output
    assert started == [False]
    settings = get_settings()
    assert settings.live
    assert settings.netuid == 68
    assert settings.subtensor_network == scene.node.url


def test_flags_become_settings(scene: Scene, started: list[bool], tmp_path: Path) -> None:
    run(scene, "--dont_set_weights", "--weights_file", str(tmp_path / "w.json"))
    assert get_settings().dont_set_weights
    assert get_settings().weights_file == tmp_path / "w.json"


@pytest.mark.parametrize("name", ["--wallet.name", "--wallet_name", "--wallet-name"])
def test_every_spelling_of_a_flag_is_taken(scene: Scene, started: list[bool], name: str) -> None:
    run(scene, name, "validator", "--dont-set-weights", "--subtensor.chain_endpoint", scene.node.url, "--logging.trace")
    settings = get_settings()
    assert (settings.wallet_name, settings.dont_set_weights) == ("validator", True)
    assert (settings.subtensor_network, settings.log_level) == (scene.node.url, "DEBUG")


def test_two_addresses_of_the_chain_are_refused(scene: Scene, started: list[bool]) -> None:
    with pytest.raises(ValidatorError, match="two addresses; give one"):
        run(scene, "--subtensor.network", "ws://127.0.0.1:1", "--subtensor.chain_endpoint", scene.node.url)
    run(scene, "--subtensor.network", "local", "--subtensor.chain_endpoint", scene.node.url, "--logging.info")
    assert get_settings().subtensor_network == scene.node.url
    assert started == [False]


def test_the_help_shows_one_spelling() -> None:
    text = CliRunner().invoke(cli, ["run", "--help"], env={"COLUMNS": "200"}).output
    assert {"--wallet.name", "--subtensor.chain_endpoint", "--logging.debug", "--dont-set-weights"} <= set(text.split())
    assert not re.search(r"--[a-z]+_", text)


def test_offline_asks_nobody(scene: Scene, started: list[bool]) -> None:
    before = len(scene.node.requests)
    assert "Offline" in run(scene, "--offline")
    assert len(scene.node.requests) == before
    assert started == [False]


def test_a_hotkey_that_is_not_registered(scene: Scene, started: list[bool]) -> None:
    scene.chain.subnets[68].neurons[7].hotkey = address("//other")
    scene.chain.put_subnet(scene.chain.subnets[68])
    with pytest.raises(ValidatorError, match=r"is not registered on subnet 68.*--dont-set-weights"):
        run(scene)
    assert started == []
    assert "is not registered" in run(scene, "--dont_set_weights")
    assert started == [False]


def test_a_validator_without_stake(scene: Scene, started: list[bool]) -> None:
    scene.chain.subnets[68].neurons[7].stake = 0.0
    scene.chain.put_subnet(scene.chain.subnets[68])
    with pytest.raises(ValidatorError, match="has no stake"):
        run(scene)
    assert started == []


def test_a_validator_without_permit_is_warned(scene: Scene, started: list[bool]) -> None:
    scene.chain.subnets[68].neurons[7].validator_permit = False
    scene.chain.put_subnet(scene.chain.subnets[68])
    assert "has no validator permit yet" in run(scene)
    assert started == [False]


def test_wallets_networks_and_subnets_that_are_not_there(scene: Scene, started: list[bool]) -> None:
    with pytest.raises(ValidatorError, match="no hotkey at"):
        run(scene, "--wallet.hotkey", "other")
    with pytest.raises(ValidatorError, match="Unknown network"):
        run(scene, "--subtensor.network", "nowhere")
    with pytest.raises(ValidatorError, match="NETUID: this validator knows subnets 68"):
        run(scene, "--netuid", "5")
    with pytest.raises(ValidatorError, match="RULES_FILE"):
        run(scene, "--netuid", "68", "--rules", "missing.yaml")
    assert started == []
    assert 68 in app.cli.run.VALIDATORS
