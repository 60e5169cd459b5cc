"""What the pages read of this node's evaluations."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.store.evaluations import EvaluationRecord, Evaluations
from app.store.tables.evaluations import EvaluationRow


class EvaluationViews:
    """Reads evaluations inside one session."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def of_miner(self, hotkey: str, limit: int) -> list[EvaluationRecord]:
        """A miner's latest evaluations on this node, newest first."""
        ids = self._session.execute(
            select(EvaluationRow.id)
            .where(EvaluationRow.hotkey == hotkey)
            .order_by(EvaluationRow.accepted_at.desc(), EvaluationRow.id)
            .limit(limit)
        ).scalars()
        found = [Evaluations(self._session).get(evaluation_id) for evaluation_id in list(ids)]
        return [record for record in found if record is not None]
