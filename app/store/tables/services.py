"""The tables of what outside services last said, for callers that must not wait for them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Text
from sqlalchemy.orm import Mapped, mapped_column

from app.store.tables.base import JsonText, Table, UntrustedText, UtcDateTime


class ServiceStateRow(Table):
    """The last that is known of a service, under a name of ours: ``weights:68``, ``github``."""

    __tablename__ = "service_states"

    name: Mapped[str] = mapped_column(Text, primary_key=True)
    document: Mapped[Any] = mapped_column(JsonText)
    read_at: Mapped[datetime] = mapped_column(UtcDateTime)


class AnswerRow(Table):
    """What was read in a host's answer, and the ETag under which the host knows it."""

    __tablename__ = "answers"

    url: Mapped[str] = mapped_column(UntrustedText, primary_key=True)
    etag: Mapped[str] = mapped_column(UntrustedText)
    value: Mapped[str] = mapped_column(UntrustedText)
    kept_at: Mapped[datetime] = mapped_column(UtcDateTime, index=True)
