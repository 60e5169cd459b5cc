"""The one weight submission of an epoch or of a round: what was sent and what became of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from app.clock import now
from app.store.database import insert_ignoring
from app.store.tables.epochs import EpochRow
from app.store.tables.weights import WeightSubmissionRow


class WeightsState(StrEnum):
    """How far a weight submission is.

    ``COMPUTED`` and ``SENT`` (handed to a node, fate unknown) go on by themselves. ``INCLUDED``: the commit is in a
    block, its reveal awaited. ``SET`` (plain) and ``REVEALED``: the chain shows this very vector. ``SUPERSEDED``: it
    shows a later one of ours, revealed together with it. ``UNREVEALED``: the reveal did not happen. ``REFUSED``:
    waiting would not help; the detail says what would.
    """

    COMPUTED = "computed"
    SENT = "sent"
    INCLUDED = "included"
    SET = "set"
    REVEALED = "revealed"
    SUPERSEDED = "superseded"
    UNREVEALED = "unrevealed"
    RECORDED = "recorded"
    NONE = "none"
    WRITTEN = "written"
    NOT_SET = "not_set"
    ALREADY_SET = "already_set"
    LATE = "late"
    WINNER_LEFT = "winner_left"
    NOT_REGISTERED = "not_registered"
    REFUSED = "refused"
    FAILED = "failed"


# Nothing has come of it yet.
WEIGHTS_OPEN: Final = frozenset({WeightsState.COMPUTED, WeightsState.SENT})

# Somebody must act: weights are missing, or will be.
WEIGHTS_TROUBLE: Final = frozenset(
    {
        WeightsState.UNREVEALED,
        WeightsState.LATE,
        WeightsState.WINNER_LEFT,
        WeightsState.NOT_REGISTERED,
        WeightsState.REFUSED,
        WeightsState.FAILED,
    }
)

# Nobody has to: the chain shows the weights, or they were meant not to be set. A replay's are neither.
WEIGHTS_FINE: Final = frozenset(
    {
        WeightsState.SET,
        WeightsState.REVEALED,
        WeightsState.SUPERSEDED,
        WeightsState.ALREADY_SET,
        WeightsState.NONE,
        WeightsState.WRITTEN,
        WeightsState.NOT_SET,
    }
)


@dataclass(frozen=True, slots=True)
class WeightSubmission:
    """The submission as the store has it. ``sent_at_block`` is set from before the first sending on.

    ``vector`` holds shares by UID, ``sent`` the same as the chain will show it, in u16.
    """

    id: int
    netuid: int
    epoch_id: int | None
    mark: str | None
    state: WeightsState
    vector: Mapping[int, float] | None
    sent: Mapping[int, int] | None
    tries: int
    detail: str | None
    created_at: datetime
    updated_at: datetime
    sent_at_block: int | None
    last_update_before: int | None
    reveal_round: int | None
    extrinsic: str | None
    block_hash: str | None
    failures: tuple[str, ...]
    refused_with: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class LastWeights:
    """The newest submission that was meant for the chain; ``on_chain_at``: when one was last shown by the chain."""

    of: str
    state: WeightsState
    detail: str | None
    updated_at: datetime
    on_chain_at: datetime | None


# The chain shows these very weights, or later ones of ours.
_ON_CHAIN: Final = (WeightsState.SET, WeightsState.REVEALED, WeightsState.SUPERSEDED)


class WeightSubmissions:
    """Reads and writes weight submissions inside one session."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def get(self, epoch_id: int) -> WeightSubmission | None:
        """The epoch's submission, once there is one."""
        return self._one(WeightSubmissionRow.epoch_id == epoch_id)

    def at(self, mark: str) -> WeightSubmission | None:
        """The submission of a mark's round, once there is one."""
        return self._one(WeightSubmissionRow.mark == mark)

    def last(self, netuid: int) -> LastWeights | None:
        """How the newest weights of a subnet stand, replays left out. One query."""
        row = WeightSubmissionRow
        ours = (row.netuid == netuid) & (row.mark.is_not(None) | EpochRow.publishes)
        joined = row.epoch_id == EpochRow.id
        on_chain = (
            select(func.max(row.updated_at))
            .outerjoin(EpochRow, joined)
            .where(ours, row.state.in_([state.value for state in _ON_CHAIN]))
            .correlate(None)
            .scalar_subquery()
        )
        found = self._session.execute(
            select(EpochRow.number, row.mark, row.state, row.detail, row.updated_at, on_chain)
            .outerjoin(EpochRow, joined)
            .where(ours)
            .order_by(row.id.desc())
            .limit(1)
        ).one_or_none()
        if found is None:
            return None
        number, mark, state, detail, updated_at, shown = found
        of = f"epoch {number}" if mark is None else f"round {mark}"
        return LastWeights(of, WeightsState(state), detail, updated_at, shown)

    def last_round(self) -> datetime | None:
        """When the weights of a mark were last begun; None where they never were."""
        row = WeightSubmissionRow
        return self._session.execute(select(func.max(row.created_at)).where(row.mark.is_not(None))).scalar()

    def by_id(self, submission_id: int) -> WeightSubmission | None:
        """A submission of either subnet; None where it was deleted."""
        return self._one(WeightSubmissionRow.id == submission_id)

    def begin(self, netuid: int, *, epoch_id: int | None = None, mark: str | None = None) -> WeightSubmission:
        """The submission of an epoch or a mark, begun where there is none yet."""
        at = now()
        row = {"netuid": netuid, "epoch_id": epoch_id, "mark": mark, "state": WeightsState.COMPUTED.value, "tries": 0}
        insert_ignoring(self._session, WeightSubmissionRow, [row | {"created_at": at, "updated_at": at}])
        found = self.get(epoch_id) if epoch_id is not None else self.at(mark or "")
        assert found is not None
        return found

    def about_to_send(
        self,
        submission_id: int,
        vector: Mapping[int, float],
        sent: Mapping[int, int],
        *,
        block: int,
        last_update: int,
        reveal_round: int | None,
    ) -> None:
        """Write down what the chain says before sending, so that a crash leaves the question answerable.

        ``block`` is the newest one, ``last_update`` the one at which the hotkey last set weights (0: never).
        """
        self._update(
            submission_id,
            state=WeightsState.SENT.value,
            vector=_json(vector),
            sent=_json(sent),
            sent_at_block=block,
            last_update_before=last_update,
            reveal_round=reveal_round,
            tries=WeightSubmissionRow.tries + 1,
        )

    def waits(self, submission_id: int, state: WeightsState, sentence: str | None) -> None:
        """Note that nothing is settled yet, and why a try came to nothing where there was one.

        ``state`` is ``COMPUTED`` where nothing of it can arrive any more.
        """
        row = self._session.get(WeightSubmissionRow, submission_id)
        failures = list((row.failures or []) if row else [])
        if sentence is not None:
            failures.append(sentence[:500])
        self._update(submission_id, failures=failures, state=state.value)

    def settle(
        self,
        submission_id: int,
        state: WeightsState,
        detail: str,
        *,
        vector: Mapping[int, float] | None = None,
        extrinsic: str | None = None,
        block_hash: str | None = None,
        refused_with: Mapping[str, Any] | None = None,
    ) -> None:
        """Write the outcome. What is not given stays as it is."""
        given = {
            "vector": None if vector is None else _json(vector),
            "extrinsic": extrinsic,
            "block_hash": block_hash,
            "refused_with": None if refused_with is None else dict(refused_with),
        }
        kept = {name: value for name, value in given.items() if value is not None}
        self._update(submission_id, state=state.value, detail=detail[:2000], **kept)

    def reopen(self, submission_id: int) -> None:
        """Begin a refused submission again, with all its tries."""
        self._update(submission_id, state=WeightsState.COMPUTED.value, tries=0, refused_with=None)

    def later_than(self, submission: WeightSubmission) -> list[WeightSubmission]:
        """The submissions of the same subnet that were sent after this one; newest first."""
        rows = self._session.execute(
            select(WeightSubmissionRow)
            .where(
                WeightSubmissionRow.netuid == submission.netuid,
                WeightSubmissionRow.id > submission.id,
                WeightSubmissionRow.sent_at_block.is_not(None),
            )
            .order_by(WeightSubmissionRow.id.desc())
            .limit(20)
        ).scalars()
        return [_submission(row) for row in rows]

    def _one(self, condition: Any) -> WeightSubmission | None:
        row = self._session.execute(select(WeightSubmissionRow).where(condition)).scalar_one_or_none()
        return None if row is None else _submission(row)

    def _update(self, submission_id: int, **values: Any) -> None:
        self._session.execute(
            update(WeightSubmissionRow)
            .where(WeightSubmissionRow.id == submission_id)
            .values(updated_at=now(), **values)
            .execution_options(synchronize_session=False)
        )


