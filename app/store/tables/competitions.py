"""The tables of the model competitions."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.store.tables.base import JsonText, Table, UntrustedText, UtcDateTime


class NeuronRow(Table):
    """One UID of the metagraph as last synced. ``stake`` in alpha."""

    __tablename__ = "neurons"
    __table_args__ = (Index("ix_neurons_hotkey", "netuid", "hotkey"),)

    netuid: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    uid: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    hotkey: Mapped[str] = mapped_column(Text)
    coldkey: Mapped[str] = mapped_column(Text)
    stake: Mapped[float]
    validator_permit: Mapped[bool]
    block: Mapped[int]
    synced_at: Mapped[datetime] = mapped_column(UtcDateTime)


class CompetitionRow(Table):
    """A competition. ``served_at`` is when its queue was last asked, which is how competitions take turns.

    ``benchmark`` None: the profile's, by the competition's id.
    """

    __tablename__ = "competitions"

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    reward_percentage: Mapped[float]
    added_at: Mapped[datetime] = mapped_column(UtcDateTime)
    archived_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    served_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    benchmark: Mapped[str | None] = mapped_column(Text)
    parameters: Mapped[Any] = mapped_column(JsonText, nullable=True)


class BaselineRow(Table):
    """A baseline that was set; the latest counts, the others are history."""

    __tablename__ = "competition_baselines"

    id: Mapped[int] = mapped_column(primary_key=True)
    competition_id: Mapped[str] = mapped_column(ForeignKey("competitions.id"), index=True)
    score: Mapped[float]
    set_by: Mapped[str] = mapped_column(UntrustedText)
    set_at: Mapped[datetime] = mapped_column(UtcDateTime)


class CompetitionChangeRow(Table):
    """Who changed a competition, when, and how."""

    __tablename__ = "competition_changes"

    id: Mapped[int] = mapped_column(primary_key=True)
    competition_id: Mapped[str] = mapped_column(Text, index=True)
    action: Mapped[str] = mapped_column(Text)
    detail: Mapped[str] = mapped_column(UntrustedText)
    changed_by: Mapped[str] = mapped_column(UntrustedText)
    changed_at: Mapped[datetime] = mapped_column(UtcDateTime)


class ModelRow(Table):
    """A miner's current model: one line of the queue.

    ``taken_model`` and ``taken_block`` are what the scorer was given, should the miner commit again meanwhile.
    """

    __tablename__ = "models"
    __table_args__ = (Index("ix_models_queue", "competition_id", "is_being_scored_by"),)

    hotkey: Mapped[str] = mapped_column(Text, primary_key=True)
    uid: Mapped[int]
    competition_id: Mapped[str] = mapped_column(Text)
    model: Mapped[str] = mapped_column(Text)
    block: Mapped[int]
    committed_at: Mapped[datetime] = mapped_column(UtcDateTime)
    is_new: Mapped[bool]
    is_being_scored_by: Mapped[str | None] = mapped_column(Text)
    taken_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    taken_model: Mapped[str | None] = mapped_column(Text)
    taken_block: Mapped[int | None]
    repository_created_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    repository_checked_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime)


class ModelRefusalRow(Table):
    """Why a miner's latest commitment is not queued."""

    __tablename__ = "model_refusals"

    hotkey: Mapped[str] = mapped_column(Text, primary_key=True)
    uid: Mapped[int]
    block: Mapped[int]
    text: Mapped[str] = mapped_column(UntrustedText)
    reason: Mapped[str] = mapped_column(UntrustedText)
    refused_at: Mapped[datetime] = mapped_column(UtcDateTime)


