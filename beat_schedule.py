"""The timetable: what the clock starts, and when. One dict, readable at a glance."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

from celery.schedules import crontab

from app.domain import MODELS_NETUID
from app.settings import Settings

_READ_PARAMETERS: Final = "workers.weights.read_weight_parameters"


def timetable(settings: Settings) -> dict[str, dict[str, Any]]:
    """Beat's entries. Each expires before its successor is due, so a stopped worker finds no pile of stale ticks."""
    return _always(settings) | (_models(settings) if settings.netuid == MODELS_NETUID else {})


def _always(settings: Settings) -> dict[str, dict[str, Any]]:
    live = {
        "announce the epoch that has closed": {
            "task": "workers.watch.watch_epoch",
            "schedule": settings.watch_every,
            "options": {"expires": settings.watch_every.total_seconds()},
        },
    }
    weights = {"ask whether weights would be accepted": _every(timedelta(minutes=10), _READ_PARAMETERS)}
    submits = (settings.live or settings.netuid == MODELS_NETUID) and not settings.offline
    return {
        **(live if settings.live and not settings.offline else {}),
        **(weights if submits else {}),
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


def _models(settings: Settings) -> dict[str, dict[str, Any]]:
    """The model competitions' jobs."""
    updates = timedelta(minutes=settings.update_delay_minutes)
    cleaning = timedelta(minutes=settings.clean_period_minutes)
    local = {
        "note what can be scored": {
            "task": "workers.evaluations.note_capabilities",
            "schedule": timedelta(minutes=1),
            "options": {"expires": 60},
        },
        "sweep what dead evaluations left": _every(timedelta(minutes=10), "workers.evaluations.sweep_evaluations"),
    }
    return {
        **({} if settings.run_api else local),
        "sync the metagraph": _every(timedelta(minutes=5), "workers.competitions.sync_metagraph"),
        "update the models": _every(updates, "workers.competitions.update_models"),
        "score the next models": _every(timedelta(seconds=15), "workers.competitions.score_next_models"),
        "release stale models": _every(timedelta(minutes=1), "workers.competitions.release_stale"),
        "clean model folders": _every(cleaning, "workers.competitions.clean_models"),
        "set the models' weights": {
            "task": "workers.competitions.set_model_weights",
            "schedule": crontab(minute="0,20,40"),
            "options": {"expires": timedelta(minutes=19).total_seconds()},
        },
        "update the reputations": {
            "task": "workers.competitions.update_reputations",
            "schedule": crontab(hour="0", minute="10"),
            "options": {"expires": timedelta(hours=6).total_seconds()},
        },
    }


def _every(interval: timedelta, task: str) -> dict[str, Any]:
    return {"task": task, "schedule": interval, "options": {"expires": interval.total_seconds()}}
