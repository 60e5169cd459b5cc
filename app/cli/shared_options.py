"""What every command takes, spelled as in Bittensor's own programs: subnet, wallet, chain and log.

They are settings: what is typed stands in for the environment variable, for this process and those that it starts.
"""

from __future__ import annotations

import os
from typing import Annotated, Any, Final

import typer
from typer.main import get_command

from app.cli.log_setup import set_up_logs
from app.domain import ValidatorError

_PANEL: Final = "Subnet, wallet, chain and log (settings as well)"


def with_shared_options(command: Any) -> Any:
    """The command, or each command of the group, takes them too."""
    if hasattr(command, "commands"):
        for member in command.commands.values():
            with_shared_options(member)
        return command
    holder = typer.Typer(add_completion=False)
    holder.command()(_take)
    shared, own = get_command(holder), command.callback
    names = {parameter.name for parameter in shared.params}

    def callback(**values: Any) -> Any:
        shared.callback(**{name: values.pop(name) for name in names})  # type: ignore[misc]
        return own(**values)

    command.params = [*command.params, *shared.params]
    command.callback = callback
    return command


def _option(name: str, text: str) -> Any:
    return typer.Option(name, help=text, rich_help_panel=_PANEL)


def _take(
    netuid: Annotated[int | None, _option("--netuid", "Subnet: 68 (molecules) or 21 (models).")] = None,
    wallet_name: Annotated[str | None, _option("--wallet.name", "Coldkey's name.")] = None,
    wallet_hotkey: Annotated[str | None, _option("--wallet.hotkey", "Hotkey's name.")] = None,
    wallet_path: Annotated[str | None, _option("--wallet.path", "Wallet folder.")] = None,
    network: Annotated[str | None, _option("--subtensor.network", "finney, test, local, or ws:// addresses.")] = None,
    chain_endpoint: Annotated[
        str | None, _option("--subtensor.chain_endpoint", "A ws:// address, instead of a network's name.")
    ] = None,
    debug: Annotated[bool, _option("--logging.debug", "Log all that happens.")] = False,
    info: Annotated[bool, _option("--logging.info", "Log what is done.")] = False,
    trace: Annotated[bool, _option("--logging.trace", "As --logging.debug: no log says more.")] = False,
) -> None:
    if network and chain_endpoint and network != chain_endpoint and "://" in network:
        raise ValidatorError(
            f"--subtensor.network {network} and --subtensor.chain_endpoint {chain_endpoint} are two addresses; give one"
        )
    typed = {
        "NETUID": netuid,
        "WALLET_NAME": wallet_name,
        "WALLET_HOTKEY": wallet_hotkey,
        "WALLET_PATH": wallet_path,
        "SUBTENSOR_NETWORK": chain_endpoint or network,
        "LOG_LEVEL": "DEBUG" if debug or trace else "INFO" if info else None,
    }
    given = {name: str(value) for name, value in typed.items() if value is not None}
    if given:
        from app.settings import get_settings

        os.environ.update(given)
        get_settings.cache_clear()
        set_up_logs()
