"""Evaluating miners' models on this node's GPU: one task a model, and what clears away after the dead (models.md)."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from billiard.exceptions import SoftTimeLimitExceeded
from celery.signals import worker_ready, worker_shutting_down
from sqlalchemy.exc import DBAPIError

from app.celery import app, visible_gpus
from app.clock import now
from app.cluster.heartbeat import Heartbeat
from app.competitions.commitments import CommitmentLookup, CommitmentSuperseded, CommitmentUnknown, NotCommitted
from app.competitions.evaluations import move_on, silence
from app.competitions.experiment_log import log_evaluation
from app.domain import MODELS_NETUID, QueueName
from app.observability.metrics import EVALUATIONS
from app.settings import get_settings
from app.store.database import get_store
from app.store.evaluations import (
    ClaimResult,
    EvaluationEnd,
    EvaluationInputs,
    EvaluationPhase,
    EvaluationRecord,
    Evaluations,
    EvaluationTry,
    timed_out,
)
from app.task import ValidatorTask
from chain.huggingface import HubClient, HubUnavailable
from chain.incentive.models import PENALTY_SCORE
from workers.competitions import open_chain
from workers.scoring import forget_scorers

if TYPE_CHECKING:
    from gpu.evaluation.evaluation import Evaluator

# What the limit leaves to end it all: container, image and folder, and the result's way into the store.
_LONGEST_RESERVE: Final = timedelta(minutes=2)
_RESERVE_PART: Final = 10

# What could not be done is tried again after this pause, which doubles.
_FIRST_PAUSE: Final = timedelta(seconds=30)

# A result is written again for as long (s) as a store needs to restart.
_WRITING_PAUSES: Final = (1, 2, 4, 8, 15, 30)

log = logging.getLogger("celery_validator.evaluation")


@app.task(bind=True)
def evaluate_model(self: ValidatorTask, hf_repo_id: str, competition_id: str, hotkey: str, block: int) -> Any:
    """Evaluate a model; the store has the result under this task's id. A second delivery finds that out and ends."""
    claim = _claim(self, EvaluationInputs(hf_repo_id, competition_id, hotkey, block))
    if not isinstance(claim, EvaluationRecord):
        return {"evaluation": self.task_id, "status": claim.value}
    pause = _Try(claim).run()
    if pause is not None:
        raise self.retry(countdown=pause.total_seconds(), max_retries=None)
    return _told(self.task_id, claim.tries)


@app.task
def move_evaluations() -> dict[str, Any]:
    """End overdue evaluations, take dead ones from their workers, and send again what waits without a message."""
    moved = move_on(get_store(), app, get_settings())
    return {"ended": list(moved.ended), "voided": list(moved.voided), "sent": list(moved.sent)}


@app.task
def sweep_evaluations() -> dict[str, Any]:
    """Remove from this node what evaluations left that no longer run; what is at work stays."""
    return {"removed": _try_to_sweep()}


def _claim(task: ValidatorTask, inputs: EvaluationInputs) -> EvaluationRecord | ClaimResult:
    device = ",".join(visible_gpus()) or "cpu"
    with get_store().writing() as session:
        evaluations = Evaluations(session)
        if evaluations.get(task.task_id) is None:
            # a message of somebody's own, or a store that was replaced: what is asked is in the message
            evaluations.accept(inputs, (), task.task_id)
        found = evaluations.claim(task.task_id, task.holder, device, silence(get_settings()))
        record = evaluations.get(task.task_id)
    return record if found is ClaimResult.CLAIMED and record is not None else found


def _told(evaluation_id: str, number: int) -> dict[str, Any]:
    with get_store().reading() as session:
        record = Evaluations(session).get(evaluation_id)
    if record is None:
        return {"evaluation": evaluation_id, "status": "gone"}
    project = get_settings().wandb_project
    if project is not None and record.finished_at is not None and record.tries == number:
        log_evaluation(project, record)
    return {"evaluation": evaluation_id, "status": record.phase.value, "score": record.score, "error": record.error}


@dataclass(frozen=True, slots=True)
class _Postponed:
    """A try that could not be done here and now, and why."""

    why: str


