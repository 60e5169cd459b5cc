"""celery-validator: a Bittensor validator as a Celery cluster. ``celery -A app worker -Q gpu`` works."""

from typing import Any


def __getattr__(name: str) -> Any:
    # lazy, so that the rooms that know nothing of Celery can import app.domain without it
    if name in {"celery_app", "app"}:
        from app.celery import app as celery_app

        return celery_app
    raise AttributeError(f"module 'app' has no attribute {name!r}")
