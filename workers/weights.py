"""Weights onto the chain, of epochs and of rounds: each once, followed until the chain shows them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from filelock import FileLock, Timeout
from sqlalchemy.orm import Session

from app.celery import app
from app.competitions.standings import by_uid, keep_round
from app.domain import BLOCK, MODELS_NETUID, Neuron, ValidatorError
from app.epochs.capture import process_subtensor
from app.epochs.rules import rules_of
from app.epochs.scores import UNTRAINED
from app.observability.metrics import EpochOutcome, WeightsOf, epoch_ended, weights_settled
from app.settings import Settings, get_settings
from app.store.database import get_store
from app.store.epochs import Epochs
from app.store.records import EpochSummary, OpenEpoch
from app.store.reputations import WeightRound
from app.store.weight_submissions import (
    WEIGHTS_OPEN,
    WEIGHTS_TROUBLE,
    WeightsState,
    WeightSubmission,
    WeightSubmissions,
)
from app.task import Step, ValidatorTask
from app.weights import (
    Ended,
    NoVector,
    Submitter,
    WeightsJob,
    keep_verdict,
    kept_from_chain,
    weights_verdict,
)
from chain.subtensor import load_wallet
from workers.reports import announce_reports

_ROUND: Final = timedelta(minutes=20)

# What the epoch's report must say; how the others end is no trouble.
_WARNED: Final = WEIGHTS_TROUBLE | {WeightsState.ALREADY_SET}

log = logging.getLogger("celery_validator.weights")


@app.task(bind=True, piece=True)
def submit_weights(self: ValidatorTask, epoch_id: int) -> dict[str, Any]:
    """Submit the closed epoch's vector, once. A replay's goes into its result and nowhere else."""
    settings = get_settings()
    with self.transaction() as step:
        summary, epoch = Epochs(step.session).summary(epoch_id), Epochs(step.session).get(epoch_id)
        untrained = UNTRAINED in Epochs(step.session).warnings(epoch_id)
        submission = WeightSubmissions(step.session).begin(epoch.header.netuid, epoch_id=epoch_id)
    kept = _kept(summary, epoch, settings, untrained=untrained)
    end = kept or _advance(self, submission, epoch_job(epoch, summary, submission), settings)
    return _end_epoch(self, epoch_id, submission, end)


def _round_failed(step: Step, mark: str, why: str) -> None:
    submissions = WeightSubmissions(step.session)
    submission = submissions.begin(MODELS_NETUID, mark=mark)
    if submission.state in WEIGHTS_OPEN:
        Ended(WeightsState.FAILED, why).write(submissions, submission.id)


@app.task(bind=True, piece=True, gives_up=staticmethod(_round_failed))
def submit_round(self: ValidatorTask, mark: str) -> dict[str, Any]:
    """Compute the weights of a 20-minute mark and submit them, once."""
    settings = get_settings()
    with self.transaction() as step:
        computed = keep_round(step.session, settings, mark)
        submission = WeightSubmissions(step.session).begin(MODELS_NETUID, mark=mark)
    if submission.state not in WEIGHTS_OPEN:
        with self.finishing():
            return {"mark": mark, "status": submission.state.value}
    end = _round_end(self, computed, submission, settings)
    with self.finishing() as step:
        _write(self, step, submission, end)
    _tell(f"round {mark}", WeightsOf.MODELS, end)
    return {"mark": mark, "status": end.state.value}


def _round_end(task: ValidatorTask, computed: WeightRound, submission: WeightSubmission, settings: Settings) -> Ended:
    weights = {uid: share for uid, share in computed.weights.items() if share > 0}
    kept = kept_from_chain(settings, weights, MODELS_NETUID, mark=computed.mark)
    return kept or _advance(task, submission, round_job(computed.by_hotkey, submission), settings)


@app.task(bind=True, piece=True)
def follow_weights(self: ValidatorTask, submission_id: int) -> dict[str, Any]:
    """Look until a commit is revealed; try a refused submission again once what refused it has changed."""
    with self.reading() as session:
        submission = WeightSubmissions(session).by_id(submission_id)
        job = None if submission is None else _job_of(session, submission)
    if submission is None:
        with self.finishing():
            return {"submission": submission_id, "status": "deleted"}
    end = _followed(self, submission, job)
    with self.finishing() as step:
        _note(step, submission, end) if end is not None else _reopen(step, submission)
    return {"submission": submission_id, "status": (WeightsState.COMPUTED if end is None else end.state).value}


def _followed(task: ValidatorTask, submission: WeightSubmission, job: WeightsJob | None) -> Ended | None:
    """How a submission that is followed ended; None where it is to be tried again. Else the task comes back."""
    try:
        found = _submitter(get_settings()).follow(submission, job)
    except ValidatorError as error:
        log.warning("%s", error)
        task.later(_ROUND, uncounted=True)
    if isinstance(found, Ended):
        return found
    if found.state is WeightsState.COMPUTED:
        return None
    with task.transaction() as step:
        _note(step, submission, Ended(found.state, found.sentence or ""))
    task.later(found.pause, uncounted=True)
    raise AssertionError("a task that comes back later does not go on")


def _note(step: Step, submission: WeightSubmission, end: Ended) -> None:
    """Write and tell what became of a submission, where that is news."""
    if end.state is not submission.state:
        end.write(WeightSubmissions(step.session), submission.id)
        of = WeightsOf.MOLECULES if submission.mark is None else WeightsOf.MODELS
        _tell(_named(submission), of, end)


@app.task(bind=True)
def read_weight_parameters(self: ValidatorTask) -> dict[str, Any]:
    """Ask the chain whether weights would be accepted, for the pages and the metrics."""
    settings = get_settings()
    try:
        found = weights_verdict(settings, process_subtensor(settings))
    except ValidatorError as error:
        log.warning("%s", error)
        return {"status": "unknown", "error": str(error)[:500]}
    with self.transaction() as step:
        keep_verdict(step.session, found)
    return {"status": "accepted" if found.accepted else "refused", "verdict": found.sentence}


# -- jobs -------------------------------------------------------------------------------------------------------------


def epoch_job(epoch: OpenEpoch, summary: EpochSummary, submission: WeightSubmission) -> WeightsJob:
    """The vector of an epoch's winners, until the next epoch closes."""
    header = epoch.header
    return WeightsJob(
        netuid=header.netuid,
        vector=lambda neurons: _winners_vector(epoch, summary, neurons),
        closes_at=submission.created_at + header.epoch_length * BLOCK,
        closes_block=header.end_block + header.epoch_length,
        foreign_after=header.end_block,
    )


