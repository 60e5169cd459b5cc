"""What keeps the cluster moving and the store small."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy.orm import Session

from app.celery import app
from app.clock import now
from app.settings import get_settings
from app.store.claims import Claims
from app.store.epochs import Epochs
from app.store.facts import Blobs, Facts
from app.store.scores import Scores
from app.store.services import forget_answers
from app.task import ValidatorTask, transaction

# One transaction deletes at most this much.
_EPOCHS_AT_ONCE: Final = 1
_ROWS_AT_ONCE: Final = 5_000
# an evaluation has hundreds of samples, a file megabytes
LARGE_ROWS_AT_ONCE: Final = 50


@app.task(bind=True, send_events=False)
def reconcile(self: ValidatorTask) -> dict[str, Any]:
    """Send again what stands still in this cluster, whatever it is: a lost message, a dead worker's claim."""
    with self.reading() as session:
        held = Claims(session).holders(get_settings().cluster_name)
    alive = living_processes() if held else {}
    with self.transaction() as step:
        voided, sent = step.reconcile(alive)
    return {"sent": sent, "voided": voided}


def living_processes() -> dict[str, datetime]:
    """``node/pid`` of every pool process that answers, and since when its worker has run; empty where none answers."""
    stats = app.control.inspect(timeout=2.0).stats() or {}
    asked = now()
    return {
        # uptime comes in whole seconds
        f"{node}/{pid}": asked - timedelta(seconds=found.get("uptime", 0) + 1)
        for node, found in stats.items()
        for pid in found.get("pool", {}).get("processes", ())
    }


@app.task
def forget_old() -> dict[str, Any]:
    """Delete epochs, scores and facts older than their retention, a slice at a time: nobody waits for a long lock."""
    return {what: delete_in_slices(delete) for what, delete in _deletions().items()}


def _deletions() -> dict[str, Callable[[Session], int]]:
    """What deletes a slice of each kind, and says how much went; facts before the files that only they use."""
    before, facts_before = now() - get_settings().retention, now() - get_settings().facts_retention
    return {
        "epochs": lambda session: Epochs(session).delete_before(before, _EPOCHS_AT_ONCE),
        "scores": lambda session: Scores(session).forget(before, _ROWS_AT_ONCE),
        "facts": lambda session: Facts(session).delete_before(facts_before, _ROWS_AT_ONCE),
        "answers": lambda session: forget_answers(session, before, _ROWS_AT_ONCE),
        "files": lambda session: Blobs(session).delete_unused(facts_before, LARGE_ROWS_AT_ONCE),
    }


def delete_in_slices(delete: Callable[[Session], int]) -> int:
    """Delete slice after slice, each in a transaction of its own, until nothing goes; how much went."""
    gone = 0
    while True:
        with transaction() as step:
            slice_ = delete(step.session)
        gone += slice_
        if slice_ == 0:
            return gone
