"""What travels over the scoring API."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue

from app.api.messages import CompetitionId, Hotkey
from chain.model_metadata import is_repository
from chain.subtensor import is_address

# The chain counts blocks in 32 bits, of which the store's integers have 31: enough for 800 years.
_LAST_BLOCK: Final = 2**31 - 1


def _repository(text: str) -> str:
    if not is_repository(text):
        raise ValueError("is not namespace/name of a Hugging Face repository")
    return text


def _address(text: str) -> str:
    if not is_address(text):
        raise ValueError("is not an SS58 address: its checksum does not fit")
    return text


# what the examples of the description are made of
_INPUTS: Final[dict[str, JsonValue]] = {
    "hf_repo_id": "maker/model",
    "competition_id": "voicebench",
    "hotkey": "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY",
    "block": 6900000,
}
_CAPABILITY: Final[dict[str, JsonValue]] = {
    "competition_id": "voicebench",
    "benchmark": "voicebench",
    "can_score": False,
    "reason": "JUDGE_URL is not set",
    "checked_at": "2026-11-26T12:00:00Z",
    "only_stored_models": False,
}


class StartScoring(BaseModel):
    """Asks for a model's evaluation: the repository, and the hotkey that committed it in that block."""

    model_config = ConfigDict(json_schema_extra={"examples": [_INPUTS]})

    hf_repo_id: Annotated[str, Field(max_length=200, examples=["maker/model"]), AfterValidator(_repository)]
    competition_id: CompetitionId
    hotkey: Annotated[Hotkey, AfterValidator(_address)]
    block: int = Field(ge=0, le=_LAST_BLOCK, strict=True)


class ScoringInputs(BaseModel):
    """What was asked for, as it was asked."""

    model_config = ConfigDict(json_schema_extra={"examples": [_INPUTS]})

    hf_repo_id: str
    competition_id: str
    hotkey: str
    block: int


class ScoringStarted(BaseModel):
    """Whether the evaluation was accepted, and under which id; in words why not."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"success": True, "message": "The evaluation of maker/model has begun.", "task_id": "0f8fad5bd9cb469f"}
            ]
        }
    )

    success: bool
    message: str
    task_id: str | None = None


class ScoringStatus(BaseModel):
    """How an evaluation goes. ``scoring`` without ``started_at``: accepted, but no worker is at it at this moment.

    ``score`` is in 0 to 1, 0 where the model failed or timed out; ``error`` is for the model's miner.
    """

    model_config = ConfigDict(
        protected_namespaces=(),
        json_schema_extra={
            "examples": [
                {
                    "status": "timeout",
                    "score": 0.0,
                    "metric_scores": {"commoneval": 0.71},
                    "error": "The evaluation took longer than 3 h.",
                    "started_at": "2026-11-26T12:00:00Z",
                    "runtime_seconds": 5400.0,
                    "inputs": _INPUTS,
                }
            ]
        },
    )

    status: Literal["scoring", "completed", "failed", "timeout"]
    score: float | None
    metric_scores: dict[str, Any] | None
    error: str | None
    started_at: datetime | None
    runtime_seconds: float | None
    inputs: ScoringInputs


class CompetitionCapability(BaseModel):
    """Whether this node can score a competition; ``reason`` says why not.

    ``checked_at`` is when a gpu worker looked last; null: none has yet, and models are accepted.
    ``only_stored_models``: a model that is not in this node's store is refused, for OFFLINE forbids asking the chain.
    """

    model_config = ConfigDict(json_schema_extra={"examples": [_CAPABILITY]})

    competition_id: str
    benchmark: str | None
    can_score: bool
    reason: str | None
    checked_at: datetime | None
    only_stored_models: bool


class NodeCapabilities(BaseModel):
    """Which competitions this node can score."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"competitions": [_CAPABILITY]}]})

    competitions: list[CompetitionCapability]
