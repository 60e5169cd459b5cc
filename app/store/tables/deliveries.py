"""What was sent about an epoch, and to whom."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.store.tables.base import Table, UntrustedText, UtcDateTime
from app.store.tables.epochs import EpochRow


class DeliveryRow(Table):
    """One report of an epoch to one destination."""

    __tablename__ = "deliveries"

    epoch_id: Mapped[int] = mapped_column(ForeignKey(EpochRow.id, ondelete="CASCADE"), primary_key=True)
    destination: Mapped[str] = mapped_column(Text, primary_key=True)
    state: Mapped[str] = mapped_column(Text)
    tries: Mapped[int] = mapped_column(default=0)
    detail: Mapped[str | None] = mapped_column(UntrustedText)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime)
