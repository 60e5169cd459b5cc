"""What travels over the validator API, under the names its clients use."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue

_DEEPEST: Final = 16

# what the examples of the description are made of
_HOTKEY: Final = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY"
_SCORE_DETAIL: Final[dict[str, JsonValue]] = {
    "hotkey": _HOTKEY,
    "stake": 125000.0,
    "score": 0.71,
    "timestamp": "2026-11-26T12:00:00Z",
    "weight": 1.0,
    "model_hash": "9f86d081884c7d65",
}
_SCORE_ENTRY: Final[dict[str, JsonValue]] = {
    "hotkey": _HOTKEY,
    "competition_id": "voicebench",
    "model_name": "maker/model",
    "score": 0.71,
    "scored_at": "2026-11-26T12:00:00Z",
    "block": 6900000,
    "model_hash": "9f86d081884c7d65",
    "score_details": [_SCORE_DETAIL],
}
_METRIC_POINT: Final[dict[str, JsonValue]] = {
    "timestamp": "2026-11-26T12:00:00Z",
    "value": 0.71,
    "uid": 17,
    "competition_id": "voicebench",
}
_EVALUATION: Final[dict[str, JsonValue]] = {
    "scored_at": "2026-11-26T12:00:00Z",
    "uid": 17,
    "hotkey": _HOTKEY,
    "model_name": "maker/model",
    "score": 0.71,
    "metric_scores": {"commoneval": 0.71},
    "error": "2 of 50 samples had no answer",
}
_FIELD_PROBLEM: Final[dict[str, JsonValue]] = {
    "loc": ["body", "model_score"],
    "msg": "Input should be less than or equal to 1",
    "type": "less_than_equal",
}

CompetitionId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,31}$", examples=["voicebench"])]
Hotkey = Annotated[
    str,
    Field(pattern=r"^[1-9A-HJ-NP-Za-km-z]{46,50}$", examples=[_HOTKEY]),
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

    model_config = ConfigDict(json_schema_extra={"examples": [{"competition_id": "voicebench"}]})

    competition_id: CompetitionId | None = None


class ModelToScore(BaseModel):
    """The UID whose model the caller now has, or why there is none."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"success": True, "miner_uid": 17}]})

    success: bool
    miner_uid: int | None = None
    message: str | None = None


class ModelScoreResults(BaseModel):
    """The score of the model that the caller took. Types are meant: ``"0.5"`` and ``true`` are no numbers."""

    model_config = ConfigDict(
        protected_namespaces=(),
        strict=True,
        json_schema_extra={
            "examples": [
                {
                    "miner_hotkey": _HOTKEY,
                    "miner_uid": 17,
                    "model_metadata": {"id": {"name": "model"}},
                    "model_score": 0.71,
                }
            ]
        },
    )

    miner_hotkey: Hotkey
    miner_uid: int = Field(ge=0, le=65535)
    model_metadata: JsonObject
    model_hash: str | None = Field(None, pattern=r"^[!-~]{0,128}$")
    model_score: float = Field(ge=0, le=1, allow_inf_nan=False)
    metric_scores: JsonObject | None = None


class Outcome(BaseModel):
    """Whether it was done, and in words."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"success": True, "message": "The score of UID 17 is kept."}]}
    )

    success: bool
    message: str


class ScoreDetail(BaseModel):
    """One validator's part of a model's score."""

    model_config = ConfigDict(protected_namespaces=(), json_schema_extra={"examples": [_SCORE_DETAIL]})

    hotkey: str
    stake: float
    score: float
    timestamp: datetime | None
    weight: float
    model_hash: str | None


class ModelScoreEntry(BaseModel):
    """A model's stake-weighted score; ``score`` is null where no stake stands behind a score yet."""

    model_config = ConfigDict(protected_namespaces=(), json_schema_extra={"examples": [_SCORE_ENTRY]})

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

    model_config = ConfigDict(
        protected_namespaces=(),
        json_schema_extra={"examples": [{"success": True, "model_scores": {"17": [_SCORE_ENTRY]}}]},
    )

    success: bool
    model_scores: dict[str, list[ModelScoreEntry]] | None = None
    message: str | None = None


class TopModel(BaseModel):
    """The best model of a competition."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"uid": 17, "score": 0.71}]})

    uid: int
    score: float


class BaselineScore(BaseModel):
    """A competition's latest baseline."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"competition_id": "voicebench", "score": 0.5, "created_at": "2026-11-26T12:00:00Z"}]
        }
    )

    competition_id: str
    score: float
    created_at: datetime


class Reputation(BaseModel):
    """A miner's reputation."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"reputation": 0.8, "last_updated": "2026-11-26T12:00:00Z"}]}
    )

    reputation: float
    last_updated: datetime | None


class EvaluationMetrics(BaseModel):
    """The metrics of one posted score."""

    model_config = ConfigDict(protected_namespaces=(), json_schema_extra={"examples": [_EVALUATION]})

    scored_at: datetime
    uid: int
    hotkey: str
    model_name: str
    score: float
    metric_scores: dict[str, Any] | None
    error: str | None


class EvaluationSeries(BaseModel):
    """The metrics of recent scores by competition, newest first."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"success": True, "data": {"voicebench": [_EVALUATION]}}]}
    )

    success: bool
    data: dict[str, list[EvaluationMetrics]]


class MetricPoint(BaseModel):
    """One metric of one posted score."""

    model_config = ConfigDict(json_schema_extra={"examples": [_METRIC_POINT]})

    timestamp: datetime
    value: float
    uid: int
    competition_id: str


class MetricsOverTime(BaseModel):
    """The metrics of recent scores by name, oldest first."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"success": True, "data": {"commoneval": [_METRIC_POINT]}}]}
    )

    success: bool
    data: dict[str, list[MetricPoint]]


class Health(BaseModel):
    """The API answers, and its store does."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"status": "ok", "message": "2026-11-26T12:00:00Z"}]})

    status: Literal["ok"]
    message: datetime


class Problem(BaseModel):
    """Why a request was refused."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"detail": "The signature has expired."}]})

    detail: str


class FieldProblem(BaseModel):
    """What is wrong with one field of the request."""

    model_config = ConfigDict(json_schema_extra={"examples": [_FIELD_PROBLEM]})

    loc: list[str]
    msg: str
    type: str


class FieldProblems(BaseModel):
    """What is wrong with the request."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"detail": [_FIELD_PROBLEM]}]})

    detail: list[FieldProblem]


def refusals(forbidden: str) -> dict[int | str, dict[str, Any]]:
    """What every signed endpoint may answer instead, for its OpenAPI description; ``forbidden`` says what 403 means."""
    return {
        400: _problem("The body is not UTF-8"),
        408: _problem("The body came too slowly", "the body did not come within 20 s"),
        401: _problem("No valid signature, or one that was used or has expired"),
        403: _problem(forbidden),
        413: _problem("The body is too large", "the body is larger than 1048576 bytes"),
        422: {"model": FieldProblems, "description": "A field is missing or wrong"},
        429: _problem("Too many requests in this minute"),
        503: _problem("The store does not answer", "the store does not answer; try again"),
    }


def _problem(description: str, detail: str | None = None) -> dict[str, Any]:
    example = {"detail": detail or description}
    return {"model": Problem, "description": description, "content": {"application/json": {"example": example}}}
