"""The tables of models' evaluations on this node."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.store.tables.base import JsonText, Table, UntrustedText, UtcDateTime


class EvaluationRow(Table):
    """One model's evaluation, from its acceptance to its end. ``slot`` is the place it takes: one model each.

    ``scoring_id`` is this cluster's own scoring that ends with it; None where another validator asked.

    ``begun_at`` is when the first try began, from which the time limit counts; ``started_at`` when the present one did,
    and ``heartbeat_at`` when it was last heard of. ``state`` is ``waiting`` until it has ended: its piece of work says
    who works on it.
    """

    __tablename__ = "evaluations"

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    hf_repo_id: Mapped[str] = mapped_column(Text)
    competition_id: Mapped[str] = mapped_column(Text)
    hotkey: Mapped[str] = mapped_column(Text)
    block: Mapped[int]
    revision: Mapped[str | None] = mapped_column(Text)
    scoring_id: Mapped[int | None]
    slot: Mapped[str | None] = mapped_column(Text, unique=True)
    state: Mapped[str] = mapped_column(Text)
    score: Mapped[float | None]
    metric_scores: Mapped[Any] = mapped_column(JsonText, nullable=True)
    error: Mapped[str | None] = mapped_column(UntrustedText)
    tries: Mapped[int] = mapped_column(default=0)
    device: Mapped[str | None] = mapped_column(Text)
    accepted_at: Mapped[datetime] = mapped_column(UtcDateTime, index=True)
    begun_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    started_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    heartbeat_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime, index=True)


class EvaluationSampleRow(Table):
    """What a model answered to one sample, and how that was judged."""

    __tablename__ = "evaluation_samples"

    evaluation_id: Mapped[str] = mapped_column(ForeignKey("evaluations.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    sample: Mapped[Any] = mapped_column(JsonText, nullable=True)


class CapabilityRow(Table):
    """Whether this node's gpu workers can score a competition; ``objection`` says why not."""

    __tablename__ = "capabilities"

    competition_id: Mapped[str] = mapped_column(Text, primary_key=True)
    benchmark: Mapped[str | None] = mapped_column(Text)
    objection: Mapped[str | None] = mapped_column(UntrustedText)
    checked_at: Mapped[datetime] = mapped_column(UtcDateTime)
