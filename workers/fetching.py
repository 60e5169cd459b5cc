"""Fetching a live epoch's submissions: every distinct path and drand round once, before they are examined."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from app.celery import app
from app.clock import now
from app.epochs.capture import StoredSource, gather, give_up, remember_warnings
from app.settings import get_settings
from app.store.database import get_store
from app.store.epochs import Epochs
from app.store.facts import Facts
from app.store.records import Stage
from app.task import ValidatorTask

# A gathering task that wrote nothing for so long is dead; one request and its retries take less.
_LEASE: Final = timedelta(minutes=3)

# Between two rounds of asking for what did not come; a host may ask for more patience.
_PAUSE: Final = timedelta(seconds=10)


@app.task(base=ValidatorTask, bind=True)
def fetch_submissions(self: ValidatorTask, epoch_id: int) -> dict[str, Any]:
    """Gather the epoch's files, push times and drand rounds; what does not come is asked for until the budget ends."""
    store, status = get_store(), {"epoch": epoch_id}
    with store.writing() as session:
        epochs = Epochs(session)
        summary = epochs.summary(epoch_id)
        if summary.stage is not Stage.EXAMINING:
            return status | {"status": "examined before"}
        if not Facts(session).claim_gathering(summary.source, self.task_id, _LEASE):
            epochs.touch(epoch_id)
            return status | {"status": "gathered by another"}
        commitments = [submission.commitment for submission in epochs.submissions(epoch_id)]
    source = StoredSource(summary.source)

    def keep_claim() -> None:
        with store.writing() as session:
            Facts(session).claim_gathering(summary.source, self.task_id, _LEASE)
            Epochs(session).touch(epoch_id)

    shortfall = gather(source, commitments, keep_claim)
    deadline = datetime.fromisoformat(summary.stage_times[Stage.EXAMINING.value]) + get_settings().fetch_budget
    _remember(epoch_id, source, source.warnings())
    if shortfall and now() < deadline:
        patience = max(_PAUSE, timedelta(seconds=shortfall.retry_after))
        again = min(now() + patience, deadline)
        with store.writing() as session:
            Facts(session).pause_gathering(summary.source, again)
        raise self.retry(countdown=max(1.0, (again - now()).total_seconds()), max_retries=None)
    budget = f"within {get_settings().fetch_budget.total_seconds():.0f} s"
    _remember(epoch_id, source, [f"{sentence} ({budget})" for sentence in shortfall.sentences()])
    give_up(source, shortfall)
    with store.writing() as session:
        Facts(session).finish_gathering(summary.source)
        Epochs(session).touch(epoch_id)
    from workers.epochs import send_on

    send_on(epoch_id)
    return status | {"status": "gathered"}


def _remember(epoch_id: int, source: StoredSource, sentences: Sequence[str]) -> None:
    """Keep what the network did to this epoch, for its report and its recording."""
    with get_store().writing() as session:
        for sentence in sentences:
            Epochs(session).warn(epoch_id, sentence)
    remember_warnings(source, sentences)
