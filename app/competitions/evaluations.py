"""This node's evaluations: which it can do, which are overdue, and what the scoring API answers about one."""

from __future__ import annotations

import logging
from dataclasses import asdict
from datetime import timedelta
from typing import Any, Final

from sqlalchemy.orm import Session

from app.clock import now
from app.competitions.benchmarks import capability
from app.competitions.commitments import CommitmentLookup, unknown_offline
from app.domain import ValidatorError
from app.settings import Settings
from app.store.database import Store
from app.store.evaluations import EvaluationInputs, EvaluationPhase, EvaluationRecord, Evaluations

SWEEP: Final = "workers.evaluations.sweep_evaluations"

# A sweep that no worker took by then is not worth keeping: the next worker sweeps when it starts.
SWEEP_EXPIRES: Final = timedelta(minutes=10)

# Past its limit a task has a minute to clean up, then its process is ended; the store follows a minute later.
_OVERDUE_GRACE: Final = timedelta(minutes=2)

log = logging.getLogger("celery_validator.evaluations")


class CannotEvaluate(ValidatorError):
    """This node cannot evaluate such a model; the message says why, and what would help."""


class EvaluationReleased(ValidatorError):
    """The evaluation was given up unscored: the fault is this node's, not the model's."""


def slots(settings: Settings) -> tuple[str, ...]:
    """The places for models: one for each GPU of this cluster."""
    return tuple(str(number) for number in range(settings.local_scorers))


def check_capable(store: Store, inputs: EvaluationInputs, settings: Settings) -> None:
    """Refuse what this node cannot evaluate.

    Raises:
        CannotEvaluate: the competition has no benchmark here, a gpu worker found that something is missing for it, or
            nothing says which revision was committed.
    """
    with store.reading() as session:
        found = capability(session, settings, inputs.competition_id)
    if found.objection is not None:
        raise CannotEvaluate(found.objection)
    if settings.offline and CommitmentLookup(store, None).in_store(inputs) is None:
        raise CannotEvaluate(unknown_offline(inputs))


def end_overdue(session: Session, settings: Settings) -> list[str]:
    """End the evaluations whose time is over, whatever became of their workers; the ids."""
    ended = Evaluations(session).end_overdue(settings.evaluation_limit, _OVERDUE_GRACE, settings.evaluation_silence)
    for evaluation_id in ended:
        log.warning("evaluation %s was overdue; ended", evaluation_id)
    return ended


def status_answer(record: EvaluationRecord) -> dict[str, Any]:
    """An evaluation as the scoring API reports it.

    One that no worker is at says ``scoring`` without ``started_at``: at its limit a client gives the model back.

    Raises:
        EvaluationReleased: it ended without a score, by a fault of this node.
    """
    phase, started_at, error = record.phase, record.started_at, record.error
    if phase is EvaluationPhase.RELEASED:
        raise EvaluationReleased(error or "given up")
    if phase is EvaluationPhase.WAITING:
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
