"""The epoch's own steps: open, plan, close. Each asks the store first whether it is still its turn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from celery import chord

from app.celery import app
from app.clock import now
from app.domain import ScoringModel, ValidatorError
from app.epochs.capture import StoredSource, remember_warnings
from app.epochs.judge import judge
from app.epochs.plan import plan_batches
from app.epochs.rules import rules_of
from app.epochs.scores import EpochScores
from app.epochs.steps import LIVE_PREFIX, gather_opening, open_source
from app.settings import get_settings
from app.store.database import get_store
from app.store.epochs import Epochs
from app.store.facts import Facts
from app.store.records import FINAL_STAGES, Stage
from app.store.scores import Scores
from app.task import ValidatorTask
from chain.sources import EpochSource, SourceUnavailable
from workers.fetching import fetch_submissions
from workers.reports import fail_epoch
from workers.scoring import score_boltz, score_psichic, scoring_proteins
from workers.submissions import examine_submission
from workers.weights import submit_weights

# Between two attempts to open an epoch while the chain or the hub is away (s): one block.
_OPEN_PAUSE = 12.0

_SCORE_TASK = {ScoringModel.PSICHIC: score_psichic, ScoringModel.BOLTZ: score_boltz}


@app.task(base=ValidatorTask, bind=True)
def open_epoch(self: ValidatorTask, epoch_id: int) -> dict[str, Any]:
    """Freeze the rules, draw the challenge, write the submissions, and send them to be examined."""
    store = get_store()
    with store.reading() as session:
        stage, source = Epochs(session).announced(epoch_id)
    if stage is Stage.ANNOUNCED:
        network = open_source(source)
        try:
            opening = gather_opening(network)
        except SourceUnavailable as fault:
            _remember(epoch_id, network, [f"the epoch was opened late: {fault}"])
            with store.reading() as session:
                spent = now() - Epochs(session).summary(epoch_id).created_at
            if spent > get_settings().open_budget:
                return _failed(epoch_id, f"it could not be opened within {get_settings().open_budget}: {fault}")
            raise self.retry(exc=fault, countdown=_OPEN_PAUSE, max_retries=None) from None
        except ValidatorError as error:
            return _failed(epoch_id, str(error))
        _remember(epoch_id, network, network.warnings())
        with store.writing() as session:
            Epochs(session).open(
                epoch_id,
                header=opening.header,
                neurons=opening.neurons,
                rules=opening.rules_text,
                rules_sha256=opening.rules_digest,
                challenge=opening.challenge,
                proteins=opening.proteins,
                commitments=opening.commitments,
                warnings=opening.warnings,
            )
    send_on(epoch_id)
    return {"epoch": epoch_id, "status": "opened"}


def _failed(epoch_id: int, error: str) -> dict[str, Any]:
    fail_epoch(epoch_id, error)
    return {"epoch": epoch_id, "status": "failed"}


def _remember(epoch_id: int, network: EpochSource, sentences: Sequence[str]) -> None:
    """Keep what the network did to a live epoch, for its report and its recording."""
    with get_store().writing() as session:
        epochs = Epochs(session)
        epochs.touch(epoch_id)
        if isinstance(network, StoredSource):
            for sentence in sentences:
                epochs.warn(epoch_id, sentence)
    if isinstance(network, StoredSource):
        remember_warnings(network, sentences)


@app.task(base=ValidatorTask)
def plan_scoring(epoch_id: int) -> dict[str, Any]:
    """Once every submission is examined, split the unique molecules into batches and send them to be scored."""
    store = get_store()
    with store.writing() as session:
        epochs = Epochs(session)
        if epochs.summary(epoch_id).stage is not Stage.EXAMINING:
            return {"epoch": epoch_id, "status": "planned before"}
        if epochs.pending_uids(epoch_id):
            return {"epoch": epoch_id, "status": "not all examined"}
        epochs.plan(epoch_id, plan_batches(epochs.get(epoch_id), epochs.submissions(epoch_id)))
    send_on(epoch_id)
    return {"epoch": epoch_id, "status": "planned"}


@app.task(base=ValidatorTask)
def close_epoch(epoch_id: int) -> dict[str, Any]:
    """Once every batch is scored, rank, find the winners and build the weights."""
    store = get_store()
    with store.reading() as session:
        epochs = Epochs(session)
        stage = epochs.summary(epoch_id).stage
        if stage is Stage.SCORING and epochs.pending_batches(epoch_id):
            return {"epoch": epoch_id, "status": "not all scored"}
        if stage is not Stage.SCORING:
            return {"epoch": epoch_id, "status": "closed before"}
        epoch = epochs.get(epoch_id)
        submissions = epochs.submissions(epoch_id)
        scores = EpochScores()
        for model in ScoringModel:
            proteins = scoring_proteins(epoch, rules_of(epoch).proteins(epoch, model))
            for batch in epochs.batches(epoch.id, model):
                scores.add(model, Scores(session).known(batch.model_digest or "", proteins, batch.smiles).values())
    outcome = judge(epoch, submissions, scores)
    with store.writing() as session:
        Epochs(session).close(epoch_id, outcome.verdicts, outcome.winners, outcome.weights, outcome.warnings)
    send_on(epoch_id)
    return {"epoch": epoch_id, "status": "closed"}


def send_on(epoch_id: int) -> str:
    """Send whatever the epoch's stage still needs: the parts that are not done, and the step that follows them.

    Sending twice is harmless: every task asks the store whether it is done. The reconciler calls this too.
    """
    with get_store().reading() as session:
        epochs = Epochs(session)
        stage = epochs.summary(epoch_id).stage
        uids = epochs.pending_uids(epoch_id) if stage is Stage.EXAMINING else []
        batches = epochs.pending_batches(epoch_id) if stage is Stage.SCORING else []
        source = epochs.summary(epoch_id).source
        to_fetch = stage is Stage.EXAMINING and source.startswith(LIVE_PREFIX) and not Facts(session).gathered(source)
    if stage in FINAL_STAGES:
        return "nothing"
    if stage is Stage.ANNOUNCED:
        open_epoch.delay(epoch_id)
    elif to_fetch:
        fetch_submissions.delay(epoch_id)
    elif stage is Stage.EXAMINING:
        _send_chord([examine_submission.si(epoch_id, uid) for uid in uids], plan_scoring.si(epoch_id))
    elif stage is Stage.SCORING:
        _send_chord([_SCORE_TASK[model].si(epoch_id, batch) for model, batch in batches], close_epoch.si(epoch_id))
    else:
        submit_weights.delay(epoch_id)
    return stage.value


def _send_chord(header: list[Any], body: Any) -> None:
    if header:
        chord(header)(body)
    else:
        body.delay()
