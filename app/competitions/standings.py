"""Where each model stands: from the store's history to the numbers the incentive takes. Between the rooms."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime

from sqlalchemy.orm import Session

from app.domain import MODELS_NETUID, ReportedScore
from app.settings import Settings
from app.store.competitions import Competitions
from app.store.metagraph import Metagraph, SyncedMetagraph
from app.store.model_queue import ModelQueue, QueuedModel, ScoreHistory, TakenModel
from app.store.reputations import Reputations, ReputationStep, RoundState, WeightRound, WeightRounds
from chain.incentive.models import (
    PENALTY_SCORE,
    UNKNOWN_REPUTATION,
    Competition,
    Incentive,
    IncentiveRules,
    ModelScore,
    duplicates,
    incentive,
    reputation_after,
    stake_weighted_score,
)


@dataclass(frozen=True, slots=True)
class ModelStanding:
    """A model, its latest reports, newest first, and its score.

    ``weighed`` is what the validators say; ``score`` what counts: 0 for a copy, the penalty for a repository younger
    than its commitment. None where no stake stands behind a report.
    """

    model: QueuedModel
    reports: tuple[ReportedScore, ...]
    weighed: ModelScore
    score: float | None
    is_copy: bool
    is_penalised: bool


def model_standings(session: Session, netuid: int) -> list[ModelStanding]:
    """The standing of every registered miner's model, by UID."""
    stakes = Metagraph(session, netuid).read().stakes
    models = ModelQueue(session, netuid).models()
    history = ScoreHistory(session).latest()
    copies = _copies(models, history)
    return [_standing(model, history.get(model.hotkey, ()), stakes, model.uid in copies) for model in models]


def _standing(
    model: QueuedModel, records: Sequence[ReportedScore], stakes: dict[str, float], is_copy: bool
) -> ModelStanding:
    weighed = stake_weighted_score(records, stakes)
    created = model.repository_created_at
    is_penalised = created is not None and created > model.committed_at
    score = weighed.score
    if score is not None and is_penalised:
        score = min(score, PENALTY_SCORE)
    if score is not None and is_copy:
        score = 0.0
    return ModelStanding(model, tuple(records), weighed, score, is_copy, is_penalised)


def _copies(models: Iterable[QueuedModel], history: dict[str, list[ReportedScore]]) -> set[int]:
    """UIDs whose model another committed before in the same competition, by committed or reported hash."""
    by_competition: dict[str, list[tuple[int, int, frozenset[str]]]] = {}
    for model in models:
        hashes = {model.commitment.model.hash, *(record.model_hash for record in history.get(model.hotkey, ())[:1])}
        known = frozenset(value for value in hashes if value)
        by_competition.setdefault(model.competition_id, []).append((model.uid, model.commitment.block, known))
    return {uid for entries in by_competition.values() for uid in duplicates(entries)}


def take_next_model(session: Session, netuid: int, scorer: str, competition_id: str | None = None) -> TakenModel | None:
    """Hand the next model to a scorer: of one competition, or of the one whose turn it is and that has one."""
    competitions = Competitions(session)
    for turn in [competition_id] if competition_id is not None else competitions.by_turn():
        competitions.served(turn)
        taken = ModelQueue(session, netuid).take(turn, scorer)
        if taken is not None:
            return taken
    return None


def competitions_now(session: Session, standings: Iterable[ModelStanding]) -> list[Competition]:
    """The running competitions as the incentive sees them."""
    scores: dict[str, dict[int, float]] = {}
    for standing in standings:
        if standing.score is not None:
            scores.setdefault(standing.model.competition_id, {})[standing.model.uid] = standing.score
    return [
        Competition(
            record.id,
            record.reward_percentage,
            None if record.baseline is None else record.baseline.score,
            scores.get(record.id, {}),
        )
        for record in Competitions(session).all()
    ]


def incentive_now(session: Session, settings: Settings) -> Incentive:
    """The weights that the store's scores, baselines, reputations and last round give."""
    metagraph = Metagraph(session, MODELS_NETUID).read()
    return incentive(
        metagraph.hotkeys,
        competitions_now(session, model_standings(session, MODELS_NETUID)),
        {hotkey: record.reputation for hotkey, record in Reputations(session).all().items()},
        previous=WeightRounds(session).previous(),
        alpha=settings.alpha,
        rules=replace(IncentiveRules(), burn_uid=settings.burn_uid),
    )


def weight_round(mark: str, found: Incentive) -> WeightRound:
    """A round to be kept, from the incentive that made it."""
    return WeightRound(
        mark=mark,
        weights=found.weights,
        by_hotkey=found.by_hotkey,
        pools={name: {"above": pools.above, "below": pools.below} for name, pools in found.pools.items()},
        shares=[asdict(share) for share in found.shares],
        warnings=found.warnings,
        state=RoundState.COMPUTED,
    )


def weights_by_hotkey(by_hotkey: dict[str, float], metagraph: SyncedMetagraph) -> dict[int, float]:
    """A round's weights on the UIDs its hotkeys have now, without zeros and without who is gone."""
    uid_of = {hotkey: uid for uid, hotkey in metagraph.hotkeys.items()}
    return {uid_of[hotkey]: weight for hotkey, weight in sorted(by_hotkey.items()) if weight > 0 and hotkey in uid_of}


def reputation_steps(session: Session, netuid: int, day: str) -> list[ReputationStep]:
    """The steps of one day that are not done yet: each model with a score, against its competition's baseline."""
    reputations = {hotkey: record.reputation for hotkey, record in Reputations(session).all().items()}
    standings = model_standings(session, netuid)
    steps: list[ReputationStep] = []
    for competition in competitions_now(session, standings):
        if competition.baseline is None:
            continue
        done = Reputations(session).stepped(competition.id, day)
        for standing in standings:
            hotkey, score = standing.model.hotkey, standing.score
            if standing.model.competition_id != competition.id or score is None or hotkey in done:
                continue
            before = reputations.get(hotkey, UNKNOWN_REPUTATION)
            after = reputation_after(before, score, competition.baseline)
            steps.append(ReputationStep(hotkey, competition.id, day, score, competition.baseline, after))
    return steps


def mark_of(instant: datetime, every_minutes: int = 20) -> str:
    """The 20-minute mark that an instant belongs to: 2026-11-22T01:20."""
    floor = instant.minute - instant.minute % every_minutes
    return instant.replace(minute=floor, second=0, microsecond=0).strftime("%Y-%m-%dT%H:%M")
