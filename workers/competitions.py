"""The model competitions' jobs: chain → queue → scoring → weights."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime, timedelta
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Final

from sqlalchemy.orm import Session

from app.celery import app
from app.clock import now
from app.competitions.benchmarks import scorable
from app.competitions.evaluations import SWEEP, SWEEP_EXPIRES, end_overdue, slots
from app.competitions.model_folders import remove_unreferenced
from app.competitions.profile import profile_of
from app.competitions.queueing import queue_commitments, unchecked_repositories
from app.competitions.scoring import Ended, Later, ScoringStep
from app.competitions.standings import (
    mark_of,
    step_reputations,
    take_next_model,
)
from app.domain import MODELS_NETUID
from app.settings import Settings, get_settings
from app.store.callers import Callers
from app.store.competitions import Competitions
from app.store.database import get_store
from app.store.evaluations import EVALUATE, EvaluationInputs, Evaluations
from app.store.metagraph import Metagraph
from app.store.model_queue import ModelQueue
from app.store.reputations import WeightRounds
from app.store.scorings import Scoring, ScoringEnd, Scorings
from app.store.services import keep_block
from app.task import Step, ValidatorTask
from chain.hotkey import Signer, wallet_signer
from chain.huggingface import HubClient
from chain.model_chain import ModelChain, SubtensorModelChain
from chain.scoring_api import (
    Evaluation,
    EvaluationRequest,
    ModelScorer,
    ScorerBusy,
    ScoringApi,
)
from chain.subtensor import Subtensor
from workers.upkeep import LARGE_ROWS_AT_ONCE, delete_in_slices

# A scorer that gave a model back gets none of that competition for a while.
_COMPETITION_RESTS: Final = timedelta(minutes=1)

# What the places of this cluster's own evaluations are called among the scorers.
_PLACE: Final = "local:"


# -- what the outside looks like to the tasks -------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _chain_of(settings: Settings) -> ModelChain:
    subtensor = Subtensor(
        settings.subtensor_network,
        settings.subtensor_fallbacks,
        settings.subtensor_archives,
        settings.chain_timeout.total_seconds(),
    )
    return SubtensorModelChain(subtensor)


def open_chain() -> ModelChain:
    """This process's chain; connected on first use."""
    return _chain_of(get_settings())


@lru_cache(maxsize=1)
def _signer_of(name: str, hotkey: str, path: Path) -> Signer:
    return wallet_signer(path, name, hotkey)


def own_signer() -> Signer:
    """This validator's hotkey: it signs requests to scorers, and the scores they give are its scores."""
    settings = get_settings()
    return _signer_of(settings.wallet_name, settings.wallet_hotkey, settings.wallet_path)


def scorers() -> dict[str, ModelScorer]:
    """The scoring APIs by name: the scorers of ``--run-api``. Without it this cluster evaluates by itself."""
    settings = get_settings()
    apis = [ScoringApi(url, own_signer(), basic=settings.api_basic) for url in settings.scoring_api_url]
    return {api.name: api for api in apis} if settings.run_api else {}


# -- from the chain into the store ------------------------------------------------------------------------------------


@app.task(bind=True, ticks=True)
def sync_metagraph(self: ValidatorTask) -> dict[str, Any]:
    """Metagraph → store, one row per UID."""
    if get_settings().offline:
        return {"status": "offline"}
    found = open_chain().metagraph(MODELS_NETUID)
    with self.transaction() as step:
        Metagraph(step.session, MODELS_NETUID).sync(found.block, found.neurons)
        keep_block(step.session, MODELS_NETUID, found.block)
    return {"status": "synced", "block": found.block, "neurons": len(found.neurons)}


@app.task(bind=True, ticks=True)
def update_models(self: ValidatorTask) -> dict[str, Any]:
    """Each UID's commitment → model → queue; what is not queued is kept with its reason."""
    settings = get_settings()
    if settings.offline:
        return {"status": "offline"}
    block, commitments = open_chain().current_block(), open_chain().commitments(MODELS_NETUID)
    with self.transaction() as step:
        counts = queue_commitments(step.session, settings, commitments, block)
        for hotkey in unchecked_repositories(step.session):
            step.ask("workers.competitions.check_repository", timedelta(minutes=settings.update_delay_minutes), hotkey)
    return {"status": "updated", "block": block, **counts}


@app.task(bind=True, ticks=True)
def check_repository(self: ValidatorTask, hotkey: str) -> dict[str, Any]:
    """Keep when a model's Hugging Face repository was created; one younger than its commitment is penalised."""
    with self.reading() as session:
        model = next((m for m in ModelQueue(session, MODELS_NETUID).models() if m.hotkey == hotkey), None)
    if model is None:
        return {"status": "gone"}
    created_at = HubClient(get_settings().hf_endpoint).created_at(model.commitment.model.repository)
    with self.transaction() as step:
        ModelQueue(step.session, MODELS_NETUID).note_repository(hotkey, model.commitment.model, created_at)
    return {"status": "checked", "created_at": None if created_at is None else created_at.isoformat()}


# -- scoring ----------------------------------------------------------------------------------------------------------


@app.task(bind=True, ticks=True, send_events=False)
def score_next_models(self: ValidatorTask) -> dict[str, Any]:
    """Give every free scorer, or this cluster's every free place, the next model; competitions take turns."""
    names, hotkey = list(scorers()) or _places(get_settings()), own_signer().address
    with self.reading() as session:
        idle = Scorings(session).idle(names)
    opened = [found for name in idle if (found := _open_next(self, name, hotkey)) is not None]
    return {"status": "ticked", "opened": opened}


