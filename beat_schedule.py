"""The timetable: what the clock starts, and when. One dict, readable at a glance."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from celery.schedules import crontab

from app.settings import Settings


def timetable(settings: Settings) -> dict[str, dict[str, Any]]:
    """Beat's entries. Each expires before its successor is due, so a stopped worker finds no pile of stale ticks."""
    return {
        "move on what stands still": {
            "task": "workers.upkeep.reconcile",
            "schedule": settings.reconcile_every,
            "options": {"expires": settings.reconcile_every.total_seconds()},
        },
        "forget old epochs and scores": {
            "task": "workers.upkeep.forget_old",
            "schedule": crontab(hour="3", minute="17"),
            "options": {"expires": timedelta(hours=6).total_seconds()},
        },
    }
