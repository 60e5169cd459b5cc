"""``python -m app scoring-api``: this GPU node's scoring API over HTTP."""

from __future__ import annotations

from typing import Annotated

import typer

from app.cli.surroundings import require_port
from app.settings import get_settings

_KEEP_ALIVE_SECONDS = 15


def scoring_api(
    host: Annotated[str | None, typer.Option(help="Address to listen on; SCORING_API_HOST by default.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; SCORING_API_PORT by default.")] = None,
) -> None:
    """Serve the scoring API until Ctrl-C or SIGTERM; the work is done by this node's gpu worker."""
    import uvicorn

    from app.api.scoring import callers
    from app.observability.exporter import PortOffset, single_exporter
    from app.observability.logs import configuration, configure
    from app.store.database import get_store
    from app.store.schema import migrate

    settings = get_settings()
    host, port = host or settings.scoring_api_host, settings.scoring_api_port if port is None else port
    require_port("SCORING_API_PORT", host, port)
    configure("scoring-api")
    callers()
    migrate(get_store())
    get_store().close()
    if exporter := single_exporter(settings, PortOffset.SCORING_API):
        exporter.start()
    uvicorn.run(
        "app.api.scoring:create_scoring_app",
        factory=True,
        host=host,
        port=port,
        log_config=configuration("scoring-api"),
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
    )
