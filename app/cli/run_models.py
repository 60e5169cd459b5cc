"""Subnet 21's validator behind ``python -m app run``: check, then the cluster with the validator API."""

from __future__ import annotations

from app.cli.run import RunOptions, check_registration
from app.cli.terminal import Console
from app.settings import get_settings


def run_models(options: RunOptions) -> None:
    """Subnet 21: check the wallet and the competitions, then what ``up`` does; beat runs the jobs."""
    from app.cli.up import up
    from app.store.competitions import Competitions
    from app.store.database import get_store
    from app.store.schema import migrate

    console = Console()
    settings = get_settings()
    migrate(get_store())
    if settings.offline:
        console.print("Offline: the chain is not asked; the store's metagraph and models are used.")
    else:
        neuron = check_registration(console)
        if neuron is not None:
            console.print(
                f"Validating subnet {settings.netuid} as UID {neuron.uid} with stake {neuron.stake:,.2f} \u03b1"
            )
    with get_store().reading() as session:
        competitions = Competitions(session).all()
    if not competitions:
        console.print(
            "[yellow]warning:[/] no competition runs, so no model is queued; "
            "add one with: python -m app competition add ID --share 1"
        )
    for competition in competitions:
        if competition.baseline is None:
            console.print(
                f"[yellow]warning:[/] competition {competition.id} has no baseline and sets no weights; "
                f"set one with: python -m app competition set-baseline {competition.id} SCORE"
            )
    where = ", ".join(settings.scoring_api_url) if settings.run_api else "this cluster's GPU worker"
    console.print(f"Models are scored by {where}.")
    up(flower=options.flower, api=options.api)
