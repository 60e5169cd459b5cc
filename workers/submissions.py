"""Examining one miner's submission: fetch → decrypt → validate → entropy."""

from __future__ import annotations

import logging
from datetime import timedelta
from functools import lru_cache
from typing import Any, Final

from billiard.exceptions import SoftTimeLimitExceeded
from sqlalchemy.exc import DBAPIError

from app.celery import app
from app.clock import now
from app.domain import Rejection, RejectionCode
from app.epochs.examine import Examiner
from app.epochs.facts import EpochFacts, opened_epoch
from app.epochs.rules import rules_of
from app.observability.metrics import submission_examined
from app.settings import get_settings
from app.store.epochs import Epochs
from app.store.records import Examination, PartState, Stage, SubmissionRecord
from app.task import ValidatorTask
from app.untrusted import shown
from chain.sources import SourceUnavailable

# A submission that ended its process this often is refused rather than tried for ever.
_MOST_ATTEMPTS: Final = 3

# Between two attempts to examine while this machine cannot have a file it needs .
_OUTAGE_PAUSE: Final = timedelta(seconds=10)

log = logging.getLogger("celery_validator.submissions")


@lru_cache(maxsize=2)
def _examiner(epoch_id: int) -> Examiner:
    epoch = opened_epoch(epoch_id)
    return Examiner(EpochFacts(epoch_id), rules_of(epoch), epoch.challenge)


@app.task(bind=True, piece=True)
def examine_submission(self: ValidatorTask, epoch_id: int, uid: int) -> dict[str, Any]:
    """Examine one submission and store what was found. A refusal is a result."""
    found = _found(self, epoch_id, uid)
    with self.finishing() as step:
        Epochs(step.session).record_examination(epoch_id, uid, found, self.worked_on)
    submission_examined(found.rejection.code if found.rejection else None)
    return {"epoch": epoch_id, "uid": uid, "status": (PartState.REJECTED if found.rejection else PartState.VALID).value}


def _found(task: ValidatorTask, epoch_id: int, uid: int) -> Examination:
    with task.reading() as session:
        submission, epoch = Epochs(session).submission(epoch_id, uid), Epochs(session).summary(epoch_id)
    try:
        return _examined(epoch_id, submission, task.held.attempts)
    except SourceUnavailable as fault:
        # a file that this machine lacks, such as the database: no miner pays for that while there is time
        if now() - epoch.entered(Stage.EXAMINING) < get_settings().open_budget:
            task.later(_OUTAGE_PAUSE, fault, uncounted=True)
        return _internal_error(shown(fault, 300))


def _examined(epoch_id: int, submission: SubmissionRecord, attempts: int) -> Examination:
    if attempts > _MOST_ATTEMPTS:
        return _internal_error(f"examining it ended its worker process {_MOST_ATTEMPTS} times")
    return _examine(epoch_id, submission.uid, submission.commitment)


def _examine(epoch_id: int, uid: int, commitment: Any) -> Examination:
    try:
        return _examiner(epoch_id).examine(uid, commitment)
    except (DBAPIError, SourceUnavailable):
        raise
    except SoftTimeLimitExceeded:
        seconds = get_settings().examine_limit.total_seconds()
        return _internal_error(f"examining it took longer than {seconds:.0f} s")
    # a fault of ours must not stop the epoch; it stands in the report under the miner's UID
    except Exception as error:
        log.exception("epoch %s UID %s: examination failed", epoch_id, uid)
        return _internal_error(shown(error, 300))


def _internal_error(why: str) -> Examination:
    return Examination(
        "", rejection=Rejection(RejectionCode.INTERNAL_ERROR, f"this validator could not examine it: {why}")
    )
