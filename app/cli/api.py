"""``python -m app api``: the validator API over HTTP."""

from __future__ import annotations

from typing import Annotated

import typer

from app.cli.surroundings import require_port
from app.settings import get_settings

_KEEP_ALIVE_SECONDS = 15


def api(
    host: Annotated[str | None, typer.Option(help="Address to listen on; API_HOST by default.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; API_PORT by default.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes; they share the store.")] = 1,
) -> None:
    """Serve the pages and the validator API until Ctrl-C or SIGTERM."""
    import uvicorn

    from app.api.metrics import api_exporter
    from app.observability.logs import configuration, configure
    from app.store.database import get_store
    from app.store.schema import migrate

    settings = get_settings()
    host, port = host or settings.api_host, settings.api_port if port is None else port
    require_port("API_PORT", host, port)
    configure("api")
    migrate(get_store())
    get_store().close()
    if exporter := api_exporter(settings, workers):
        exporter.start()
    uvicorn.run(
        "app.api.application:create_app",
        factory=True,
        host=host,
        port=port,
        workers=workers,
        log_config=configuration("api"),
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
    )
