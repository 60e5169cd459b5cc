"""What outside services last said, and answers worth keeping."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy.orm import Session

from app.clock import now
from app.store.database import Store, delete_slice
from app.store.tables.services import AnswerRow, ServiceStateRow

# A longer address, tag or answer is not worth its place.
_LONGEST: Final = 1000


@dataclass(frozen=True, slots=True)
class ServiceState:
    """The last that is known of a service; whose reader knows what the document holds."""

    document: Mapping[str, Any]
    read_at: datetime


class ServiceStates:
    """Reads and writes the last state of each service inside one session."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def keep(self, name: str, document: Mapping[str, Any]) -> None:
        """Write a service's state in the place of the former one."""
        self._session.merge(ServiceStateRow(name=name, document=dict(document), read_at=now()))

    def latest(self, name: str) -> ServiceState | None:
        """A service's last state; None where it was never asked."""
        row = self._session.get(ServiceStateRow, name)
        return None if row is None else ServiceState(row.document, row.read_at)


@dataclass(frozen=True, slots=True)
class WatchedBlock:
    """The newest block that this cluster has seen, and when it saw it."""

    number: int
    read_at: datetime


def keep_block(session: Session, netuid: int, block: int) -> None:
    """Write down the newest block, for the pages' header."""
    ServiceStates(session).keep(f"block:{netuid}", {"block": block})


def last_block(session: Session, netuid: int) -> WatchedBlock | None:
    """The newest block that was written down; None where the chain was never watched."""
    state = ServiceStates(session).latest(f"block:{netuid}")
    return None if state is None else WatchedBlock(int(state.document["block"]), state.read_at)


class StoredAnswers:
    """Answers by address, with the ETag that the host gave them, across processes; each call is a transaction."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def recall(self, url: str) -> tuple[str, str] | None:
        """ETag and value of the last answer to a question."""
        with self._store.reading() as session:
            row = session.get(AnswerRow, url)
            return None if row is None else (row.etag, row.value)

    def remember(self, url: str, etag: str, value: str) -> None:
        """Keep an answer in the place of the former one."""
        if max(map(len, (url, etag, value))) > _LONGEST:
            return
        with self._store.writing() as session:
            session.merge(AnswerRow(url=url, etag=etag, value=value, kept_at=now()))


def forget_answers(session: Session, before: datetime, at_most: int) -> int:
    """Delete up to ``at_most`` answers that were kept before an instant; how many."""
    return delete_slice(session, [AnswerRow.url], AnswerRow.kept_at < before, at_most)
