"""The validator API: hands models to scorers, takes their scores, tells everybody's."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, HTTPException, Path, Response, status
from pydantic_core import to_json

from app.api.authentication import Authentication, PermittedValidators
from app.api.messages import (
    AllModelScores,
    BaselineScore,
    EvaluationMetrics,
    EvaluationSeries,
    GetModelToScore,
    Health,
    MetricPoint,
    MetricsOverTime,
    ModelScoreResults,
    ModelToScore,
    Outcome,
    Problem,
    Reputation,
    TopModel,
    refusals,
)
from app.clock import now
from app.competitions.flat_metrics import flat_metrics
from app.competitions.profile import Profile, profile_of
from app.competitions.standings import ModelStanding, model_standings, take_next_model
from app.domain import MODELS_NETUID
from app.settings import get_settings
from app.store.competitions import Competitions
from app.store.database import get_store
from app.store.model_queue import ModelQueue, PostedScore, ScoreHistory
from app.store.reputations import Reputations

_METRICS_SINCE: Final = timedelta(days=30)
_MOST_METRICS: Final = 1000

_REFUSALS: Final = refusals("No validator permit, or not enough stake")


def _validators() -> PermittedValidators:
    return PermittedValidators(MODELS_NETUID, get_settings().min_stake)


_authentication = Authentication(_validators)
Caller = Annotated[str, Depends(_authentication)]

health_router = APIRouter(tags=["health"])
validator_router = APIRouter(responses=_REFUSALS, route_class=_authentication.route())


@health_router.head("/healthz", include_in_schema=False)
@health_router.get("/healthz", responses={503: _REFUSALS[503]}, operation_id="healthz")
@health_router.get("/", responses={503: _REFUSALS[503]}, operation_id="health")
def health(response: Response) -> Health:
    """Whether the API and its store answer. Needs no signature. A browser gets the pages here."""
    response.headers["Vary"] = "Accept"
    get_store().check()
    return Health(status="ok", message=now())


@validator_router.post("/get-model-to-score", tags=["queue"], response_model_exclude_none=True)
def get_model_to_score(hotkey: Caller, request: GetModelToScore | None = None) -> ModelToScore:
    """Take the next model; nobody else gets it until its score is posted or the time limit is over."""
    competition = request.competition_id if request else None
    with get_store().writing() as session:
        taken = take_next_model(session, hotkey, None if competition is None else {competition})
    if taken is None:
        return ModelToScore(success=False, message="No model available to score.")
    return ModelToScore(success=True, miner_uid=taken.uid)


@validator_router.post("/score-model", tags=["queue"])
def score_model(hotkey: Caller, results: ModelScoreResults) -> Outcome:
    """Post the score of the model that the caller took. Kept for ever; a second post changes nothing."""
    posted = PostedScore(results.model_score, results.model_hash or None, results.metric_scores)
    with get_store().writing() as session:
        kept = ModelQueue(session, MODELS_NETUID).post(results.miner_hotkey, results.miner_uid, hotkey, posted)
    if kept:
        return Outcome(success=True, message=f"The score of UID {results.miner_uid} is kept.")
    return Outcome(
        success=False,
        message=f"UID {results.miner_uid} with this hotkey is not being scored by {hotkey}; the score is not kept.",
    )


@validator_router.get("/get-all-model-scores", tags=["scores"], operation_id="get_all_model_scores")
@validator_router.post("/get-all-model-scores", tags=["scores"], operation_id="post_get_all_model_scores")
def get_all_model_scores(hotkey: Caller) -> AllModelScores:
    """Every registered miner's stake-weighted score and what it is made of."""
    profile = profile_of(get_settings())
    with get_store().reading() as session:
        standings = model_standings(session, profile)
    if profile.needs_baseline and not any(standing.reports for standing in standings):
        # a validator that took this for scores would burn everything
        return AllModelScores(success=False, message="No model has a score yet.")
    scores = {"success": True, "model_scores": {str(s.model.uid): [_entry(s)] for s in standings}}
    # thousands of parts: written as they are; tests hold them against the schema
    return Response(to_json(scores), media_type="application/json")  # type: ignore[return-value]


