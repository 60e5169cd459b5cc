"""The model competitions' jobs: chain → queue → scoring → weights."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Collection
from dataclasses import asdict
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from celery import chain as celery_chain

from app.celery import app
from app.clock import now
from app.competitions.benchmarks import scorable
from app.competitions.evaluations import SWEEP, SWEEP_EXPIRES, end_overdue, slots
from app.competitions.profile import profile_of
from app.competitions.scoring import Later, ScoringStep
from app.competitions.standings import (
    mark_of,
    reputation_steps,
    take_next_model,
)
from app.domain import MODELS_NETUID, Commitment, ModelCommitment, ValidatorError
from app.settings import Settings, get_settings
from app.store.callers import Callers
from app.store.competitions import Competitions
from app.store.database import get_store
from app.store.evaluations import EVALUATE, EvaluationInputs, Evaluations
from app.store.metagraph import Metagraph
from app.store.model_queue import ModelQueue, Refusal, model_id
from app.store.reputations import Reputations, WeightRounds
from app.store.scorings import ScoringEnd, Scorings
from app.store.services import keep_block
from app.task import ValidatorTask
from app.untrusted import quoted
from chain.hotkey import Signer, wallet_signer
from chain.huggingface import HubClient, HubUnavailable
from chain.model_chain import ModelChain, SubtensorModelChain
from chain.model_metadata import BLOCK_SECONDS, UnreadableMetadata, is_old_enough, parse_model_id
from chain.scoring_api import (
    Evaluation,
    EvaluationRequest,
    ModelScorer,
    ScorerBusy,
    ScoringApi,
)
from chain.subtensor import Subtensor

# A folder with this file is cleaned; no other is.
MARKER: Final = ".celery-validator-models"

# A scorer that gave a model back gets none of that competition for a while.
_COMPETITION_RESTS: Final = timedelta(minutes=1)

# What the places of this cluster's own evaluations are called among the scorers.
_PLACE: Final = "local:"

_REPOSITORY_CHECKED_EVERY: Final = timedelta(days=1)
_REPUTATION_KEPT: Final = timedelta(days=30)

log = logging.getLogger("celery_validator.models")


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


@app.task(bind=True)
def sync_metagraph(self: ValidatorTask) -> dict[str, Any]:
    """Metagraph → store, one row per UID."""
    settings = get_settings()
    if settings.offline:
        return {"status": "offline"}
    try:
        found = open_chain().metagraph(MODELS_NETUID)
    except ValidatorError as error:
        return _left_for_next_tick("metagraph", error)
    with self.transaction() as step:
        Metagraph(step.session, MODELS_NETUID).sync(found.block, found.neurons)
        keep_block(step.session, MODELS_NETUID, found.block)
    return {"status": "synced", "block": found.block, "neurons": len(found.neurons)}


@app.task(bind=True)
def update_models(self: ValidatorTask) -> dict[str, Any]:
    """Each UID's commitment → model → queue; what is not queued is kept with its reason."""
    settings = get_settings()
    if settings.offline:
        return {"status": "offline"}
    try:
        block_now = open_chain().current_block()
        commitments = {found.hotkey: found for found in open_chain().commitments(MODELS_NETUID)}
    except ValidatorError as error:
        return _left_for_next_tick("commitments", error)
    counts = {"new": 0, "known": 0, "refused": 0}
    with self.transaction() as step:
        queue = ModelQueue(step.session, MODELS_NETUID)
        running: set[str | None] = {record.id for record in Competitions(step.session).all()}
        for neuron in Metagraph(step.session, MODELS_NETUID).read().neurons:
            commitment = commitments.get(neuron.hotkey)
            if commitment is not None:
                counts[_queue_model(queue, neuron.uid, commitment, block_now, running)] += 1
        due = now() - _REPOSITORY_CHECKED_EVERY
        unchecked = [
            model.hotkey
            for model in queue.models()
            if model.repository_checked_at is None or model.repository_checked_at < due
        ]
    for hotkey in unchecked:
        check_repository.apply_async((hotkey,), expires=settings.update_delay_minutes * 60)
    return {"status": "updated", "block": block_now, **counts}


def _queue_model(
    queue: ModelQueue, uid: int, found: Commitment, block_now: int, running: Collection[str | None]
) -> str:
    settings = get_settings()
    min_age = settings.min_age.total_seconds()
    try:
        model = parse_model_id(found.data, open_ended=profile_of(settings).seven_fields)
        if model.competition_id not in running:
            known = ", ".join(sorted(filter(None, running))) or "none"
            raise UnreadableMetadata(f"no competition {quoted(model.competition_id)} runs; running: {known}")
        if not is_old_enough(found.block, block_now, min_age):
            age = (block_now - found.block) * BLOCK_SECONDS
            raise UnreadableMetadata(f"the model is {age} s old; it is queued once it is older than {min_age:.0f} s")
    except UnreadableMetadata as error:
        queue.refuse(Refusal(found.hotkey, uid, found.block, found.data, str(error)))
        return "refused"
    committed_at = now() - timedelta(seconds=(block_now - found.block) * BLOCK_SECONDS)
    changed = queue.register(uid, ModelCommitment(found.hotkey, found.block, model), committed_at)
    return "new" if changed else "known"


