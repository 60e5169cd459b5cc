"""A GPU node's scoring API: takes models to evaluate and tells how it goes. Served by ``python -m app scoring-api``.

The work is done by tasks on the gpu queue; all that is known of it is in the store, so that this process may die.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Query, Response, status
from sqlalchemy.exc import SQLAlchemyError

from app.api.application import create_app
from app.api.authentication import Authentication, NamedHotkeys
from app.api.messages import Problem, refusals
from app.api.scoring_messages import (
    CompetitionCapability,
    NodeCapabilities,
    ScoringStarted,
    ScoringStatus,
    StartScoring,
)
from app.api.validator import health_router
from app.celery import app as celery
from app.clock import now
from app.competitions.benchmarks import offline_capabilities
from app.competitions.evaluations import (
    SWEEP,
    SWEEP_EXPIRES,
    CannotEvaluate,
    EvaluationReleased,
    check_capable,
    end_overdue,
    slots,
    status_answer,
)
from app.competitions.profile import profile_of
from app.domain import ValidatorError
from app.settings import get_settings
from app.store.database import get_store
from app.store.evaluations import EVALUATE, EvaluationInputs, Evaluations
from app.task import Step, transaction
from chain.hotkey import wallet_signer

# How often (s) overdue, dead and lost evaluations are looked for while nobody asks.
_LOOK_EVERY: Final = 15.0
# Every so many looks a gpu worker is asked what it can score.
_LOOKS_A_CAPABILITY: Final = 4
# Evaluations, each with hundreds of samples, that one look forgets.
_FORGOTTEN_AT_ONCE: Final = 50

_REFUSALS: Final = refusals("Not a hotkey that this node works for")

log = logging.getLogger("celery_validator.scoring_api")


def callers() -> frozenset[str]:
    """The hotkeys that this node works for: SCORING_API_CALLERS, or else the wallet's own.

    Raises:
        WalletError: none are named and the wallet has no hotkey.
    """
    settings = get_settings()
    if settings.scoring_api_callers:
        return frozenset(settings.scoring_api_callers)
    return frozenset({_own_address(settings.wallet_path, settings.wallet_name, settings.wallet_hotkey)})


@lru_cache(maxsize=4)
def _own_address(path: Path, name: str, hotkey: str) -> str:
    return wallet_signer(path, name, hotkey).address


_authentication = Authentication(lambda: NamedHotkeys(callers()))
Caller = Annotated[str, Depends(_authentication)]


@asynccontextmanager
async def _moving_on(_: FastAPI) -> AsyncIterator[None]:
    stop = threading.Event()
    thread = threading.Thread(target=_move_on_until, args=(stop,), name="evaluations move on", daemon=True)
    thread.start()
    yield
    stop.set()


scoring_router = APIRouter(
    tags=["scoring"], responses=_REFUSALS, route_class=_authentication.route(), lifespan=_moving_on
)


_CONFLICT: Final[dict[int | str, dict[str, Any]]] = {
    409: {"model": ScoringStarted, "description": "This node cannot evaluate such a model; the message says why"}
}


@scoring_router.post("/score_model", operation_id="score_model", responses=_CONFLICT)
@scoring_router.post("/api/start_model_scoring", operation_id="start_model_scoring", responses=_CONFLICT)
def start_model_scoring(hotkey: Caller, request: StartScoring, response: Response) -> ScoringStarted:
    """Begin a model's evaluation; refused in words while every GPU has a model, or where this node cannot do it."""
    store, settings = get_store(), get_settings()
    inputs = EvaluationInputs(request.hf_repo_id, request.competition_id, request.hotkey, request.block)
    try:
        check_capable(store, inputs, settings)
    except CannotEvaluate as error:
        response.status_code = status.HTTP_409_CONFLICT
        return ScoringStarted(success=False, message=str(error))
    with transaction(celery) as step:
        _move_on(step)
        present = Evaluations(step.session).in_slots(slots(settings))
        task_id = Evaluations(step.session).accept(inputs, slots(settings))
        if task_id is not None:
            step.send(EVALUATE, task_id)
    if task_id is None:
        names = ", ".join(record.inputs.hf_repo_id for record in present)
        return ScoringStarted(success=False, message=f"This node is busy with {names}." if names else "Busy.")
    log.info("%s asks for %s (%s); evaluation %s", hotkey, inputs.hf_repo_id, inputs.competition_id, task_id)
    return ScoringStarted(success=True, message=f"The evaluation of {inputs.hf_repo_id} has begun.", task_id=task_id)


@scoring_router.get(
    "/api/check_scoring_status",
    responses={
        404: {"model": Problem, "description": "No such evaluation is known here"},
        410: {"model": Problem, "description": "Given up without a score, by a fault of this node; ask again"},
    },
)
def check_scoring_status(
    hotkey: Caller, task_id: Annotated[str | None, Query(max_length=200)] = None
) -> ScoringStatus | None:
    """How an evaluation goes; without a task id, the one that was accepted last (omega-v4: null for none)."""
    with transaction(celery) as step:
        _move_on(step)
        evaluations = Evaluations(step.session)
        record = evaluations.latest() if task_id is None else evaluations.get(task_id)
    if record is None and task_id is None and profile_of(get_settings()).idle_is_null:
        return None
    if record is None:
        raise HTTPException(status.HTTP_404_NOT_FOUND, "No such evaluation is known here.")
    try:
        return ScoringStatus.model_validate(status_answer(record))
    except EvaluationReleased as error:
        raise HTTPException(status.HTTP_410_GONE, str(error)) from None


@scoring_router.get("/api/capabilities")
def show_capabilities(hotkey: Caller) -> NodeCapabilities:
    """Which competitions this node can score, and why not the others."""
    settings = get_settings()
    with get_store().reading() as session:
        found = offline_capabilities(session, settings)
    return NodeCapabilities(
        competitions=[
            CompetitionCapability(
                competition_id=one.competition_id,
                benchmark=one.benchmark,
                can_score=one.objection is None,
                reason=one.objection,
                checked_at=one.checked_at,
                only_stored_models=settings.offline,
            )
            for one in found
        ]
    )


def create_scoring_app() -> FastAPI:
    """The application with the scoring API alone."""
    return create_app([health_router, scoring_router])


def _move_on_until(stop: threading.Event) -> None:
    _look(0)
    for number in count(1):
        if stop.wait(_LOOK_EVERY):
            return
        _look(number)


def _look(number: int) -> None:
    try:
        with transaction(celery) as step:
            _move_on(step)
            if number % _LOOKS_A_CAPABILITY == 0:
                # a gpu worker looks; one that is busy leaves what was found before
                step.ask("workers.evaluations.note_capabilities", _LOOKS_A_CAPABILITY * timedelta(seconds=_LOOK_EVERY))
            # a slice each time: nobody waits for a long lock
            Evaluations(step.session).delete_before(now() - get_settings().retention, _FORGOTTEN_AT_ONCE)
    except (SQLAlchemyError, ValidatorError) as error:
        log.error("evaluations could not be moved on: %s", error)


def _move_on(step: Step) -> None:
    """What beat's tasks do in a larger cluster; here a worker is dead that its evaluation's claim outlived."""
    ended = end_overdue(step.session, get_settings())
    voided, _ = step.reconcile({})
    if ended or voided:
        step.ask(SWEEP, SWEEP_EXPIRES)