def get_top_model() -> dict[str, list[TopModel]]:
    """The best model of each competition, if any has a score above zero."""
    with get_store().reading() as session:
        top: dict[str, list[TopModel]] = {record.id: [] for record in Competitions(session).all()}
        for standing in model_standings(session, profile_of(get_settings())):
            best = top.get(standing.model.competition_id)
            if best is None or not standing.score:
                continue
            if not best or standing.score > best[0].score:
                best[:] = [TopModel(uid=standing.model.uid, score=standing.score)]
    return top


@validator_router.get("/baseline-score/{competition_id}", tags=["scores"], responses={404: {"model": Problem}})
def baseline_score(
    hotkey: Caller, competition_id: Annotated[str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,31}$")]
) -> BaselineScore:
    """A competition's latest baseline."""
    with get_store().reading() as session:
        baseline = Competitions(session).baseline(competition_id)
    if baseline is None:
        raise HTTPException(status.HTTP_404_NOT_FOUND, f"No baseline score found for competition_id: {competition_id}")
    return BaselineScore(competition_id=competition_id, score=baseline.score, created_at=baseline.set_at)


@validator_router.get("/reputations", tags=["scores"])
def reputations(hotkey: Caller) -> dict[str, Reputation]:
    """Every known miner's reputation, by hotkey."""
    with get_store().reading() as session:
        known = Reputations(session).all()
    return {
        record.hotkey: Reputation(reputation=record.reputation, last_updated=record.updated_at)
        for record in known.values()
    }


def get_eval_metrics() -> EvaluationSeries:
    """The metrics of the last 30 days' scores, newest first, at most 1000."""
    data: dict[str, list[EvaluationMetrics]] = {}
    with get_store().reading() as session:
        for record in ScoreHistory(session).since(now() - _METRICS_SINCE, _MOST_METRICS):
            data.setdefault(record.competition_id, []).append(
                EvaluationMetrics(
                    scored_at=record.scored_at,
                    uid=record.uid,
                    hotkey=record.hotkey,
                    model_name=record.model.repository,
                    score=record.score,
                    metric_scores=None if record.metric_scores is None else dict(record.metric_scores),
                    error=record.error,
                )
            )
    return EvaluationSeries(success=True, data=data)


def get_metrics_over_time() -> MetricsOverTime:
    """Each metric of the last 30 days' scores over time, oldest first, from at most 1000 scores."""
    data: dict[str, list[MetricPoint]] = {}
    with get_store().reading() as session:
        records = ScoreHistory(session).since(now() - _METRICS_SINCE, _MOST_METRICS)
    for record in reversed(records):
        for name, value in {"score": record.score, **flat_metrics(record.metric_scores or {}, ".")}.items():
            data.setdefault(name, []).append(
                MetricPoint(
                    timestamp=record.scored_at, value=value, uid=record.uid, competition_id=record.competition_id
                )
            )
    return MetricsOverTime(success=True, data=data)


def reads_router(profile: Profile) -> APIRouter:
    """What validators read of others' models: signed, or open to everybody where the profile says so."""
    router = APIRouter(tags=["scores"], responses={503: _REFUSALS[503]})
    if not profile.open_reads:
        router = APIRouter(
            tags=["scores"],
            responses=_REFUSALS,
            route_class=_authentication.route(),
            dependencies=[Depends(_authentication)],
        )
    router.get("/get-top-model")(get_top_model)
    router.get("/get-eval-metrics")(get_metrics_over_time if profile.open_reads else get_eval_metrics)
    return router


def _entry(standing: ModelStanding) -> dict[str, Any]:
    """A ModelScoreEntry's fields."""
    model, latest = standing.model, standing.reports[0] if standing.reports else None
    return {
        "hotkey": model.hotkey,
        "competition_id": model.competition_id,
        "model_name": model.commitment.model.repository,
        "score": standing.score,
        "scored_at": None if latest is None else latest.scored_at,
        "block": model.commitment.block,
        "model_hash": None if latest is None else latest.model_hash,
        "score_details": [
            {
                "hotkey": report.scorer,
                "stake": stake,
                "score": report.score,
                "timestamp": report.scored_at,
                "weight": share,
                "model_hash": report.model_hash,
            }
            for report, stake, share in standing.validators_score.reports
        ],
    }
