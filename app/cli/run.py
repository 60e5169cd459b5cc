"""``python -m app run``: the validator of a subnet as one command."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Final, cast

import typer
from rich.markup import escape

from app.cli.surroundings import require_folder
from app.cli.terminal import Console
from app.domain import Neuron, ValidatorError
from app.settings import get_settings

# subnet → the function that runs its validator once the settings are in the environment: "module:function"
VALIDATORS: Final[dict[int, str]] = {
    21: "app.cli.run_models:run_models",
    68: "app.cli.run:run_molecules",
}


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What is no setting of the cluster's processes but of the command itself."""

    flower: bool
    api: bool


def run(
    dont_set_weights: Annotated[
        bool, typer.Option("--dont-set-weights", help="Conclude epochs, but submit no weights.")
    ] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Never connect to the chain.")] = False,
    weights_file: Annotated[
        Path | None, typer.Option("--weights-file", help="Test mode: write each vector to this file, not to the chain.")
    ] = None,
    rules: Annotated[Path | None, typer.Option("--rules", help="rules.yaml; read again at each epoch.")] = None,
    run_api: Annotated[
        bool, typer.Option("--run-api", help="Models: score through --scoring-api-url, not on this cluster's GPU.")
    ] = False,
    scoring_api_url: Annotated[
        list[str] | None, typer.Option("--scoring-api-url", help="Models: a scoring API; may be given several times.")
    ] = None,
    immediate: Annotated[bool, typer.Option("--immediate", help="Models: set weights at once, too.")] = False,
    alpha: Annotated[float | None, typer.Option("--alpha", help="Models: EMA factor of the weights; 0 is off.")] = None,
    clean_period_minutes: Annotated[
        int | None, typer.Option("--clean-period-minutes", help="Models: how often unreferenced folders go.")
    ] = None,
    update_delay_minutes: Annotated[
        int | None, typer.Option("--update-delay-minutes", help="Models: how often commitments are read.")
    ] = None,
    flower: Annotated[bool, typer.Option(help="Start the Flower dashboard too.")] = True,
    api: Annotated[bool, typer.Option(help="Serve the pages and the API too.")] = True,
) -> None:
    """Run the validator: check registration and stake, start the cluster, and process each epoch as it closes."""
    given: dict[str, object | None] = {
        "DONT_SET_WEIGHTS": "1" if dont_set_weights else None,
        "OFFLINE": "1" if offline else None,
        "WEIGHTS_FILE": weights_file.resolve() if weights_file else None,
        "RULES_FILE": rules.resolve() if rules else None,
        "RUN_API": "1" if run_api else None,
        "SCORING_API_URL": ",".join(scoring_api_url) if scoring_api_url else None,
        "IMMEDIATE": "1" if immediate else None,
        "ALPHA": alpha,
        "CLEAN_PERIOD_MINUTES": clean_period_minutes,
        "UPDATE_DELAY_MINUTES": update_delay_minutes,
    }
    from app.weights import require_weights_file

    # the cluster's processes read the same settings from their environment
    os.environ.update({name: str(value) for name, value in given.items() if value is not None})
    get_settings.cache_clear()
    settings = get_settings()
    require_weights_file(settings)
    module, _, function = VALIDATORS[settings.netuid].partition(":")
    validate = cast(Callable[[RunOptions], Any], getattr(import_module(module), function))
    validate(RunOptions(flower=flower, api=api))


def run_molecules(options: RunOptions) -> None:
    """Subnet 68: check, then what ``up`` does, live."""
    from app.cli.up import up

    console = Console()
    settings = get_settings()
    os.environ["LIVE"] = "1"
    get_settings.cache_clear()
    if settings.rules_file is not None:
        from app.epochs.rules import parse_rules

        try:
            parse_rules(settings.rules_file.read_text(encoding="utf-8"), str(settings.rules_file))
        except OSError as error:
            raise ValidatorError(f"RULES_FILE {settings.rules_file} cannot be read: {error.strerror}") from None
    if settings.offline:
        console.print("Offline: the chain is not watched; replay epochs with 'python -m app epoch replay'.")
    else:
        require_folder(settings)
        neuron = check_registration(console)
        if neuron is not None:
            console.print(f"Validating subnet {settings.netuid} as UID {neuron.uid} with stake {neuron.stake:,.2f} α")
    up(flower=options.flower, api=options.api)


def check_registration(console: Console) -> Neuron | None:
    """The validator's own neuron; None where no weights are to be set and the wallet is not registered.

    Raises:
        ValidatorError: the wallet cannot be read, the chain does not answer, the hotkey is not registered, or it has no
            stake.
    """
    from app.epochs.capture import subtensor_of
    from chain.subtensor import WalletError, load_wallet

    settings = get_settings()
    # the wallet is here and the chain is not: what is wrong with it is said first
    try:
        wallet = load_wallet(settings.wallet_name, settings.wallet_hotkey, settings.wallet_path)
        hotkey = str(wallet.hotkey.ss58_address)
    except WalletError as error:
        if settings.sets_weights:
            raise
        console.print(f"[yellow]warning:[/] {escape(str(error))}")
        return None
    chain = subtensor_of(settings)
    try:
        with console.status(f"asking {settings.subtensor_network} about the hotkey…"):
            block = chain.finalized_block()
            neurons = {neuron.hotkey: neuron for neuron in chain.metagraph(settings.netuid, block)}
    finally:
        chain.close()
    neuron = neurons.get(hotkey)
    problem = _problem(neuron, hotkey)
    if problem and settings.sets_weights:
        raise ValidatorError(f"{problem}; to run without setting weights, add --dont-set-weights")
    if problem:
        console.print(f"[yellow]warning:[/] {problem}")
    elif neuron is not None and not neuron.validator_permit:
        console.print(
            f"[yellow]warning:[/] UID {neuron.uid} has no validator permit yet (stake {neuron.stake:,.2f} α); "
            "the chain refuses its weights until it has one"
        )
    return neuron


def _problem(neuron: Neuron | None, hotkey: str) -> str | None:
    settings = get_settings()
    if neuron is None:
        return (
            f"hotkey {hotkey} is not registered on subnet {settings.netuid} of {settings.subtensor_network}; "
            f"register it with: btcli subnets register --netuid {settings.netuid}"
        )
    if neuron.stake <= 0:
        return f"UID {neuron.uid} ({hotkey}) has no stake on subnet {settings.netuid}; its weights would be refused"
    return None