@app.task(bind=True)
def check_repository(self: ValidatorTask, hotkey: str) -> dict[str, Any]:
    """Keep when a model's Hugging Face repository was created; one younger than its commitment is penalised."""
    settings = get_settings()
    with self.reading() as session:
        model = next((m for m in ModelQueue(session, MODELS_NETUID).models() if m.hotkey == hotkey), None)
    if model is None:
        return {"status": "gone"}
    try:
        created_at = HubClient(settings.hf_endpoint).created_at(model.commitment.model.repository)
    except HubUnavailable as error:
        return _left_for_next_tick("repository date", error)
    with self.transaction() as step:
        ModelQueue(step.session, MODELS_NETUID).note_repository(hotkey, model.commitment.model, created_at)
    return {"status": "checked", "created_at": None if created_at is None else created_at.isoformat()}


# -- scoring ----------------------------------------------------------------------------------------------------------


@app.task(bind=True, send_events=False)
def score_next_models(self: ValidatorTask) -> dict[str, Any]:
    """Give every free scorer, or this cluster's every free place, the next model; competitions take turns."""
    settings = get_settings()
    try:
        names, hotkey = list(scorers()) or _places(settings), own_signer().address
    except ValidatorError as error:
        return _left_for_next_tick("scorers", error)
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


@app.task(bind=True, piece=True)
def follow_scoring(self: ValidatorTask, scoring_id: int) -> dict[str, Any]:
    """Move one scoring on by one step and come back later: no worker is held while a scorer works."""
    settings = get_settings()
    with self.reading() as session:
        scoring = Scorings(session).get(scoring_id)
    if scoring is not None:
        step = ScoringStep(get_store(), settings.evaluation_limit, settings.scoring_poll)
        scorer = scorers().get(scoring.scorer) or _Removed(scoring.scorer)
        later = step.advance(scorer, scoring, self.held.attempts - 1)
        if isinstance(later, Later):
            self.later(timedelta(seconds=later.countdown), uncounted=not later.trouble)
    with self.finishing():
        return {"scoring": scoring_id, "status": "gone" if scoring is None else "ended"}


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
    settings = get_settings()
    with self.transaction() as step:
        ended = end_overdue(step.session, settings)
        if ended:
            step.ask(SWEEP, SWEEP_EXPIRES)
        released = ModelQueue(step.session, MODELS_NETUID).release_stale(settings.evaluation_limit)
        forgotten = Callers(step.session).forget_old()
    if released:
        log.warning(
            "%d models under scoring for longer than %s returned to the queue", released, settings.evaluation_limit
        )
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
    settings = get_settings()
    day = now().date().isoformat()
    before = now() - settings.retention
    with self.transaction() as step:
        steps = reputation_steps(step.session, profile_of(settings), day)
        reputations = Reputations(step.session)
        reputations.step(steps)
        hotkeys = list(Metagraph(step.session, MODELS_NETUID).read().stakes)
        forgotten = reputations.note_registered(hotkeys, _REPUTATION_KEPT) if hotkeys else 0
        WeightRounds(step.session).delete_before(before)
        Scorings(step.session).delete_before(before)
        Evaluations(step.session).delete_before(before)
    return {"day": day, "steps": len(steps), "forgotten": forgotten}


# -- upkeep -----------------------------------------------------------------------------------------------------------


@app.task(bind=True)
def clean_models(self: ValidatorTask) -> dict[str, Any]:
    """Remove local model folders (namespace/name/revision) that no model in the queue refers to."""
    settings = get_settings()
    if not is_ours(settings.models_folder):
        log.warning(
            "%s was not made by this application, so nothing in it is removed; name an empty folder in MODEL_DIR, "
            "or, where it holds nothing but models, make the file %s in it",
            settings.models_folder,
            MARKER,
        )
        return {"removed": []}
    with self.reading() as session:
        kept = {model_folder(settings.models_folder, text) for text in ModelQueue(session, MODELS_NETUID).referenced()}
    removed = []
    for folder in sorted(settings.models_folder.glob("*/*/*")):
        if folder in kept or folder.is_symlink() or not folder.is_dir() or folder.parent.is_symlink():
            continue
        shutil.rmtree(folder, ignore_errors=True)
        removed.append(str(folder.relative_to(settings.models_folder)))
        for parent in (folder.parent, folder.parent.parent):
            if not any(parent.iterdir()):
                parent.rmdir()
    return {"removed": removed}


def is_ours(folder: Path) -> bool:
    """Whether the folder carries this application's marker; an empty or missing one is made ours."""
    if not folder.exists() or not any(folder.iterdir()):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MARKER).touch()
    return (folder / MARKER).is_file()


def model_folder(root: Path, commitment_text: str) -> Path:
    """Where a committed model's files lie: ``root/namespace/name/revision``."""
    model = model_id(commitment_text)
    return root / model.namespace / model.name / (model.commit or "main")


def begin(*, weights_now: bool) -> Any:
    """What a start should not wait for: metagraph, commitments, first scorings, and with ``weights_now`` weights."""
    tasks = [sync_metagraph.si(), update_models.si(), score_next_models.si()]
    if weights_now:
        tasks.append(set_model_weights.si(f"immediate {now().isoformat(timespec='seconds')}"))
    return celery_chain(*tasks).apply_async()


def _left_for_next_tick(what: str, error: ValidatorError) -> dict[str, Any]:
    log.error("%s: %s", what, error)
    return {"status": "failed", "error": str(error)[:500]}
