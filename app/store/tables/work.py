"""Work that is not finished: which task does it, and who is at it."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, Index, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.store.tables.base import Table, UtcDateTime
from app.store.tables.epochs import EpochRow


class WorkRow(Table):
    """One piece of work: a task and its arguments. It leaves the table in the transaction that finishes it.

    ``part_of`` names the piece's group; the piece whose ``waits_for`` is that name may begin once the group is empty.
    ``claim`` is the id of the task at work, ``holder`` its process, or of a piece that was put off the task that comes
    back for it. A claim counts until ``held_until``. ``moved_at`` is when the piece was last sent, and for a piece that
    waits, when its group last moved. ``failures`` counts the attempts that ended in an exception.
    """

    __tablename__ = "work"
    __table_args__ = (
        UniqueConstraint("task", "args"),
        Index("ix_work_part_of", "part_of"),
        Index("ix_work_waits_for", "waits_for"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    cluster: Mapped[str] = mapped_column(Text)
    task: Mapped[str] = mapped_column(Text)
    args: Mapped[str] = mapped_column(Text)
    epoch_id: Mapped[int | None] = mapped_column(ForeignKey(EpochRow.id, ondelete="CASCADE"), index=True)
    part_of: Mapped[str | None] = mapped_column(Text)
    waits_for: Mapped[str | None] = mapped_column(Text)
    due_at: Mapped[datetime] = mapped_column(UtcDateTime)
    moved_at: Mapped[datetime] = mapped_column(UtcDateTime)
    claim: Mapped[str | None] = mapped_column(Text)
    holder: Mapped[str | None] = mapped_column(Text)
    claimed_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    held_until: Mapped[datetime | None] = mapped_column(UtcDateTime)
    attempts: Mapped[int] = mapped_column(default=0)
    failures: Mapped[int] = mapped_column(default=0, server_default="0")
