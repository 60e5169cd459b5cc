"""The table of weight submissions, of both subnets."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.store.tables.base import JsonText, Table, UntrustedText, UtcDateTime
from app.store.tables.epochs import EpochRow


class WeightSubmissionRow(Table):
    """The one weight submission of an epoch (``epoch_id``) or of a round of the model competitions (``mark``).

    ``sent`` (the vector in u16), ``sent_at_block``, ``last_update_before`` and ``reveal_round`` are written before
    anything is sent, so that after a crash the next process can read from the chain whether it arrived. ``failures``
    is a list of sentences, one per try; ``refused_with`` the parameters behind a refusal that waiting does not cure.
    """

    __tablename__ = "weight_submissions"

    id: Mapped[int] = mapped_column(primary_key=True)
    netuid: Mapped[int]
    epoch_id: Mapped[int | None] = mapped_column(ForeignKey(EpochRow.id, ondelete="CASCADE"), unique=True)
    mark: Mapped[str | None] = mapped_column(Text, unique=True)
    state: Mapped[str] = mapped_column(Text, index=True)
    vector: Mapped[Any] = mapped_column(JsonText, nullable=True)
    sent: Mapped[Any] = mapped_column(JsonText, nullable=True)
    tries: Mapped[int] = mapped_column(default=0)
    detail: Mapped[str | None] = mapped_column(UntrustedText)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime)
    sent_at_block: Mapped[int | None]
    last_update_before: Mapped[int | None]
    reveal_round: Mapped[int | None]
    extrinsic: Mapped[str | None] = mapped_column(Text)
    block_hash: Mapped[str | None] = mapped_column(Text)
    failures: Mapped[Any] = mapped_column(JsonText, nullable=True)
    refused_with: Mapped[Any] = mapped_column(JsonText, nullable=True)