def round_job(by_hotkey: Mapping[str, float], submission: WeightSubmission) -> WeightsJob:
    """The vector of a round, until the next mark."""
    assert submission.mark is not None
    try:
        mark = datetime.strptime(submission.mark, "%Y-%m-%dT%H:%M").replace(tzinfo=UTC)
    except ValueError:
        # asked for by hand, or at the start
        mark = submission.created_at
    return WeightsJob(
        netuid=submission.netuid,
        vector=lambda neurons: (
            by_uid(by_hotkey, {neuron.hotkey: neuron.uid for neuron in neurons})
            or NoVector(WeightsState.NONE, "of those with a weight nobody is registered any more")
        ),
        closes_at=mark + _ROUND,
    )


def _winners_vector(
    epoch: OpenEpoch, summary: EpochSummary, neurons: Sequence[Neuron]
) -> Mapping[int, float] | NoVector:
    """The vector with each winner at the UID that its hotkey has now."""
    hotkey_then = {neuron.uid: neuron.hotkey for neuron in epoch.neurons}
    uid_now = {neuron.hotkey: neuron.uid for neuron in neurons}
    winners: dict[str, int | None] = {}
    for ranking, winner in summary.winners.items():
        if winner is not None and hotkey_then[winner] not in uid_now:
            left = f"winner UID {winner} ({hotkey_then[winner]}) has left the subnet; nothing was submitted"
            return NoVector(WeightsState.WINNER_LEFT, left)
        winners[ranking] = None if winner is None else uid_now[hotkey_then[winner]]
    vector = rules_of(epoch).weights(winners, [neuron.uid for neuron in neurons], {})
    if vector.weights is None:
        return NoVector(WeightsState.NONE, vector.reason or "no winner, so nothing is submitted")
    return dict(vector.weights)


