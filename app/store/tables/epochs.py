"""The store's tables. The database is the truth; Celery only moves the work."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, LargeBinary, Text, UniqueConstraint, false
from sqlalchemy.orm import Mapped, mapped_column

from app.store.tables.base import JsonText, PackedJson, Table, UntrustedText, UtcDateTime


class Worked:
    """A part of an epoch that a task worked on: which process, and when."""

    worker: Mapped[str | None] = mapped_column(Text)
    began_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class EpochRow(Table):
    """One run of one epoch: live (``run`` is netuid, end block and hash) or a replay (``run`` is its own).

    ``publishes``: its weights go to the chain and its reports to the configured receivers; a replay's do not.
    """

    __tablename__ = "epochs"

    id: Mapped[int] = mapped_column(primary_key=True)
    run: Mapped[str] = mapped_column(Text, unique=True)
    cluster: Mapped[str] = mapped_column(Text)
    netuid: Mapped[int]
    number: Mapped[int]
    scores: Mapped[str] = mapped_column(Text)
    publishes: Mapped[bool] = mapped_column(default=False, server_default=false())
    without_boltz: Mapped[bool] = mapped_column(default=False, server_default=false())
    stage: Mapped[str] = mapped_column(Text, index=True)
    stage_times: Mapped[Any] = mapped_column(JsonText, nullable=True)
    error: Mapped[str | None] = mapped_column(UntrustedText)
    header: Mapped[Any] = mapped_column(JsonText, nullable=True)
    neurons: Mapped[Any] = mapped_column(JsonText, nullable=True)
    rules: Mapped[str | None] = mapped_column(UntrustedText)
    rules_sha256: Mapped[str | None] = mapped_column(Text)
    era: Mapped[str | None] = mapped_column(Text)
    parameters: Mapped[Any] = mapped_column(JsonText, nullable=True)
    challenge: Mapped[Any] = mapped_column(JsonText, nullable=True)
    sequences: Mapped[Any] = mapped_column(JsonText, nullable=True)
    psichic_winner: Mapped[int | None]
    boltz_winner: Mapped[int | None]
    winners: Mapped[Any] = mapped_column(JsonText, nullable=True)
    unjudged: Mapped[Any] = mapped_column(JsonText, nullable=True)
    weights: Mapped[Any] = mapped_column(JsonText, nullable=True)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    touched_at: Mapped[datetime] = mapped_column(UtcDateTime)
    closed_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class SubmissionRow(Worked, Table):
    """One commitment in the epoch's window, and what became of it."""

    __tablename__ = "submissions"
    # a miner's page looks for a hotkey over all epochs
    __table_args__ = (UniqueConstraint("epoch_id", "uid"), Index("ix_submissions_hotkey", "hotkey", "epoch_id"))

    id: Mapped[int] = mapped_column(primary_key=True)
    epoch_id: Mapped[int] = mapped_column(ForeignKey("epochs.id", ondelete="CASCADE"))
    uid: Mapped[int]
    hotkey: Mapped[str] = mapped_column(UntrustedText)
    block: Mapped[int]
    path: Mapped[str] = mapped_column(UntrustedText)
    state: Mapped[str] = mapped_column(Text, default="pending")
    push_time: Mapped[str] = mapped_column(UntrustedText, default="")
    code: Mapped[str | None] = mapped_column(Text)
    message: Mapped[str | None] = mapped_column(UntrustedText)
    molecule: Mapped[str | None] = mapped_column(UntrustedText)
    molecule_index: Mapped[int | None]
    molecule_smiles: Mapped[str | None] = mapped_column(UntrustedText)
    entropy: Mapped[float | None]
    molecules: Mapped[Any] = mapped_column(PackedJson, nullable=True)
    scored: Mapped[Any] = mapped_column(PackedJson, nullable=True)
    psichic_score: Mapped[float | None]
    boltz_score: Mapped[float | None]
    entropy_boltz: Mapped[float | None]
    psichic_rank: Mapped[int | None]
    boltz_rank: Mapped[int | None]
    tracks: Mapped[Any] = mapped_column(JsonText, nullable=True)
    standings: Mapped[Any] = mapped_column(JsonText, nullable=True)


class BatchRow(Worked, Table):
    """Up to 32 unique SMILES that one GPU task scores."""

    __tablename__ = "batches"
    __table_args__ = (UniqueConstraint("epoch_id", "model", "number"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    epoch_id: Mapped[int] = mapped_column(ForeignKey("epochs.id", ondelete="CASCADE"))
    model: Mapped[str] = mapped_column(Text)
    number: Mapped[int]
    smiles: Mapped[Any] = mapped_column(PackedJson, nullable=True)
    state: Mapped[str] = mapped_column(Text, default="pending")
    model_digest: Mapped[str | None] = mapped_column(Text)
    begun_alone: Mapped[int | None]


class WarningRow(Table):
    """A sentence for the epoch's report; the same sentence once."""

    __tablename__ = "warnings"

    epoch_id: Mapped[int] = mapped_column(ForeignKey("epochs.id", ondelete="CASCADE"), primary_key=True)
    text: Mapped[str] = mapped_column(UntrustedText, primary_key=True)


class PanelRow(Table):
    """What scores are kept under: one model, and the proteins that it was asked about together.

    ``digest`` is SHA-256 over both; ``proteins`` are the proteins' own digests, in the order of every row of scores.
    """

    __tablename__ = "panels"

    id: Mapped[int] = mapped_column(primary_key=True)
    digest: Mapped[str] = mapped_column(Text, unique=True)
    model_digest: Mapped[str] = mapped_column(Text, index=True)
    proteins: Mapped[Any] = mapped_column(JsonText)
    used_at: Mapped[datetime] = mapped_column(UtcDateTime)


class ScoreRow(Table):
    """What a model computed for one molecule against a panel, kept for every epoch that asks again.

    ``molecule`` is the first 16 bytes of the SMILES' BLAKE2b: the text stands with the submission, not here.
    ``numbers`` are float64 (little endian), proteins outermost, the metrics of ``metrics`` within; NaN where there is
    none. ``errors`` maps the index of a protein to the reason why the pair has no score.
    """

    __tablename__ = "molecule_scores"
    __table_args__ = ({"sqlite_with_rowid": False},)

    panel_id: Mapped[int] = mapped_column(ForeignKey("panels.id", ondelete="CASCADE"), primary_key=True)
    molecule: Mapped[bytes] = mapped_column(LargeBinary(16), primary_key=True)
    numbers: Mapped[bytes] = mapped_column(LargeBinary)
    metrics: Mapped[str] = mapped_column(Text)
    errors: Mapped[Any] = mapped_column(JsonText, nullable=True)
