"""Which competitions this node's gpu workers found that they can score."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.orm import Session

from app.clock import now
from app.store.tables.evaluations import CapabilityRow


@dataclass(frozen=True, slots=True)
class FoundCapability:
    """What a gpu worker found of one competition; ``objection`` None: nothing is missing.

    ``benchmark`` with its parameters, as :attr:`gpu.evaluation.plan.BenchmarkPlan.text` says them.
    """

    competition_id: str
    benchmark: str | None
    objection: str | None
    checked_at: datetime


class Capabilities:
    """Reads and writes what the workers found inside one session; the caller owns the transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def note(self, competition_id: str, benchmark: str | None, objection: str | None) -> None:
        """Keep what was found just now."""
        self._session.merge(
            CapabilityRow(
                competition_id=competition_id,
                benchmark=benchmark,
                objection=None if objection is None else objection[:2000],
                checked_at=now(),
            )
        )

    def get(self, competition_id: str) -> FoundCapability | None:
        """What was found last; None where no worker has looked."""
        row = self._session.get(CapabilityRow, competition_id)
        return (
            None if row is None else FoundCapability(row.competition_id, row.benchmark, row.objection, row.checked_at)
        )
