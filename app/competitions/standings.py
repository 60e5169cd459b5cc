"""Where each model stands: from the store's history to the numbers the incentive takes. Between the rooms."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy.orm import Session

from app.competitions.profile import Profile, alpha_of, profile_of
from app.domain import MODELS_NETUID, ReportedScore
from app.settings import Settings
from app.store.competitions import Competitions
from app.store.metagraph import Metagraph
from app.store.model_queue import ModelQueue, QueuedModel, ScoreHistory, TakenModel
from app.store.reputations import Reputations, ReputationStep, WeightRound, WeightRounds
from chain.incentive.models import (
    PENALTY_SCORE,
    UNKNOWN_REPUTATION,
    Competition,
    Incentive,
    IncentiveRules,
    ModelScore,
    duplicates,
    incentive,
    latest_score,
    reputation_after,
    stake_weighted_score,
    unchanged,
)

# The reputation of a hotkey that left the metagraph is kept for so long.
_REPUTATION_KEPT: Final = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class ModelStanding:
    """A model, its latest reports, newest first, and its score.

    ``validators_score`` is what the validators report; ``score`` what counts: 0 for a copy, the penalty for a
    repository younger than its commitment. None where no stake stands behind a report.
    """

    model: QueuedModel
    reports: tuple[ReportedScore, ...]
    validators_score: ModelScore
    score: float | None
    is_copy: bool
    is_penalised: bool


def model_standings(session: Session, profile: Profile) -> list[ModelStanding]:
    """The standing of every registered miner's model, by UID, as the profile weighs its reports."""
    stakes = Metagraph(session, MODELS_NETUID).read().stakes
    models = ModelQueue(session, MODELS_NETUID).models()
    history = ScoreHistory(session).latest()
    copies = _copies(models, history)
    combine = latest_score if profile.latest_report_counts else stake_weighted_score
    return [_standing(model, history.get(model.hotkey, ()), combine, stakes, model.uid in copies) for model in models]


def _standing(
    model: QueuedModel,
    records: Sequence[ReportedScore],
    combine: Callable[[Sequence[ReportedScore], Mapping[str, float]], ModelScore],
    stakes: Mapping[str, float],
    is_copy: bool,
) -> ModelStanding:
    validators_score = combine(records, stakes)
    created = model.repository_created_at
    is_penalised = created is not None and created > model.committed_at
    score = validators_score.score
    if score is not None and is_penalised:
        score = min(score, PENALTY_SCORE)
    if score is not None and is_copy:
        score = 0.0
    return ModelStanding(model, tuple(records), validators_score, score, is_copy, is_penalised)


def _copies(models: Iterable[QueuedModel], history: dict[str, list[ReportedScore]]) -> set[int]:
    """UIDs whose model another committed before in the same competition, by committed or reported hash."""
    by_competition: dict[str, list[tuple[int, int, frozenset[str]]]] = {}
    for model in models:
        hashes = {model.commitment.model.hash, *(record.model_hash for record in history.get(model.hotkey, ())[:1])}
        known = frozenset(value for value in hashes if value)
        by_competition.setdefault(model.competition_id, []).append((model.uid, model.commitment.block, known))
    return {uid for entries in by_competition.values() for uid in duplicates(entries)}


def take_next_model(session: Session, scorer: str, among: Collection[str] | None = None) -> TakenModel | None:
    """Hand the next model to a scorer: of the competition whose turn it is and that has one.

    ``among`` are the competitions that the scorer takes; None: all.
    """
    competitions = Competitions(session)
    for turn in competitions.by_turn():
        if among is not None and turn not in among:
            continue
        competitions.served(turn)
        taken = ModelQueue(session, MODELS_NETUID).take(turn, scorer)
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
    profile = profile_of(settings)
    metagraph = Metagraph(session, MODELS_NETUID).read()
    standings = model_standings(session, profile)
    competitions = competitions_now(session, standings)
    previous = WeightRounds(session).previous()
    why = _why_unchanged(competitions, standings) if profile.needs_baseline else None
    if why is not None:
        return unchanged(metagraph.hotkeys, previous, why)
    return incentive(
        metagraph.hotkeys,
        competitions,
        {hotkey: record.reputation for hotkey, record in Reputations(session).all().items()},
        previous=previous,
        alpha=alpha_of(settings),
        rules=replace(IncentiveRules(), burn_uid=settings.burn_uid),
    )


def _why_unchanged(competitions: Iterable[Competition], standings: Iterable[ModelStanding]) -> str | None:
    """Why the last weights are to be sent again; None where new ones can be computed."""
    for competition in competitions:
        if competition.reward_percentage > 0 and not competition.baseline:
            return f"competition {competition.id} has no baseline above 0"
    if not any(standing.reports for standing in standings):
        return "no model has a score"
    return None


def weight_round(mark: str, found: Incentive) -> WeightRound:
    """A round to be kept, from the incentive that made it."""
    return WeightRound(
        mark=mark,
        weights=found.weights,
        by_hotkey=found.by_hotkey,
        pools={name: {"above": pools.above, "below": pools.below} for name, pools in found.pools.items()},
        shares=[asdict(share) for share in found.shares],
        warnings=found.warnings,
    )


def keep_round(session: Session, settings: Settings, mark: str) -> WeightRound:
    """The round of a mark, computed and written where it was not yet."""
    rounds = WeightRounds(session)
    if rounds.at(mark) is None:
        rounds.keep(weight_round(mark, incentive_now(session, settings)))
    found = rounds.at(mark)
    assert found is not None
    return found


def by_uid(by_hotkey: Mapping[str, float], uid_of: Mapping[str, int]) -> dict[int, float]:
    """A round's weights on the UIDs its hotkeys have now, without zeros and without who is gone."""
    return {uid_of[hotkey]: weight for hotkey, weight in sorted(by_hotkey.items()) if weight > 0 and hotkey in uid_of}


def reputation_steps(session: Session, profile: Profile, day: str) -> list[ReputationStep]:
    """The steps of one day that are not done yet: each model with a score, against its competition's baseline."""
    reputations = {hotkey: record.reputation for hotkey, record in Reputations(session).all().items()}
    standings = model_standings(session, profile)
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


def step_reputations(session: Session, profile: Profile, day: str) -> tuple[int, int]:
    """Do the steps of one day, and forget who left the metagraph long ago; how many of both."""
    steps, reputations = reputation_steps(session, profile, day), Reputations(session)
    reputations.step(steps)
    hotkeys = list(Metagraph(session, MODELS_NETUID).read().stakes)
    return len(steps), reputations.note_registered(hotkeys, _REPUTATION_KEPT) if hotkeys else 0


def mark_of(instant: datetime, every_minutes: int = 20) -> str:
    """The 20-minute mark that an instant belongs to: 2026-11-22T01:20."""
    floor = instant.minute - instant.minute % every_minutes
    return instant.replace(minute=floor, second=0, microsecond=0).strftime("%Y-%m-%dT%H:%M")
