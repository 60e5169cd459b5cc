"""The one weight submission of an epoch: who is at it, what was sent, and what became of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.clock import now
from app.store.database import insert_ignoring
from app.store.tables.epochs import WeightSubmissionRow


class WeightsState(StrEnum):
    """``PENDING`` is the only state that something follows."""

    PENDING = "pending"
    SET = "set"
    RECORDED = "recorded"
    NONE = "none"
    WRITTEN = "written"
    NOT_SET = "not_set"
    ALREADY_SET = "already_set"
    LATE = "late"
    WINNER_LEFT = "winner_left"
    NOT_REGISTERED = "not_registered"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class WeightSubmission:
    """The submission as the store has it. ``sent_at_block`` is set from before the first sending on."""

    state: WeightsState
    vector: Mapping[int, float] | None
    tries: int
    detail: str | None
    updated_at: datetime
    sent_at_block: int | None
    last_update_before: int | None
    extrinsic: str | None
    block_hash: str | None
    failures: tuple[str, ...]


class WeightSubmissions:
    """Reads and writes weight submissions inside one session."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def get(self, epoch_id: int) -> WeightSubmission | None:
        """The epoch's submission, once there is one."""
        row = self._session.get(WeightSubmissionRow, epoch_id)
        if row is None:
            return None
        return WeightSubmission(
            state=WeightsState(row.state),
            vector=None if row.vector is None else {int(uid): share for uid, share in row.vector.items()},
            tries=row.tries,
            detail=row.detail,
            updated_at=row.updated_at,
            sent_at_block=row.sent_at_block,
            last_update_before=row.last_update_before,
            extrinsic=row.extrinsic,
            block_hash=row.block_hash,
            failures=tuple(row.failures or ()),
        )

    def begin(self, epoch_id: int) -> WeightSubmission:
        """The epoch's submission, begun where there is none yet."""
        row = {"epoch_id": epoch_id, "state": WeightsState.PENDING.value, "tries": 0, "updated_at": now()}
        insert_ignoring(self._session, WeightSubmissionRow, [row])
        found = self.get(epoch_id)
        assert found is not None
        return found

    def about_to_send(self, epoch_id: int, vector: Mapping[int, float], block: int, last_update: int) -> None:
        """Write down what the chain says before sending, so that a crash leaves the question answerable."""
        self._update(
            epoch_id,
            vector={str(uid): share for uid, share in vector.items()},
            sent_at_block=block,
            last_update_before=last_update,
            tries=WeightSubmissionRow.tries + 1,
        )

    def failed_try(self, epoch_id: int, sentence: str, *, may_arrive: bool) -> None:
        """Note why a try came to nothing; forget that it was sent unless it may still arrive."""
        row = self._session.get(WeightSubmissionRow, epoch_id)
        failures = [*((row.failures or []) if row else []), sentence[:500]]
        self._update(epoch_id, failures=failures, **({} if may_arrive else {"sent_at_block": None}))

    def settle(
        self,
        epoch_id: int,
        state: WeightsState,
        detail: str,
        vector: Mapping[int, float] | None,
        extrinsic: str | None = None,
        block_hash: str | None = None,
    ) -> None:
        """Write the outcome; nothing follows it."""
        self._update(
            epoch_id,
            state=state.value,
            detail=detail,
            vector=None if vector is None else {str(uid): share for uid, share in vector.items()},
            extrinsic=extrinsic,
            block_hash=block_hash,
        )

    def _update(self, epoch_id: int, **values: Any) -> None:
        self._session.execute(
            update(WeightSubmissionRow)
            .where(WeightSubmissionRow.epoch_id == epoch_id)
            .values(updated_at=now(), **values)
            .execution_options(synchronize_session=False)
        )


def states_of(session: Session, epoch_ids: list[int]) -> dict[int, WeightsState]:
    """How each epoch's weights ended, for a list of epochs."""
    rows = session.execute(
        select(WeightSubmissionRow.epoch_id, WeightSubmissionRow.state).where(
            WeightSubmissionRow.epoch_id.in_(epoch_ids)
        )
    )
    return {epoch_id: WeightsState(state) for epoch_id, state in rows}
