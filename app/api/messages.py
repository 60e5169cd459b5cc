"""What travels over the validator API, under the names its clients use."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

_DEEPEST: Final = 16

CompetitionId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,31}$", examples=["voicebench"])]
Hotkey = Annotated[
    str,
    Field(pattern=r"^[1-9A-HJ-NP-Za-km-z]{46,50}$", examples=["5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY"]),
]


def _storable(value: dict[str, Any]) -> dict[str, Any]:
    """JSON that can be kept: finite numbers, text without NUL, not nested beyond reason."""
    level: list[Any] = [value]
    for _ in range(_DEEPEST):
        if not level:
            return value
        below: list[Any] = []
        for item in level:
            if isinstance(item, float) and not math.isfinite(item):
                raise ValueError("holds a number that is not finite")
            if isinstance(item, str) and "\0" in item:
                raise ValueError("holds a text with a NUL")
            if isinstance(item, dict):
                below += [*item.keys(), *item.values()]
            elif isinstance(item, list):
                below += item
        level = below
    if level:
        raise ValueError(f"is nested more than {_DEEPEST} deep")
    return value


JsonObject = Annotated[dict[str, Any], AfterValidator(_storable)]


class GetModelToScore(BaseModel):
    """Asks for the next model: of one competition, or of the one whose turn it is."""

    competition_id: CompetitionId | None = None


class ModelToScore(BaseModel):
    """The UID whose model the caller now has, or why there is none."""

    success: bool
    miner_uid: int | None = None
    message: str | None = None


class ModelScoreResults(BaseModel):
    """The score of the model that the caller took. Types are meant: ``"0.5"`` and ``true`` are no numbers."""

    model_config = ConfigDict(protected_namespaces=(), strict=True)

    miner_hotkey: Hotkey
    miner_uid: int = Field(ge=0, le=65535)
    model_metadata: JsonObject
    model_hash: str | None = Field(None, pattern=r"^[!-~]{0,128}$")
    model_score: float = Field(ge=0, le=1, allow_inf_nan=False)
    metric_scores: JsonObject | None = None


class Outcome(BaseModel):
    """Whether it was done, and in words."""

    success: bool
    message: str


class ScoreDetail(BaseModel):
    """One validator's part of a model's score."""

    model_config = ConfigDict(protected_namespaces=())

    hotkey: str
    stake: float
    score: float
    timestamp: datetime | None
    weight: float
    model_hash: str | None


class ModelScoreEntry(BaseModel):
    """A model's stake-weighted score; ``score`` is null where no stake stands behind a score yet."""

    model_config = ConfigDict(protected_namespaces=())

    hotkey: str
    competition_id: str
    model_name: str
    score: float | None
    scored_at: datetime | None
    block: int
    model_hash: str | None
    score_details: list[ScoreDetail]


class AllModelScores(BaseModel):
    """Every registered miner's model, by UID; without ``success`` the reason why there are none."""

    model_config = ConfigDict(protected_namespaces=())

    success: bool
    model_scores: dict[str, list[ModelScoreEntry]] | None = None
    message: str | None = None


class TopModel(BaseModel):
    """The best model of a competition."""

    uid: int
    score: float


class BaselineScore(BaseModel):
    """A competition's latest baseline."""

    competition_id: str
    score: float
    created_at: datetime


class Reputation(BaseModel):
    """A miner's reputation."""

    reputation: float
    last_updated: datetime | None


class EvaluationMetrics(BaseModel):
    """The metrics of one posted score."""

    model_config = ConfigDict(protected_namespaces=())

    scored_at: datetime
    uid: int
    hotkey: str
    model_name: str
    score: float
    metric_scores: dict[str, Any] | None
    error: str | None


class EvaluationSeries(BaseModel):
    """The metrics of recent scores by competition, newest first."""

    success: bool
    data: dict[str, list[EvaluationMetrics]]


class MetricPoint(BaseModel):
    """One metric of one posted score."""

    timestamp: datetime
    value: float
    uid: int
    competition_id: str


class MetricsOverTime(BaseModel):
    """The metrics of recent scores by name, oldest first."""

    success: bool
    data: dict[str, list[MetricPoint]]


class Health(BaseModel):
    """The API answers, and its store does."""

    status: Literal["ok"]
    message: datetime


class Problem(BaseModel):
    """Why a request was refused."""

    detail: str


class FieldProblem(BaseModel):
    """What is wrong with one field of the request."""

    loc: list[str]
    msg: str
    type: str


class FieldProblems(BaseModel):
    """What is wrong with the request."""

    detail: list[FieldProblem]


def refusals(forbidden: str) -> dict[int | str, dict[str, Any]]:
    """What every signed endpoint may answer instead, for its OpenAPI description; ``forbidden`` says what 403 means."""
    return {
        400: {"model": Problem, "description": "The body is not UTF-8"},
        408: {"model": Problem, "description": "The body came too slowly"},
        401: {"model": Problem, "description": "No valid signature, or one that was used or has expired"},
        403: {"model": Problem, "description": forbidden},
        413: {"model": Problem, "description": "The body is too large"},
        422: {"model": FieldProblems, "description": "A field is missing or wrong"},
        429: {"model": Problem, "description": "Too many requests in this minute"},
        503: {"model": Problem, "description": "The store does not answer"},
    }
