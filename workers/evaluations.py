"""Evaluating miners' models on this node's GPU: one task a model, and what removes the remains of killed ones."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from billiard.exceptions import SoftTimeLimitExceeded
from celery.signals import worker_ready, worker_shutting_down
from sqlalchemy.exc import DBAPIError
from tenacity import Retrying, before_sleep_log, retry_if_exception_type, stop_after_attempt, wait_exponential

from app.celery import app
from app.clock import now
from app.cluster.heartbeat import Heartbeat
from app.competitions.benchmarks import objection_here, plan_of, plans
from app.competitions.commitments import CommitmentLookup, CommitmentSuperseded, CommitmentUnknown, NotCommitted
from app.competitions.experiment_log import log_evaluation
from app.competitions.profile import profile_of
from app.domain import MODELS_NETUID, QueueName
from app.observability.metrics import EVALUATIONS
from app.settings import Settings, get_settings
from app.store.capabilities import Capabilities
from app.store.database import get_store
from app.store.evaluations import (
    EVALUATE,
    EvaluationEnd,
    EvaluationPhase,
    EvaluationRecord,
    Evaluations,
    timed_out,
)
from app.task import ValidatorTask, transaction
from app.untrusted import shown
from chain.huggingface import HubClient, HubUnavailable
from chain.incentive.models import PENALTY_SCORE
from gpu.devices import visible_gpus
from workers.competitions import open_chain
from workers.scoring import forget_scorers

if TYPE_CHECKING:
    from gpu.evaluation.evaluation import Evaluator
    from gpu.evaluation.plan import BenchmarkPlan

# What the limit leaves to end it all: container, image and folder, and the result's way into the store.
_LONGEST_RESERVE: Final = timedelta(minutes=2)
_RESERVE_PART: Final = 10

# A result is written again for about as long as a store needs to restart: 1, 2, 4, 8, 16 and 30 s.
_WRITING_ATTEMPTS: Final = 7

# A look at what can be scored that no worker took by then: the next one is due.
_CAPABILITIES_EXPIRE: Final = 60

log = logging.getLogger("celery_validator.evaluation")


@app.task(bind=True, piece=True, waits=False, beats=True)
def evaluate_model(self: ValidatorTask, evaluation_id: str) -> dict[str, Any]:
    """Do an accepted evaluation; the store has what came of it."""
    record = _begun(self, evaluation_id)
    if record is not None:
        _Try(self, record).run()
    return _told(self, evaluation_id)


@app.task(bind=True, send_events=False)
def note_capabilities(self: ValidatorTask) -> dict[str, str]:
    """Look which competitions this worker's machine can score, and keep it: what it cannot is then refused at once."""
    settings = get_settings()
    with self.reading() as session:
        known = plans(session, settings)
    found = _objections(known, settings)
    with self.transaction() as step:
        for one, plan in known.items():
            Capabilities(step.session).note(one, None if plan is None else plan.text, found[one])
    return {one: objection or "can be scored" for one, objection in found.items()}


@app.task
def sweep_evaluations() -> dict[str, Any]:
    """Remove from this node what evaluations left that no longer run; what is at work stays."""
    return {"removed": _try_to_sweep()}


def _begun(task: ValidatorTask, evaluation_id: str) -> EvaluationRecord | None:
    """The evaluation whose next try this task is; None, and its piece is finished, where it has ended."""
    device, limit = ",".join(visible_gpus()) or "cpu", get_settings().evaluation_limit
    with task.transaction() as step:
        is_ours = step.claims.renew(task.held)
        record = Evaluations(step.session).begin(evaluation_id, task.held.attempts, device, limit) if is_ours else None
        if record is None:
            step.claims.finish(task.held)
    return record