class ModelScoreRow(Table):
    """One reported score. Rows are only ever added."""

    __tablename__ = "model_scores"
    __table_args__ = (
        Index("ix_model_scores_model", "hotkey", "model", "id"),
        Index("ix_model_scores_scored_at", "scored_at"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    hotkey: Mapped[str] = mapped_column(Text)
    uid: Mapped[int]
    competition_id: Mapped[str] = mapped_column(Text)
    model: Mapped[str] = mapped_column(Text)
    block: Mapped[int]
    model_hash: Mapped[str | None] = mapped_column(UntrustedText)
    scorer_hotkey: Mapped[str] = mapped_column(Text)
    score: Mapped[float]
    metric_scores: Mapped[Any] = mapped_column(JsonText, nullable=True)
    error: Mapped[str | None] = mapped_column(UntrustedText)
    scored_at: Mapped[datetime] = mapped_column(UtcDateTime)


class ModelScoringRow(Table):
    """One of our own scorings, from start to end. ``busy_scorer`` names the scorer while it works: one model each."""

    __tablename__ = "model_scorings"

    id: Mapped[int] = mapped_column(primary_key=True)
    scorer: Mapped[str] = mapped_column(Text)
    busy_scorer: Mapped[str | None] = mapped_column(Text, unique=True)
    hotkey: Mapped[str] = mapped_column(Text)
    uid: Mapped[int]
    competition_id: Mapped[str] = mapped_column(Text)
    model: Mapped[str] = mapped_column(Text)
    block: Mapped[int]
    scorer_hotkey: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(Text)
    task_id: Mapped[str | None] = mapped_column(UntrustedText)
    score: Mapped[float | None]
    error: Mapped[str | None] = mapped_column(UntrustedText)
    taken_at: Mapped[datetime] = mapped_column(UtcDateTime)
    started_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    looked_at: Mapped[datetime] = mapped_column(UtcDateTime)
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime, index=True)


class ReputationRow(Table):
    """A hotkey's reputation. ``registered_at`` is when it was last seen in the metagraph."""

    __tablename__ = "reputations"

    hotkey: Mapped[str] = mapped_column(Text, primary_key=True)
    reputation: Mapped[float]
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime)
    registered_at: Mapped[datetime] = mapped_column(UtcDateTime)


class ReputationStepRow(Table):
    """One day's step of a hotkey's reputation in one competition."""

    __tablename__ = "reputation_history"
    __table_args__ = (UniqueConstraint("hotkey", "competition_id", "day"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    hotkey: Mapped[str] = mapped_column(Text)
    competition_id: Mapped[str] = mapped_column(Text)
    day: Mapped[str] = mapped_column(Text)
    score: Mapped[float]
    baseline: Mapped[float]
    reputation: Mapped[float]
    stepped_at: Mapped[datetime] = mapped_column(UtcDateTime)


class WeightRoundRow(Table):
    """The weights of one 20-minute mark: by UID as computed, by hotkey as the next EMA step takes them.

    What became of them is in ``weight_submissions``.
    """

    __tablename__ = "model_weight_rounds"

    id: Mapped[int] = mapped_column(primary_key=True)
    mark: Mapped[str] = mapped_column(Text, unique=True)
    weights: Mapped[Any] = mapped_column(JsonText, nullable=True)
    by_hotkey: Mapped[Any] = mapped_column(JsonText, nullable=True)
    pools: Mapped[Any] = mapped_column(JsonText, nullable=True)
    shares: Mapped[Any] = mapped_column(JsonText, nullable=True)
    warnings: Mapped[Any] = mapped_column(JsonText, nullable=True)
    computed_at: Mapped[datetime] = mapped_column(UtcDateTime)


class UsedSignatureRow(Table):
    """A request signature that was used, until it would expire anyway."""

    __tablename__ = "used_signatures"

    digest: Mapped[str] = mapped_column(Text, primary_key=True)
    expires_at: Mapped[datetime] = mapped_column(UtcDateTime, index=True)


class RequestCountRow(Table):
    """How many requests a hotkey made in one minute (minutes since 1970)."""

    __tablename__ = "request_counts"

    hotkey: Mapped[str] = mapped_column(Text, primary_key=True)
    minute: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    requests: Mapped[int]
