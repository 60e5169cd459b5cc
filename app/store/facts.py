"""Outside facts of live epochs: fetched once, read by every process, kept for the recorder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, cast

from sqlalchemy import CursorResult, delete, select, tuple_
from sqlalchemy.orm import Session

from app.clock import now
from app.store.database import insert_ignoring
from app.store.tables.live import FactRow


class FactKind(StrEnum):
    """What a fact is about; the key is a GitHub path, a drand round, an entry or a dataset."""

    CONTENT = "content"
    PUSH_TIME = "push_time"
    SIGNATURE = "signature"
    SEQUENCE = "sequence"
    REVISION = "revision"
    ARCHIVE = "archive"
    WARNING = "warning"


class FactState(StrEnum):
    """Whether the fact is had, or why not for good."""

    HELD = "held"
    ABSENT = "absent"
    TOO_LARGE = "too_large"
    NOT_REACHED = "not_reached"
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True, slots=True)
class Fact:
    """A fact's state, its bytes where it is held, and a sentence where it is not."""

    state: FactState
    value: bytes | None = None
    detail: str | None = None


class Facts:
    """Reads and writes facts inside one session. ``source`` is the epoch's reference (``live:68:…``)."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def get(self, source: str, kind: FactKind, key: str) -> Fact | None:
        """One fact, if it was fetched."""
        return self.all(source, kind, key).get(key)

    def all(self, source: str, kind: FactKind, key: str | None = None) -> dict[str, Fact]:
        """The facts of a kind, by key."""
        query = select(FactRow).where(FactRow.source == source, FactRow.kind == kind.value)
        if key is not None:
            query = query.where(FactRow.key == key)
        rows = self._session.execute(query).scalars()
        return {row.key: Fact(FactState(row.state), row.value, row.detail) for row in rows}

    def keep(self, source: str, kind: FactKind, facts: Mapping[str, Fact]) -> None:
        """Write facts; one that is there already stays as it is."""
        at = now()
        insert_ignoring(
            self._session,
            FactRow,
            [
                {
                    "source": source,
                    "kind": kind.value,
                    "key": key,
                    "state": fact.state.value,
                    "value": fact.value,
                    "detail": fact.detail,
                    "fetched_at": at,
                }
                for key, fact in facts.items()
            ],
        )

    def delete_before(self, instant: datetime, at_most: int) -> int:
        """Forget up to ``at_most`` facts fetched before ``instant``; sequences stay for good. How many went."""
        columns = (FactRow.source, FactRow.kind, FactRow.key)
        old = (
            select(*columns).where(FactRow.fetched_at < instant, FactRow.kind != FactKind.SEQUENCE.value).limit(at_most)
        )
        result = self._session.execute(
            delete(FactRow).where(tuple_(*columns).in_(old)).execution_options(synchronize_session=False)
        )
        return cast(CursorResult[Any], result).rowcount