def _job_of(session: Session, submission: WeightSubmission) -> WeightsJob | None:
    """What a submission was about; None where it is no longer known."""
    if submission.epoch_id is not None:
        epochs = Epochs(session)
        return epoch_job(epochs.get(submission.epoch_id), epochs.summary(submission.epoch_id), submission)
    return round_job({}, submission)


def _reopen(step: Step, submission: WeightSubmission) -> None:
    WeightSubmissions(step.session).reopen(submission.id)
    if submission.epoch_id is not None:
        step.send_epoch("workers.weights.submit_weights", submission.epoch_id)
    else:
        step.send("workers.weights.submit_round", submission.mark)
    log.info("%s: what refused its weights has changed; they are tried again", _named(submission))


# -- one step ---------------------------------------------------------------------------------------------------------


def _kept(summary: EpochSummary, epoch: OpenEpoch, settings: Settings, *, untrained: bool) -> Ended | None:
    """How a vector ends that is not for the chain; None for one that is."""
    weights = summary.weights
    if not summary.publishes:
        state = WeightsState.NONE if weights is None else WeightsState.RECORDED
        return Ended(state, "replay: written to the result, not to the chain", weights)
    end = kept_from_chain(settings, weights, epoch.header.netuid, epoch=epoch.header.epoch)
    if end is None and untrained:
        # it was rehearsed in test mode, which has been switched off since
        return Ended(WeightsState.NOT_SET, f"{UNTRAINED}; nothing is submitted", weights)
    return end


def _advance(task: ValidatorTask, submission: WeightSubmission, job: WeightsJob, settings: Settings) -> Ended:
    """One step on the chain: the end, or the task comes back."""
    try:
        # the claim guards against another task, the lock against another cluster on this machine
        with FileLock(_lock_path(settings), timeout=0):
            found = _submitter(settings).advance(submission, job)
    except Timeout:
        task.later(settings.weights_pause, uncounted=True)
    except ValidatorError as error:
        return Ended(WeightsState.FAILED, str(error))
    if isinstance(found, Ended):
        return found
    if found.sentence is not None or found.state is not submission.state:
        with task.transaction() as step:
            WeightSubmissions(step.session).waits(submission.id, found.state, found.sentence)
    task.later(found.pause, uncounted=True)
    raise AssertionError("a task that comes back later does not go on")


def _submitter(settings: Settings) -> Submitter:
    wallet = load_wallet(settings.wallet_name, settings.wallet_hotkey, settings.wallet_path)
    return Submitter(process_subtensor(settings), wallet, get_store(), settings.weights_pause)


def _write(task: ValidatorTask, step: Step, submission: WeightSubmission, end: Ended) -> None:
    end.write(WeightSubmissions(step.session), submission.id)
    if end.followed:
        step.send("workers.weights.follow_weights", submission.id)


def _end_epoch(task: ValidatorTask, epoch_id: int, submission: WeightSubmission, end: Ended) -> dict[str, Any]:
    with task.finishing() as step:
        _write(task, step, submission, end)
        epochs = Epochs(step.session)
        if end.state in _WARNED:
            epochs.warn(epoch_id, f"weights: {end.detail}")
        ended = epochs.finish(epoch_id)
        summary = epochs.summary(epoch_id)
        if ended and summary.publishes:
            announce_reports(step, epoch_id)
    if ended:
        epoch_ended(EpochOutcome.DONE, summary.stage_times)
    _tell(f"epoch {epoch_id}", WeightsOf.MOLECULES, end)
    return {"epoch": epoch_id, "status": end.state.value}


def _tell(what: str, of: WeightsOf, end: Ended) -> None:
    weights_settled(of, end.state)
    level = logging.WARNING if end.state in _WARNED else logging.INFO
    log.log(level, "%s: weights %s: %s", what, end.state.value, end.detail)


def _named(submission: WeightSubmission) -> str:
    return f"round {submission.mark}" if submission.epoch_id is None else f"epoch {submission.epoch_id}"


def _lock_path(settings: Settings) -> Path:
    folder = settings.data_dir.expanduser().resolve()
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"weights-{settings.netuid}.lock"
