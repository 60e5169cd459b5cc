"""Fetching a live epoch's submissions: every distinct path and drand round once, before they are examined."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final

from app.celery import app
from app.clock import now
from app.epochs.capture import StoredSource, gather, give_up, remember_warnings
from app.settings import get_settings
from app.store.database import get_store
from app.store.epochs import Epochs
from app.store.records import Stage
from app.task import ValidatorTask
from workers.epochs import send_examinations

# Between two rounds of asking for what did not come; a host may ask for more patience.
_PAUSE: Final = timedelta(seconds=10)


@app.task(bind=True, piece=True)
def fetch_submissions(self: ValidatorTask, epoch_id: int) -> dict[str, Any]:
    """Gather the epoch's files, push times and drand rounds; what does not come is asked for until the budget ends."""
    with self.reading() as session:
        epochs = Epochs(session)
        summary = epochs.summary(epoch_id)
        commitments = [submission.commitment for submission in epochs.submissions(epoch_id)]
    source, budget = StoredSource(summary.source), get_settings().fetch_budget
    shortfall = gather(source, commitments, self.renew)
    deadline = summary.entered(Stage.EXAMINING) + budget
    _remember(epoch_id, source, source.warnings())
    if shortfall and now() < deadline:
        self.later(min(max(_PAUSE, timedelta(seconds=shortfall.retry_after)), deadline - now()))
    _remember(epoch_id, source, [f"{text} (within {budget.total_seconds():.0f} s)" for text in shortfall.sentences()])
    give_up(source, shortfall)
    with self.finishing() as step:
        send_examinations(step, epoch_id)
    return {"epoch": epoch_id, "status": "gathered"}


def _remember(epoch_id: int, source: StoredSource, sentences: Sequence[str]) -> None:
    """Keep what the network did to this epoch, for its report and its recording."""
    with get_store().writing() as session:
        for sentence in sentences:
            Epochs(session).warn(epoch_id, sentence)
    remember_warnings(source, sentences)
