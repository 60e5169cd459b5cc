"""Reports sent to other hosts: which were announced, and which arrived."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from sqlalchemy import update
from sqlalchemy.orm import Session

from app.clock import now
from app.store.database import insert_ignoring
from app.store.tables.deliveries import DeliveryRow

_PENDING: Final = "pending"
_SENT: Final = "sent"
_FAILED: Final = "failed"


class Destination(StrEnum):
    """Who is told."""

    RESULTS = "results"
    MONITORING = "monitoring"


class Deliveries:
    """Reads and writes deliveries inside one session."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def announce(self, epoch_id: int, destination: Destination) -> None:
        """Make a delivery known, once."""
        row = {
            "epoch_id": epoch_id,
            "destination": destination.value,
            "state": _PENDING,
            "tries": 0,
            "updated_at": now(),
        }
        insert_ignoring(self._session, DeliveryRow, [row])

    def note(self, epoch_id: int, destination: Destination, fault: str | None, tries: int, *, final: bool) -> None:
        """Write how a try ended; ``final``: no other follows."""
        state = _SENT if fault is None else _FAILED if final else _PENDING
        self._session.execute(
            update(DeliveryRow)
            .where(DeliveryRow.epoch_id == epoch_id, DeliveryRow.destination == destination.value)
            .values(state=state, detail=fault, tries=tries, updated_at=now())
        )

    def state(self, epoch_id: int, destination: Destination) -> tuple[str, str | None] | None:
        """State and last fault of a delivery."""
        row = self._session.get(DeliveryRow, (epoch_id, destination.value))
        return None if row is None else (row.state, row.detail)
