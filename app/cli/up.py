"""``python -m app up``: the whole cluster on this machine."""

from __future__ import annotations

import os
import signal
import threading
from typing import Annotated

import typer
from rich.table import Table

from app.cli.surroundings import require_folder, require_port
from app.cli.terminal import Console
from app.settings import get_settings

# How often a child that ended is noticed.
_LOOK_EVERY = 1.0


def up(
    flower: Annotated[bool, typer.Option(help="Start the Flower dashboard too.")] = True,
    api: Annotated[bool, typer.Option(help="Serve the pages and the API too.")] = True,
) -> None:
    """Start Redis, the chain, cpu and gpu workers, beat, Flower and the pages; stop all on Ctrl-C or SIGTERM."""
    from app.cluster.embedded import EmbeddedCluster
    from app.store.database import get_store
    from app.store.schema import migrate
    from app.weights import require_weights_file

    console = Console()
    settings = get_settings()
    require_folder(settings)
    require_weights_file(settings)
    if api:
        require_port("API_PORT", settings.api_host, settings.api_port)
    if flower:
        require_port("FLOWER_PORT", settings.flower_address, settings.flower_port)
    migrate(get_store())
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    with EmbeddedCluster(settings, flower=flower, name=settings.cluster_name, api=api) as cluster:
        os.environ.update(cluster.environment)
        get_settings.cache_clear()
        from app.celery import app

        with console.status("waiting for the workers…"):
            cluster.await_workers(app)
        table = Table(title="celery-validator is up", title_justify="left", show_header=False)
        for name, pid in cluster.processes().items():
            table.add_row(name, f"process {pid}")
        table.add_row("store", get_store().shown_url)
        table.add_row("logs", str(cluster.logs))
        if api:
            table.add_row("pages and API" if settings.pages else "API", cluster.api_url)
        if flower:
            table.add_row("Flower", cluster.flower_url)
        console.print(table)
        console.print("Replay an epoch on it: python -m app epoch replay DIR --cluster embedded")
        console.print("Ctrl-C stops everything.")
        while not stopping.wait(_LOOK_EVERY):
            for name in cluster.revive():
                console.print(f"[yellow]{name} had ended and was started again[/]")
        with console.status("finishing the running tasks…"):
            cluster.stop()
    console.print("All processes have ended.")
