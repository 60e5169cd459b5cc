"""The tables of the live epochs: what was fetched for them, and what was sent about them."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, LargeBinary, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.store.tables.epochs import StrangersText, Table, UtcDateTime


class FactRow(Table):
    """One outside fact that an epoch was judged on, fetched once for all its processes.

    ``state`` says whether ``value`` holds it, or why there is none.
    """

    __tablename__ = "facts"

    source: Mapped[str] = mapped_column(Text, primary_key=True)
    kind: Mapped[str] = mapped_column(Text, primary_key=True)
    key: Mapped[str] = mapped_column(StrangersText, primary_key=True)
    state: Mapped[str] = mapped_column(Text)
    value: Mapped[bytes | None] = mapped_column(LargeBinary)
    detail: Mapped[str | None] = mapped_column(StrangersText)
    fetched_at: Mapped[datetime] = mapped_column(UtcDateTime, index=True)


class DeliveryRow(Table):
    """One report of an epoch to one destination."""

    __tablename__ = "deliveries"

    epoch_id: Mapped[int] = mapped_column(ForeignKey("epochs.id", ondelete="CASCADE"), primary_key=True)
    destination: Mapped[str] = mapped_column(Text, primary_key=True)
    state: Mapped[str] = mapped_column(Text)
    tries: Mapped[int] = mapped_column(default=0)
    detail: Mapped[str | None] = mapped_column(StrangersText)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime)
