"""Fetching an epoch's submissions: every distinct path and drand round once, before they are examined."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

from app.celery import app
from app.clock import now
from app.epochs.capture import SUBMISSIONS, Capture, captured, closed_epoch
from app.epochs.facts import EpochFacts, StoredSheet
from app.epochs.rules import rules_of
from app.settings import get_settings
from app.store.epochs import Epochs
from app.store.records import Stage
from app.task import ValidatorTask
from workers.epochs import send_examinations

# Between two rounds of asking for what did not come; a host may ask for more patience.
_PAUSE: Final = timedelta(seconds=10)


@app.task(bind=True, piece=True)
def fetch_submissions(self: ValidatorTask, epoch_id: int) -> dict[str, Any]:
    """Capture the epoch's files, push times and drand rounds, then have them examined."""
    sheet = StoredSheet(epoch_id)
    if not captured(sheet, SUBMISSIONS):
        _fetch(self, sheet)
    with self.finishing() as step:
        Epochs(step.session).warn(epoch_id, *EpochFacts(epoch_id).warnings())
        send_examinations(step, epoch_id)
    return {"epoch": epoch_id, "status": "fetched"}


def _fetch(task: ValidatorTask, sheet: StoredSheet) -> None:
    """Ask for what is missing; what does not come is asked for again until the budget ends."""
    with task.reading() as session:
        epochs = Epochs(session)
        summary = epochs.summary(sheet.epoch_id)
        epoch, submissions = epochs.get(sheet.epoch_id), epochs.submissions(sheet.epoch_id)
    capture = Capture(closed_epoch(epoch.header), sheet, push_time_branch=rules_of(epoch).push_time_branch)
    budget = get_settings().fetch_budget
    shortfall = capture.submissions([submission.commitment for submission in submissions], task.renew)
    deadline = summary.entered(Stage.EXAMINING) + budget
    left = deadline - now()
    if left > timedelta(0) and shortfall.worth_waiting(left.total_seconds()):
        task.later(min(max(_PAUSE, timedelta(seconds=shortfall.retry_after)), left))
    capture.give_up(shortfall, f"within {budget.total_seconds():.0f} s")
