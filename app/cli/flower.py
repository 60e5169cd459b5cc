"""``python -m app flower``: the Flower dashboard of this cluster."""

from __future__ import annotations

from app.cli.surroundings import require_folder, require_port, require_redis
from app.settings import get_settings


def flower() -> None:
    """Serve Flower at FLOWER_ADDRESS:FLOWER_PORT; with FLOWER_BASIC_AUTH behind a password. 'up' starts it too."""
    from app.celery import app
    from app.observability.flower import serve, users
    from app.observability.logs import configure

    settings = get_settings()
    users(settings)
    require_folder(settings)
    require_port("FLOWER_PORT", settings.flower_address, settings.flower_port)
    require_redis(settings)
    configure("flower")
    serve(settings, app)