def _told(task: ValidatorTask, evaluation_id: str) -> dict[str, Any]:
    with task.reading() as session:
        record = Evaluations(session).get(evaluation_id)
    if record is None:
        return {"evaluation": evaluation_id, "status": "gone"}
    project = get_settings().wandb_project
    if project is not None and record.finished_at is not None and record.tries == task.held.attempts:
        log_evaluation(project, record)
    return {"evaluation": evaluation_id, "status": record.phase.value, "score": record.score, "error": record.error}


class _Try:
    """One try at an evaluation, from the clean device to the end in the store."""

    def __init__(self, task: ValidatorTask, record: EvaluationRecord) -> None:
        self._task = task
        self._piece = task.held
        self._record = record
        self._limit = get_settings().evaluation_limit

    def run(self) -> None:
        """Evaluate and write what came of it."""
        # a first try has Celery's own soft limit, which is the same
        deadline = self._record.deadline(self._limit) if self._record.tries > 1 else None
        with Heartbeat(self._record.name, self._beat, get_settings().evaluation_heartbeat, deadline) as heart:
            outcome = self._outcome(heart)
            heart.rest()
            if outcome is not None:
                self._write(outcome)

    def _beat(self) -> bool:
        # in a thread of its own, to which Celery's request is not there
        with self._task.transaction() as step:
            is_ours = step.claims.renew(self._piece)
            if is_ours:
                Evaluations(step.session).beat(self._record.id)
        return is_ours

    def _outcome(self, heart: Heartbeat) -> EvaluationEnd | None:
        from gpu.evaluation.contract import EvaluationImpossible, ModelFault, ModelFaultCode

        try:
            return self._evaluated()
        except SoftTimeLimitExceeded:
            heart.rest()
            return None if heart.lost else timed_out(self._record.tries, self._limit)
        except ModelFault as fault:
            if fault.code is ModelFaultCode.TIME_LIMIT:
                return timed_out(self._record.tries, self._limit, str(fault))
            return EvaluationEnd(EvaluationPhase.FAILED, 0.0, str(fault))
        except NotCommitted as error:
            return EvaluationEnd(EvaluationPhase.FAILED, 0.0, str(error))
        except (CommitmentSuperseded, EvaluationImpossible, CommitmentUnknown, HubUnavailable) as error:
            # the place is free at once for what can be evaluated; the model is back in its queue
            return EvaluationEnd(EvaluationPhase.RELEASED, None, str(error))
        except DBAPIError:
            raise
        except Exception as error:
            # a fault of this program is no model's fault either
            log.exception("evaluation %s failed", self._record.name)
            return EvaluationEnd(EvaluationPhase.RELEASED, None, shown(error, 500))

    def _evaluated(self) -> EvaluationEnd:
        from gpu.evaluation.contract import Deadline, ModelSource
        from gpu.evaluation.evaluation import Origin

        settings, inputs = get_settings(), self._record.inputs
        left = (self._record.deadline(self._limit) - now()) - min(_LONGEST_RESERVE, self._limit / _RESERVE_PART)
        deadline = Deadline(left.total_seconds())
        deadline.check("waiting for a worker")
        chain = None if settings.offline else open_chain
        open_ended = profile_of(settings).seven_fields
        committed = CommitmentLookup(get_store(), chain, open_ended).find(inputs)
        revision = committed.model.commit
        with self._task.transaction() as step:
            Evaluations(step.session).note_revision(self._record.id, revision)
        origin = Origin(committed.committed_at, HubClient(settings.hf_endpoint).created_at(inputs.hf_repo_id))
        model = ModelSource(self._record.name, inputs.hf_repo_id, revision, inputs.hotkey, inputs.competition_id)
        # what a dead try left has the device, the disk and the model's memory
        sweep_node()
        _free_device()
        with self._task.reading() as session:
            plan = plan_of(session, settings, inputs.competition_id)
        found = evaluator_for(inputs.competition_id, plan).evaluate(model, origin, deadline)
        score = found.score
        return EvaluationEnd(
            EvaluationPhase.COMPLETED, score.score, found.remark, score.metric_scores, list(score.samples)
        )

    def _write(self, end: EvaluationEnd) -> None:
        # hours of work are worth a minute's patience with the store
        for attempt in Retrying(
            retry=retry_if_exception_type(DBAPIError),
            wait=wait_exponential(max=30),
            stop=stop_after_attempt(_WRITING_ATTEMPTS),
            before_sleep=before_sleep_log(log, logging.WARNING),
            reraise=True,
        ):
            with attempt, self._task.finishing() as step:
                Evaluations(step.session).finish(self._record.id, end)
        EVALUATIONS.labels(end.phase.value).inc()
        log.info("evaluation %s: %s, score %s", self._record.name, end.phase.value, end.score)


