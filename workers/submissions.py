"""Examining one miner's submission: fetch → decrypt → validate → entropy."""

from __future__ import annotations

import logging
from datetime import datetime
from functools import lru_cache
from typing import Any, Final

from billiard.exceptions import SoftTimeLimitExceeded
from sqlalchemy.exc import DBAPIError

from app.celery import app
from app.clock import now
from app.domain import Rejection, RejectionCode
from app.epochs.examine import Examiner
from app.epochs.facts import EpochFacts
from app.epochs.rules import rules_of
from app.observability.metrics import submission_examined
from app.settings import get_settings
from app.store.database import get_store
from app.store.epochs import Epochs
from app.store.records import ClaimOutcome, Examination, PartState, Stage
from app.task import ValidatorTask
from chain.sources import SourceUnavailable

# A submission that ended its process this often is refused rather than tried for ever.
_MOST_ATTEMPTS: Final = 3

# Between two attempts to examine while this machine cannot have a file it needs (s).
_OUTAGE_PAUSE: Final = 10.0

log = logging.getLogger("celery_validator.submissions")


@lru_cache(maxsize=2)
def _examiner(epoch_id: int) -> Examiner:
    with get_store().reading() as session:
        epoch = Epochs(session).get(epoch_id)
    return Examiner(EpochFacts(epoch_id), rules_of(epoch), epoch.challenge)


@app.task(base=ValidatorTask, bind=True)
def examine_submission(self: ValidatorTask, epoch_id: int, uid: int) -> dict[str, Any]:
    """Examine one submission and store what was found. A refusal is a result."""
    store = get_store()
    with store.writing() as session:
        epochs = Epochs(session)
        outcome = epochs.claim_submission(epoch_id, uid, self.task_id, self.holder, get_settings().examine_limit)
        if outcome is ClaimOutcome.CLAIMED:
            record = epochs.submission(epoch_id, uid)
    if outcome is ClaimOutcome.BUSY:
        self.ask_again()
    if outcome is not ClaimOutcome.CLAIMED:
        return {"epoch": epoch_id, "uid": uid, "status": outcome.value}
    if record.attempts > _MOST_ATTEMPTS:
        found = _internal_error(f"examining it ended its worker process {_MOST_ATTEMPTS} times")
    else:
        try:
            found = _examine(epoch_id, uid, record.commitment)
        except SourceUnavailable as fault:
            # a file that this machine lacks, such as the database: no miner pays for that while there is time
            with store.writing() as session:
                epochs = Epochs(session)
                epochs.give_back(epoch_id, uid)
                began = datetime.fromisoformat(epochs.summary(epoch_id).stage_times[Stage.EXAMINING.value])
            if now() - began < get_settings().open_budget:
                raise self.retry(exc=fault, countdown=_OUTAGE_PAUSE, max_retries=None) from None
            found = _internal_error(f"{type(fault).__name__}: {fault}")
    with store.writing() as session:
        epochs = Epochs(session)
        news = epochs.record_examination(epoch_id, uid, found)
        if found.rejection and found.rejection.code is RejectionCode.INTERNAL_ERROR:
            epochs.warn(epoch_id, f"UID {uid} was refused for a fault of this validator: {found.rejection.message}")
    if news:
        submission_examined(found.rejection.code if found.rejection else None)
    state = PartState.REJECTED if found.rejection else PartState.VALID
    return {"epoch": epoch_id, "uid": uid, "status": state.value}


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
        return _internal_error(f"{type(error).__name__}: {error}")


def _internal_error(why: str) -> Examination:
    return Examination(
        "", rejection=Rejection(RejectionCode.INTERNAL_ERROR, f"this validator could not examine it: {why[:300]}")
    )
