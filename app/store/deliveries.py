"""Reports sent to other hosts: which were announced, and which arrived."""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from typing import Final

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.clock import now
from app.store.database import insert_ignoring
from app.store.tables.epochs import EpochRow
from app.store.tables.live import DeliveryRow

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

    def begin(self, epoch_id: int, destination: Destination) -> int | None:
        """Count a try; how many there were with it, or None where the delivery is settled."""
        self.announce(epoch_id, destination)
        row = self._session.execute(
            select(DeliveryRow)
            .where(DeliveryRow.epoch_id == epoch_id, DeliveryRow.destination == destination.value)
            .with_for_update()
        ).scalar_one()
        if row.state != _PENDING:
            return None
        row.tries += 1
        row.updated_at = now()
        self._session.flush()
        return row.tries

    def note(self, epoch_id: int, destination: Destination, fault: str | None, *, final: bool) -> None:
        """Write how a try ended."""
        state = _SENT if fault is None else _FAILED if final else _PENDING
        self._update(epoch_id, destination, state=state, detail=fault)

    def touch(self, epoch_id: int, destination: Destination) -> None:
        """Note that somebody is at it."""
        self._update(epoch_id, destination)

    def pending_before(self, cluster: str, untried: timedelta, tried: timedelta) -> list[tuple[int, Destination]]:
        """A cluster's deliveries that nobody touched for so long: those that were never tried, and those that were."""
        at = now()
        rows = self._session.execute(
            select(DeliveryRow.epoch_id, DeliveryRow.destination)
            .join(EpochRow, EpochRow.id == DeliveryRow.epoch_id)
            .where(
                EpochRow.cluster == cluster,
                DeliveryRow.state == _PENDING,
                (DeliveryRow.updated_at < at - tried)
                | ((DeliveryRow.tries == 0) & (DeliveryRow.updated_at < at - untried)),
            )
            .order_by(DeliveryRow.epoch_id, DeliveryRow.destination)
        )
        return [(epoch_id, Destination(destination)) for epoch_id, destination in rows]

    def state(self, epoch_id: int, destination: Destination) -> tuple[str, str | None] | None:
        """State and last fault of a delivery."""
        row = self._session.get(DeliveryRow, (epoch_id, destination.value))
        return None if row is None else (row.state, row.detail)

    def _update(self, epoch_id: int, destination: Destination, **values: object) -> None:
        self._session.execute(
            update(DeliveryRow)
            .where(DeliveryRow.epoch_id == epoch_id, DeliveryRow.destination == destination.value)
            .values(updated_at=now(), **values)
            .execution_options(synchronize_session=False)
        )