class _Try:
    """One try at an evaluation, from the clean device to the end in the store."""

    def __init__(self, record: EvaluationRecord) -> None:
        self._record = record
        self._of = EvaluationTry(record.id, record.tries)
        self._limit = get_settings().evaluation_limit

    def run(self) -> timedelta | None:
        """Evaluate and write what came of it; the pause before the next try, where there is to be one."""
        # a first try has Celery's own soft limit, which is the same
        deadline = self._record.deadline(self._limit) if self._record.tries > 1 else None
        with Heartbeat(get_store(), self._of, get_settings().evaluation_heartbeat, deadline) as heart:
            outcome = self._outcome(heart)
            heart.rest()
            if outcome is None:
                return None
            return self._written(outcome)

    def _outcome(self, heart: Heartbeat) -> EvaluationEnd | _Postponed | None:
        from gpu.evaluation.contract import EvaluationImpossible, ModelFault, ModelFaultCode

        try:
            return self._evaluated()
        except SoftTimeLimitExceeded:
            heart.rest()
            return None if heart.lost else timed_out(self._of.number, self._limit)
        except ModelFault as fault:
            if fault.code is ModelFaultCode.TIME_LIMIT:
                return timed_out(self._of.number, self._limit, str(fault))
            return EvaluationEnd(EvaluationPhase.FAILED, 0.0, str(fault))
        except NotCommitted as error:
            return EvaluationEnd(EvaluationPhase.FAILED, 0.0, str(error))
        except CommitmentSuperseded as error:
            return EvaluationEnd(EvaluationPhase.RELEASED, None, str(error))
        except (EvaluationImpossible, CommitmentUnknown, HubUnavailable) as error:
            return _Postponed(str(error))
        except DBAPIError:
            raise
        except Exception as error:
            # a fault of this program is no model's fault either
            log.exception("evaluation %s failed", self._of.name)
            return _Postponed(f"{type(error).__name__}: {error}")

    def _evaluated(self) -> EvaluationEnd:
        from gpu.evaluation.contract import Deadline, ModelSource
        from gpu.evaluation.evaluation import Origin

        settings, inputs = get_settings(), self._record.inputs
        left = (self._record.deadline(self._limit) - now()) - min(_LONGEST_RESERVE, self._limit / _RESERVE_PART)
        deadline = Deadline(left.total_seconds())
        deadline.check("waiting for a worker")
        chain = None if settings.offline else open_chain
        committed = CommitmentLookup(get_store(), MODELS_NETUID, chain).find(inputs)
        revision = committed.model.commit
        with get_store().writing() as session:
            Evaluations(session).note_revision(self._of, revision)
        origin = Origin(committed.committed_at, HubClient(settings.hf_endpoint).created_at(inputs.hf_repo_id))
        model = ModelSource(self._of.name, inputs.hf_repo_id, revision, inputs.hotkey, inputs.competition_id)
        # what a dead try left has the device, the disk and the model's memory
        sweep_node()
        _free_device()
        found = evaluator_for(inputs.competition_id).evaluate(model, origin, deadline)
        score = found.score
        return EvaluationEnd(
            EvaluationPhase.COMPLETED, score.score, found.remark, score.metric_scores, list(score.samples)
        )

    def _written(self, outcome: EvaluationEnd | _Postponed) -> timedelta | None:
        for pause in (*_WRITING_PAUSES, None):
            try:
                return self._write(outcome)
            except DBAPIError as error:
                # hours of work are worth a minute's patience
                if pause is None:
                    raise
                log.warning("the result of %s cannot be written yet: %s", self._of.name, error)
                time.sleep(pause)
        return None

    def _write(self, outcome: EvaluationEnd | _Postponed) -> timedelta | None:
        with get_store().writing() as session:
            evaluations = Evaluations(session)
            if isinstance(outcome, _Postponed):
                pause = _FIRST_PAUSE * 2 ** (self._of.number - 1)
                log.warning("evaluation %s is postponed: %s", self._of.name, outcome.why)
                return pause if evaluations.postpone(self._of, outcome.why, pause) else None
            kept = evaluations.finish(self._of, outcome)
        if kept:
            EVALUATIONS.labels(outcome.phase.value).inc()
            log.info("evaluation %s: %s, score %s", self._of.name, outcome.phase.value, outcome.score)
        else:
            log.warning("evaluation %s no longer counted; what it found is not kept", self._of.name)
        return None


def evaluator_for(competition_id: str) -> Evaluator:
    """What this node evaluates models of a competition with.

    Raises:
        EvaluationImpossible: the competition has no benchmark, or a setting of it is wrong.
    """
    from gpu.evaluation.evaluation import Evaluator, proof_reader
    from gpu.evaluation.registry import benchmark_for
    from gpu.evaluation.repository import ModelHub
    from gpu.evaluation.sandbox import docker_sandbox

    settings = get_settings()
    gpus = [] if settings.device == "cpu" else visible_gpus()
    hub = ModelHub(settings.hf_endpoint)
    sandbox = docker_sandbox(settings, gpus[0] if gpus else None, hub)
    return Evaluator(proof_reader(hub), sandbox, benchmark_for(competition_id, settings), PENALTY_SCORE)


def sweep_node() -> list[str]:
    """Remove what killed evaluations left on this node; what went. Those that live hold a lock, and stay.

    Raises:
        EvaluationImpossible: the Docker Engine does not answer.
    """
    from gpu.evaluation.sandbox import docker_sandbox

    return list(docker_sandbox(get_settings(), None).sweep().removed)


@worker_ready.connect(weak=False)
def _sweep_at_start(sender: Any, **_: Any) -> None:
    """A gpu worker that starts clears away what an earlier one left, if models were ever evaluated here."""
    evaluated_here = (get_settings().data_dir.expanduser() / "evaluations").is_dir()
    if evaluated_here and QueueName.GPU.value in sender.app.amqp.queues.consume_from:
        threading.Thread(target=_try_to_sweep, name="sweep", daemon=True).start()


@worker_shutting_down.connect(weak=False)
def _interrupt_at_stop(sender: str, **_: Any) -> None:
    # not in the signal's own handler, which may have stopped this thread anywhere
    threading.Thread(target=interrupt_evaluations, args=(sender,), name="interrupt evaluations", daemon=True).start()


def interrupt_evaluations(node: str) -> list[str]:
    """A worker that is told to stop waits for no model: its container goes, and the evaluation begins anew later.

    The claim goes first, so that what the interrupted try makes of it is not written.
    """
    with get_store().writing() as session:
        holders = Evaluations(session).void_held_by(node)
    for holder in holders:
        log.warning("the evaluation of %s is interrupted, for its worker stops", holder)
        with suppress(ProcessLookupError):
            # as Celery's soft time limit does it
            os.kill(int(holder.rsplit("/", 1)[1]), signal.SIGUSR1)
    return holders


def _try_to_sweep() -> list[str]:
    from gpu.evaluation.contract import EvaluationImpossible

    try:
        return sweep_node()
    except EvaluationImpossible as error:
        log.warning("nothing was swept: %s", error)
        return []


def _free_device() -> None:
    """Give back what the molecules' models hold on the device; they load again on their next use."""
    forget_scorers()
    if "gpu.scorers" in sys.modules:
        from gpu.scorers import release_devices

        release_devices()
    gc.collect()