def evaluator_for(competition_id: str, plan: BenchmarkPlan | None) -> Evaluator:
    """What this node evaluates models of a competition with, by its plan.

    Raises:
        EvaluationImpossible: the competition has no benchmark, or a setting of it is wrong.
    """
    from gpu.evaluation.contract import EvaluationImpossible
    from gpu.evaluation.evaluation import Evaluator, proof_reader
    from gpu.evaluation.registry import benchmark_for
    from gpu.evaluation.repository import ModelHub
    from gpu.evaluation.sandbox import docker_sandbox

    settings = get_settings()
    if plan is None:
        raise EvaluationImpossible(objection_here(None, settings, competition_id))
    gpus = [] if settings.device == "cpu" else visible_gpus()
    hub = ModelHub(settings.hf_endpoint)
    sandbox = docker_sandbox(settings, gpus[0] if gpus else None, hub)
    return Evaluator(proof_reader(hub), sandbox, benchmark_for(plan, settings), PENALTY_SCORE)


def sweep_node() -> list[str]:
    """Remove what killed evaluations left on this node; what went. Those that live hold a lock, and stay.

    Raises:
        EvaluationImpossible: the Docker Engine does not answer.
    """
    from gpu.evaluation.sandbox import docker_sandbox

    return list(docker_sandbox(get_settings(), None).sweep().removed)


@worker_ready.connect(weak=False)
def _look_around_at_start(sender: Any, **_: Any) -> None:
    """A gpu worker that starts removes what an earlier one left, and notes what it can score."""
    evaluated_here = (get_settings().data_dir.expanduser() / "evaluations").is_dir()
    if QueueName.GPU.value not in sender.app.amqp.queues.consume_from:
        return
    if evaluated_here:
        threading.Thread(target=_try_to_sweep, name="sweep", daemon=True).start()
    if evaluated_here or get_settings().netuid == MODELS_NETUID:
        note_capabilities.apply_async(expires=_CAPABILITIES_EXPIRE)


@worker_shutting_down.connect(weak=False)
def _interrupt_at_stop(sender: str, **_: Any) -> None:
    # not in the signal's own handler, which may have stopped this thread anywhere
    threading.Thread(target=interrupt_evaluations, args=(sender,), name="interrupt evaluations", daemon=True).start()


def interrupt_evaluations(node: str) -> list[str]:
    """A worker that is told to stop waits for no model: its container goes, and the evaluation begins again later.

    The claim goes first, so that what the interrupted try makes of it is not written.
    """
    with transaction(app) as step:
        holders = step.claims.void_at(node, EVALUATE)
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


def _objections(known: Mapping[str, BenchmarkPlan | None], settings: Settings) -> dict[str, str | None]:
    docker = _docker_objection()
    return {one: docker or objection_here(plan, settings, one) for one, plan in known.items()}


def _docker_objection() -> str | None:
    from gpu.evaluation.contract import EvaluationImpossible
    from gpu.evaluation.sandbox import docker_sandbox

    try:
        docker_sandbox(get_settings(), None).check()
    except EvaluationImpossible as error:
        return str(error)
    return None


def _free_device() -> None:
    """Give back what the molecules' models hold on the device; they load again on their next use."""
    forget_scorers()
    if "gpu.scorers" in sys.modules:
        from gpu.scorers import release_devices

        release_devices()
    gc.collect()
