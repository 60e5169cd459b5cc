"""How evaluations move through the cluster: sent, looked at, sent again when a message or a worker is lost."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, Final

from celery import Celery
from kombu.exceptions import OperationalError

from app.clock import now
from app.competitions.benchmarks import capability
from app.competitions.commitments import CommitmentLookup, unknown_offline
from app.domain import QueueName, ValidatorError
from app.settings import Settings
from app.store.database import Store
from app.store.evaluations import EvaluationInputs, EvaluationPhase, EvaluationRecord, Evaluations

EVALUATION_TASK: Final = "workers.evaluations.evaluate_model"
SWEEP_TASK: Final = "workers.evaluations.sweep_evaluations"

# So many heartbeats may be missed before a try counts as dead.
_MISSED_BEATS: Final = 6

# Past its limit a task has a minute to clean up, then its process is ended; the store follows a minute later.
_OVERDUE_GRACE: Final = timedelta(minutes=2)

# A sweep that no worker took by then is not worth keeping: the next worker sweeps when it starts.
_SWEEP_EXPIRES: Final = timedelta(minutes=10)

log = logging.getLogger("celery_validator.evaluations")


class CannotEvaluate(ValidatorError):
    """This node cannot evaluate such a model; the message says why, and what would help."""


class EvaluationReleased(ValidatorError):
    """The evaluation was given up unscored: the fault is this node's, not the model's."""


@dataclass(frozen=True, slots=True)
class Moved:
    """What one look at the evaluations has changed, by id."""

    ended: tuple[str, ...]
    voided: tuple[str, ...]
    sent: tuple[str, ...]


def silence(settings: Settings) -> timedelta:
    """How long a try may be silent before it counts as dead."""
    return _MISSED_BEATS * settings.evaluation_heartbeat


def slots(settings: Settings) -> tuple[str, ...]:
    """The places for models: one for each GPU of this cluster."""
    return tuple(str(number) for number in range(settings.local_scorers))


def begin(
    store: Store, celery: Celery, inputs: EvaluationInputs, among: Sequence[str], settings: Settings
) -> str | None:
    """Accept an evaluation and send it to the gpu queue; its id, or None where every slot is taken.

    Raises:
        CannotEvaluate: the competition has no benchmark here, a gpu worker found that something is missing for it, or
            nothing says which revision was committed. No slot is taken.
    """
    with store.reading() as session:
        found = capability(session, settings, inputs.competition_id)
    if found.objection is not None:
        raise CannotEvaluate(found.objection)
    if settings.offline and CommitmentLookup(store, None).in_store(inputs) is None:
        raise CannotEvaluate(unknown_offline(inputs))
    with store.writing() as session:
        accepted = Evaluations(session).accept(inputs, among)
    if accepted is not None:
        send_evaluation(celery, accepted, inputs)
    return accepted


def move_on(store: Store, celery: Celery, settings: Settings) -> Moved:
    """End what is overdue, void what is dead, and send again what waits without a message. May run anywhere, any time.

    Sends a sweep too where something may have been left on a node.
    """
    with store.writing() as session:
        evaluations = Evaluations(session)
        # first, so that a worker which the limit has ended is not taken for one that died
        ended = evaluations.end_overdue(settings.evaluation_limit, _OVERDUE_GRACE, silence(settings))
        voided = evaluations.void_dead(silence(settings))
        unsent = evaluations.unsent()
    for evaluation_id in ended:
        log.warning("evaluation %s was overdue; ended", evaluation_id)
    for evaluation_id in voided:
        log.warning("evaluation %s lost its worker", evaluation_id)
    if ended or voided:
        _send_sweep(celery)
    for evaluation_id, inputs in unsent:
        log.warning("evaluation %s is sent again", evaluation_id)
        send_evaluation(celery, evaluation_id, inputs)
    return Moved(tuple(ended), tuple(voided), tuple(evaluation_id for evaluation_id, _ in unsent))


def status_answer(record: EvaluationRecord, settings: Settings) -> dict[str, Any]:
    """An evaluation as the scoring API tells of it.

    One that no worker is at says ``scoring`` without ``started_at``: at its limit a client gives the model back.

    Raises:
        EvaluationReleased: it ended without a score, by a fault of this node.
    """
    phase, started_at, error = record.phase, record.started_at, record.error
    if phase is EvaluationPhase.RELEASED:
        raise EvaluationReleased(error or "given up")
    silent = record.heartbeat_at is None or now() - record.heartbeat_at > silence(settings)
    if phase is EvaluationPhase.WAITING or (phase is EvaluationPhase.SCORING and silent):
        phase, started_at = EvaluationPhase.SCORING, None
        error = error or "waits for a gpu worker: celery -A app worker -Q gpu"
    ended = record.finished_at or now()
    return {
        "status": phase.value,
        "score": record.score,
        "metric_scores": record.metric_scores,
        "error": error,
        "started_at": None if started_at is None else started_at.isoformat(),
        "runtime_seconds": None if started_at is None else round((ended - started_at).total_seconds(), 3),
        "inputs": asdict(record.inputs),
    }


def send_evaluation(celery: Celery, evaluation_id: str, inputs: EvaluationInputs) -> None:
    """Send an accepted evaluation to the gpu queue. A broker that does not answer gets it later, from ``move_on``."""
    try:
        celery.send_task(EVALUATION_TASK, kwargs=asdict(inputs), task_id=evaluation_id, queue=QueueName.GPU.value)
    except (OperationalError, ConnectionError) as error:
        # it is in the store: whoever moves evaluations on sends it when the broker is back
        log.error("evaluation %s could not be sent to the broker and waits: %s", evaluation_id, error)


def _send_sweep(celery: Celery) -> None:
    try:
        celery.send_task(SWEEP_TASK, queue=QueueName.GPU.value, expires=_SWEEP_EXPIRES.total_seconds())
    except (OperationalError, ConnectionError) as error:
        log.error("no sweep could be sent to the broker: %s", error)