def states_of(session: Session, epoch_ids: Sequence[int]) -> dict[int, WeightsState]:
    """How each epoch's weights ended, for a list of epochs."""
    rows = session.execute(
        select(WeightSubmissionRow.epoch_id, WeightSubmissionRow.state).where(
            WeightSubmissionRow.epoch_id.in_(epoch_ids)
        )
    )
    return {epoch_id: WeightsState(state) for epoch_id, state in rows if epoch_id is not None}


def _json(vector: Mapping[int, Any]) -> dict[str, Any]:
    return {str(uid): value for uid, value in vector.items()}


def _vector(stored: Mapping[str, Any] | None) -> dict[int, Any] | None:
    return None if stored is None else {int(uid): value for uid, value in stored.items()}


def _submission(row: WeightSubmissionRow) -> WeightSubmission:
    return WeightSubmission(
        id=row.id,
        netuid=row.netuid,
        epoch_id=row.epoch_id,
        mark=row.mark,
        state=WeightsState(row.state),
        vector=_vector(row.vector),
        sent=_vector(row.sent),
        tries=row.tries,
        detail=row.detail,
        created_at=row.created_at,
        updated_at=row.updated_at,
        sent_at_block=row.sent_at_block,
        last_update_before=row.last_update_before,
        reveal_round=row.reveal_round,
        extrinsic=row.extrinsic,
        block_hash=row.block_hash,
        failures=tuple(row.failures or ()),
        refused_with=row.refused_with,
    )
