"""What all processes of the API must remember of their callers: used signatures and request counts."""

from __future__ import annotations

from datetime import datetime
from typing import Any, cast

from sqlalchemy import CursorResult, delete
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from app.clock import now
from app.store.tables.competitions import RequestCountRow, UsedSignatureRow

_SECONDS_A_MINUTE = 60


class Callers:
    """Reads and writes inside one session; the caller owns the transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._dialect: Any = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite

    def use_signature(self, digest: str, expires_at: datetime) -> bool:
        """Mark a signature used; False where it was used before."""
        inserted = self._session.execute(
            self._dialect.insert(UsedSignatureRow)
            .values(digest=digest, expires_at=expires_at)
            .on_conflict_do_nothing()
            .returning(UsedSignatureRow.digest)
        )
        return inserted.scalar_one_or_none() is not None

    def count_request(self, hotkey: str) -> int:
        """Count one request of a hotkey; how many it made in this minute."""
        minute = int(now().timestamp()) // _SECONDS_A_MINUTE
        statement = (
            self._dialect.insert(RequestCountRow)
            .values(hotkey=hotkey, minute=minute, requests=1)
            .on_conflict_do_update(index_elements=["hotkey", "minute"], set_={"requests": RequestCountRow.requests + 1})
            .returning(RequestCountRow.requests)
        )
        return int(self._session.execute(statement).scalar_one())

    def forget_old(self) -> int:
        """Remove what no longer matters: expired signatures and past minutes; how many rows."""
        at = now()
        this_minute = int(at.timestamp()) // _SECONDS_A_MINUTE
        gone = 0
        for statement in (
            delete(UsedSignatureRow).where(UsedSignatureRow.expires_at < at),
            delete(RequestCountRow).where(RequestCountRow.minute < this_minute),
        ):
            gone += cast(CursorResult[Any], self._session.execute(statement)).rowcount
        return gone
