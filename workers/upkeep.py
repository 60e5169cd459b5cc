"""What keeps the cluster moving and the store small."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from app.celery import app
from app.clock import now
from app.settings import get_settings
from app.store.database import get_store
from app.store.epochs import Epochs
from app.store.facts import Facts
from app.store.records import EpochSummary
from app.store.scores import Scores
from app.task import ValidatorTask
from workers.epochs import send_on
from workers.reports import resend_pending

log = logging.getLogger("celery_validator.upkeep")


@app.task(base=ValidatorTask)
def reconcile() -> dict[str, Any]:
    """Move on what stands still in this cluster: a lost chord, a wiped broker, a dead worker's claim or report."""
    settings = get_settings()
    resend_pending()
    with get_store().reading() as session:
        epochs = Epochs(session).unfinished(settings.cluster_name)
    if not epochs:
        return {"moved": []}
    alive = living_processes()
    moved = [epoch.id for epoch in epochs if _move_on(epoch, alive)]
    return {"moved": moved}


def _move_on(epoch: EpochSummary, alive: Mapping[str, datetime]) -> bool:
    with get_store().writing() as session:
        epochs = Epochs(session)
        holders = epochs.holders(epoch.id)
        voided = 0
        if alive:
            voided = epochs.release_claims(epoch.id, holders - alive.keys())
            voided += epochs.release_former_claims(epoch.id, {name: alive[name] for name in holders & alive.keys()})
        still = now() - epoch.touched_at > get_settings().reconcile_after
        if not (voided or still):
            return False
        # touching it now gives what is sent below its own time before the next look
        epochs.touch(epoch.id)
    log.warning("epoch %s stood still at %s; sent on (%d claims voided)", epoch.id, epoch.stage.value, voided)
    send_on(epoch.id)
    return True


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


@app.task(base=ValidatorTask)
def forget_old() -> dict[str, Any]:
    """Delete epochs and scores older than ``RETENTION``."""
    before = now() - get_settings().retention
    with get_store().writing() as session:
        epochs, scores = Epochs(session).delete_before(before), Scores(session).delete_before(before)
        facts = Facts(session).delete_before(now() - get_settings().facts_retention)
    return {"epochs": epochs, "scores": scores, "facts": facts}