def _open_next(task: ValidatorTask, scorer: str, hotkey: str) -> int | None:
    """Have a free scorer score the next model; the scoring's id, None where there is no model for it."""
    settings = get_settings()
    with task.transaction() as step:
        session, scorings = step.session, Scorings(step.session)
        # a scorer that gave a competition's model back goes on with the others meanwhile
        among = {record.id for record in Competitions(session).all()} - scorings.resting(scorer, _COMPETITION_RESTS)
        if not settings.run_api:
            among = scorable(session, settings, among)
        taken = take_next_model(session, hotkey, among) if scorings.idle([scorer]) else None
        if taken is None:
            return None
        scoring_id = scorings.open(scorer, hotkey, taken)
        if scoring_id is None:
            ModelQueue(session, MODELS_NETUID).release(taken.commitment.hotkey, hotkey, taken.taken_at)
            return None
        if settings.run_api:
            step.send("workers.competitions.follow_scoring", scoring_id)
            return scoring_id
        inputs = EvaluationInputs(**asdict(EvaluationRequest.of(taken.commitment)))
        evaluation_id = Evaluations(session).accept(inputs, [scorer.removeprefix(_PLACE)], scoring_id=scoring_id)
        if evaluation_id is None:
            # what another validator asked for has the place
            scoring = scorings.get(scoring_id)
            assert scoring is not None
            scorings.settle(scoring, ScoringEnd(None, False, f"{scorer} works on another model"))
            return None
        scorings.started(scoring_id, evaluation_id)
        step.send(EVALUATE, evaluation_id)
    return scoring_id


def _places(settings: Settings) -> list[str]:
    """The places of this cluster's own evaluations, as scorers: ``local:0``, ``local:1``, …"""
    return [f"{_PLACE}{slot}" for slot in slots(settings)]


def _not_followed(step: Step, scoring_id: int, why: str) -> None:
    scorings = Scorings(step.session)
    if (scoring := scorings.get(scoring_id)) is not None and scoring.finished_at is None:
        # the scorer is free again, and the model back in its queue
        scorings.settle(scoring, ScoringEnd(None, False, why))


@app.task(bind=True, piece=True, gives_up=staticmethod(_not_followed))
def follow_scoring(self: ValidatorTask, scoring_id: int) -> dict[str, Any]:
    """Move one scoring on by one step and come back later: no worker is held while a scorer works."""
    with self.reading() as session:
        scoring = Scorings(session).get(scoring_id)
    later = None if scoring is None else _moved_on(scoring, self.held.attempts - 1)
    if isinstance(later, Later):
        self.later(timedelta(seconds=later.countdown), uncounted=not later.trouble)
    with self.finishing():
        return {"scoring": scoring_id, "status": "gone" if scoring is None else "ended"}


def _moved_on(scoring: Scoring, troubles: int) -> Later | Ended:
    settings = get_settings()
    step = ScoringStep(get_store(), settings.evaluation_limit, settings.scoring_poll)
    return step.advance(scorers().get(scoring.scorer) or _Removed(scoring.scorer), scoring, troubles)


class _Removed:
    """A scorer that was at work when the operator took it out of the settings."""

    def __init__(self, name: str) -> None:
        self.name = name

    def start(self, request: EvaluationRequest) -> str | None:
        raise ScorerBusy(f"{self.name} is no longer among SCORING_API_URL")

    def look(self, request: EvaluationRequest, task_id: str | None) -> Evaluation:
        raise ScorerBusy(f"{self.name} is no longer among SCORING_API_URL")


@app.task(bind=True, send_events=False)
def release_stale(self: ValidatorTask) -> dict[str, Any]:
    """End overdue evaluations; models under scoring for longer go back to the queue; forget expired signatures."""
    limit = get_settings().evaluation_limit
    with self.transaction() as step:
        ended = end_overdue(step.session, get_settings())
        released = ModelQueue(step.session, MODELS_NETUID).release_stale(limit)
        forgotten = Callers(step.session).forget_old()
        if ended:
            step.ask(SWEEP, SWEEP_EXPIRES)
    return {"ended": ended, "released": released, "forgotten": forgotten}


# -- weights and reputation -------------------------------------------------------------------------------------------


@app.task(bind=True)
def set_model_weights(self: ValidatorTask, mark: str | None = None) -> dict[str, Any]:
    """Scores → two pools → EMA → chain, once per 20-minute mark."""
    mark = mark or mark_of(now())
    with self.transaction() as step:
        step.send("workers.weights.submit_round", mark)
    return {"mark": mark, "status": "sent"}


@app.task(bind=True)
def update_reputations(self: ValidatorTask) -> dict[str, Any]:
    """One EMA step per miner and competition and day; forget who left 30 days ago; prune old rounds and scorings."""
    day, before = now().date().isoformat(), now() - get_settings().retention
    with self.transaction() as step:
        steps, forgotten = step_reputations(step.session, profile_of(get_settings()), day)
    for kept in (WeightRounds, Scorings, Evaluations):
        delete_in_slices(partial(_delete_before, kept, before))
    return {"day": day, "steps": steps, "forgotten": forgotten}


def _delete_before(
    kept: type[WeightRounds] | type[Scorings] | type[Evaluations], before: datetime, session: Session
) -> int:
    return kept(session).delete_before(before, LARGE_ROWS_AT_ONCE)


# -- upkeep -----------------------------------------------------------------------------------------------------------


@app.task(bind=True)
def clean_models(self: ValidatorTask) -> dict[str, Any]:
    """Remove local model folders (namespace/name/revision) that no model in the queue refers to."""
    with self.reading() as session:
        referenced = ModelQueue(session, MODELS_NETUID).referenced()
    return {"removed": remove_unreferenced(get_settings().models_folder, referenced)}
