"""The epoch's own steps: open, plan, close. Each is a piece of work that is claimed, and finished with what follows."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy.orm import Session

from app.celery import app
from app.clock import now
from app.domain import EpochHeader, ScoringModel
from app.epochs.capture import Capture, closed_epoch, process_subtensor
from app.epochs.exchange import SHARED_FILE, Exchange
from app.epochs.facts import EpochFacts, StoredSheet, keep_warnings
from app.epochs.judge import judge
from app.epochs.opening import opening_of
from app.epochs.plan import plan_batches
from app.epochs.recorded_scores import RECORDED, recorded_digests, with_what_was_not_recorded
from app.epochs.scores import EpochScores
from app.settings import get_settings
from app.store.epochs import Epochs
from app.store.records import EpochSummary, OpenEpoch, Stage, SubmissionRecord
from app.store.scores import Scores
from app.task import Step, ValidatorTask
from chain.sources import SourceError, SourceUnavailable
from chain.web import shared_session
from workers.reports import end_failed
from workers.scoring import scoring_proteins

# Between two attempts to open an epoch while the chain or the hub is unavailable: one block.
_OPEN_PAUSE = timedelta(seconds=12)

# Molecules whose scores are read from the store at once.
_READ_TOGETHER: Final = 1_000

_SCORE_TASK: Final = {
    ScoringModel.PSICHIC: "workers.scoring.score_psichic",
    ScoringModel.BOLTZ: "workers.scoring.score_boltz",
    ScoringModel.BOLTZGEN: "workers.scoring.score_boltzgen",
}


@app.task(bind=True, piece=True)
def open_epoch(self: ValidatorTask, epoch_id: int) -> dict[str, Any]:
    """Capture what the epoch is opened with, freeze the rules, draw the challenge, write the submissions."""
    with self.reading() as session:
        summary, header = Epochs(session).summary(epoch_id), Epochs(session).header(epoch_id)
    _capture_opening(self, header, StoredSheet(epoch_id), summary.created_at)
    opening = opening_of(EpochFacts(epoch_id))
    with self.finishing() as step:
        Epochs(step.session).open(epoch_id, **opening.frozen())
        step.send_epoch("workers.fetching.fetch_submissions", epoch_id)
    return {"epoch": epoch_id, "status": "opened"}


def _capture_opening(task: ValidatorTask, header: EpochHeader, sheet: StoredSheet, announced_at: datetime) -> None:
    """Capture what an epoch is opened with; what does not come is asked for again until the budget ends."""
    try:
        Capture(closed_epoch(header), sheet).opening()
    except SourceUnavailable as fault:
        keep_warnings(sheet, [f"the epoch was opened late: {fault}"])
        if now() - announced_at > get_settings().open_budget:
            raise SourceError(f"it could not be opened within {get_settings().open_budget}: {fault}") from None
        task.later(_OPEN_PAUSE, fault)


def send_examinations(step: Step, epoch_id: int) -> None:
    """Have every submission examined, then the scoring planned."""
    uids = Epochs(step.session).pending_uids(epoch_id)
    header = [("workers.submissions.examine_submission", uid) for uid in uids]
    step.chord(epoch_id, header, "workers.epochs.plan_scoring")


@app.task(bind=True, piece=True)
def plan_scoring(self: ValidatorTask, epoch_id: int) -> dict[str, Any]:
    """Once every submission is examined, split the unique molecules into batches and send them to be scored."""
    with self.reading() as session:
        epoch, submissions = Epochs(session).get(epoch_id), Epochs(session).submissions(epoch_id)
    batches = plan_batches(epoch, submissions)
    recorded = recorded_digests(epoch, batches)
    with self.finishing() as step:
        unknown = Epochs(step.session).plan(epoch_id, batches, recorded)
        step.chord(epoch_id, [(_SCORE_TASK[model], batch) for model, batch in unknown], "workers.epochs.close_epoch")
    return {"epoch": epoch_id, "status": "planned"}


@app.task(bind=True, piece=True)
def close_epoch(self: ValidatorTask, epoch_id: int) -> dict[str, Any]:
    """Once every batch is scored, exchange scores where the rules say so, rank, find the winners, build the weights."""
    with self.reading() as session:
        epoch, summary = Epochs(session).get(epoch_id), Epochs(session).summary(epoch_id)
    submissions, scores = _exchanged(self, epoch, summary)
    outcome = judge(epoch, submissions, scores, EpochFacts(epoch_id).document(SHARED_FILE))
    with self.finishing() as step:
        Epochs(step.session).close(
            epoch_id, outcome.verdicts, outcome.winners, outcome.weights, outcome.warnings, outcome.unjudged
        )
        step.send_epoch("workers.weights.submit_weights", epoch_id)
    return {"epoch": epoch_id, "status": "closed"}


def _exchanged(
    task: ValidatorTask, epoch: OpenEpoch, summary: EpochSummary
) -> tuple[list[SubmissionRecord], EpochScores]:
    """The epoch's submissions and scores, once the exchange with the other validators is over."""
    settings = get_settings()
    exchange = Exchange(epoch, summary, StoredSheet(epoch.id), settings)
    if (pause := exchange.before_due(process_subtensor(settings))) is not None:
        task.later(pause, uncounted=True)
    with task.reading() as session:
        submissions, scores = Epochs(session).submissions(epoch.id), _scores(session, epoch)
    if (pause := exchange.advance(submissions, scores, shared_session())) is not None:
        task.later(pause, uncounted=True)
    return submissions, scores


def _scores(session: Session, epoch: OpenEpoch) -> EpochScores:
    """All scores of an epoch whose batches are scored."""
    scores = EpochScores()
    for model in ScoringModel:
        proteins = scoring_proteins(epoch, model)
        by_digest: defaultdict[str, list[str]] = defaultdict(list)
        for batch in Epochs(session).batches(epoch.id, model):
            by_digest[batch.model_digest or ""] += batch.smiles
        # by the thousand: a question per batch took most of the time
        for digest, smiles in by_digest.items():
            for start in range(0, len(smiles), _READ_TOGETHER):
                some = smiles[start : start + _READ_TOGETHER]
                known = Scores(session).known(digest, proteins, some)
                if epoch.scores == RECORDED:
                    known = with_what_was_not_recorded(known, proteins, some)
                scores.add(model, known.values())
    return scores


def _fail_plainly(step: Step, epoch_id: int, _error: str, why: str) -> None:
    Epochs(step.session).fail(epoch_id, why)


@app.task(bind=True, piece=True, gives_up=staticmethod(_fail_plainly))
def fail_epoch(self: ValidatorTask, epoch_id: int, error: str) -> dict[str, Any]:
    """End an epoch that cannot go on, with the sentence that says why; one that publishes is reported to monitoring."""
    with self.finishing() as step:
        end_failed(step, epoch_id, error)
    return {"epoch": epoch_id, "status": Stage.FAILED.value}
