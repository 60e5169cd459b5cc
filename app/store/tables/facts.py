"""What an epoch is judged on: its outside facts, and the files among them."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, LargeBinary, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.store.tables.base import Table, UntrustedText, UtcDateTime
from app.store.tables.epochs import EpochRow


class FactRow(Table):
    """One outside fact of an epoch, captured once for all its processes.

    ``state`` says whether ``value`` holds it, or why there is none.
    """

    __tablename__ = "facts"

    epoch_id: Mapped[int] = mapped_column(ForeignKey(EpochRow.id, ondelete="CASCADE"), primary_key=True)
    kind: Mapped[str] = mapped_column(Text, primary_key=True)
    key: Mapped[str] = mapped_column(UntrustedText, primary_key=True)
    state: Mapped[str] = mapped_column(Text)
    value: Mapped[bytes | None] = mapped_column(LargeBinary)
    detail: Mapped[str | None] = mapped_column(UntrustedText)
    captured_at: Mapped[datetime] = mapped_column(UtcDateTime, index=True)


class BlobRow(Table):
    """A part of a file that epochs refer to by its SHA-256; the same file is kept once."""

    __tablename__ = "blobs"

    digest: Mapped[str] = mapped_column(Text, primary_key=True)
    part: Mapped[int] = mapped_column(primary_key=True)
    value: Mapped[bytes] = mapped_column(LargeBinary)
    kept_at: Mapped[datetime] = mapped_column(UtcDateTime)


class SequenceRow(Table):
    """What UniProt answered about a protein; asked once, and kept for all epochs."""

    __tablename__ = "sequences"

    code: Mapped[str] = mapped_column(Text, primary_key=True)
    sequence: Mapped[str] = mapped_column(Text)
    kept_at: Mapped[datetime] = mapped_column(UtcDateTime)
