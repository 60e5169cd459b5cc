"""Miners' reputations and the rounds of weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Select, delete, select, update
from sqlalchemy.orm import Session

from app.clock import now
from app.store.database import insert_ignoring
from app.store.tables.competitions import ReputationRow, ReputationStepRow, WeightRoundRow
from app.store.tables.weights import WeightSubmissionRow
from app.store.weight_submissions import WEIGHTS_OPEN, WeightsState


@dataclass(frozen=True, slots=True)
class ReputationRecord:
    """A hotkey's reputation and when it last moved."""

    hotkey: str
    reputation: float
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class ReputationStep:
    """One daily step and what it was made from."""

    hotkey: str
    competition_id: str
    day: str
    score: float
    baseline: float
    reputation: float


class Reputations:
    """Reads and writes reputations inside one session; the caller owns the transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def all(self) -> dict[str, ReputationRecord]:
        """Known reputations by hotkey."""
        rows = self._session.execute(select(ReputationRow).order_by(ReputationRow.hotkey)).scalars()
        return {row.hotkey: ReputationRecord(row.hotkey, row.reputation, row.updated_at) for row in rows}

    def stepped(self, competition_id: str, day: str) -> set[str]:
        """Hotkeys whose step of this competition and day is done."""
        return set(
            self._session.execute(
                select(ReputationStepRow.hotkey).where(
                    ReputationStepRow.competition_id == competition_id, ReputationStepRow.day == day
                )
            ).scalars()
        )

    def step(self, steps: Iterable[ReputationStep]) -> None:
        """Write new reputations and their history. The history's key (hotkey, competition, day) refuses a second."""
        at = now()
        for step in steps:
            self._session.add(ReputationStepRow(**asdict(step), stepped_at=at))
            self._session.merge(
                ReputationRow(hotkey=step.hotkey, reputation=step.reputation, updated_at=at, registered_at=at)
            )
        self._session.flush()

    def history(self, hotkey: str) -> list[ReputationStep]:
        """A hotkey's steps, oldest first."""
        rows = self._session.execute(
            select(ReputationStepRow).where(ReputationStepRow.hotkey == hotkey).order_by(ReputationStepRow.id)
        ).scalars()
        return [ReputationStep(r.hotkey, r.competition_id, r.day, r.score, r.baseline, r.reputation) for r in rows]

    def note_registered(self, hotkeys: Sequence[str], forget_after: timedelta) -> int:
        """Note who is registered, and forget who has not been for ``forget_after``; how many were forgotten."""
        at = now()
        self._session.execute(
            update(ReputationRow).where(ReputationRow.hotkey.in_(list(hotkeys))).values(registered_at=at)
        )
        gone = list(
            self._session.execute(
                select(ReputationRow.hotkey).where(ReputationRow.registered_at < at - forget_after)
            ).scalars()
        )
        for table in (ReputationRow, ReputationStepRow):
            self._session.execute(delete(table).where(table.hotkey.in_(gone)))
        return len(gone)


@dataclass(frozen=True, slots=True)
class WeightRound:
    """The weights of one 20-minute mark, by UID and by hotkey, how they came, and what became of them.

    ``state``, ``detail`` and ``finished_at`` are the submission's.
    """

    mark: str
    weights: Mapping[int, float]
    by_hotkey: Mapping[str, float]
    pools: Mapping[str, Mapping[str, Sequence[int]]]
    shares: Sequence[Mapping[str, Any]]
    warnings: Sequence[str]
    state: WeightsState = WeightsState.COMPUTED
    detail: str | None = None
    computed_at: datetime | None = None
    finished_at: datetime | None = None

    @property
    def hotkeys(self) -> dict[int, str]:
        """Hotkey by UID as of this round; a UID may have changed hands since."""
        return dict(zip(self.weights, self.by_hotkey, strict=False))


class WeightRounds:
    """Reads and writes the rounds of weights inside one session; the caller owns the transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def at(self, mark: str) -> WeightRound | None:
        """The round of a mark; None where it was not computed yet."""
        return next(iter(self._rounds(_ROUNDS.where(WeightRoundRow.mark == mark))), None)

    def latest(self, limit: int = 1) -> list[WeightRound]:
        """The latest rounds, newest first."""
        return self._rounds(_ROUNDS.order_by(WeightRoundRow.id.desc()).limit(limit))

    def before(self, instant: datetime, limit: int) -> list[WeightRound]:
        """Rounds computed before an instant, newest first."""
        earlier = _ROUNDS.where(WeightRoundRow.computed_at < instant)
        return self._rounds(earlier.order_by(WeightRoundRow.id.desc()).limit(limit))

    def _rounds(self, statement: Select[WeightRoundRow, WeightSubmissionRow]) -> list[WeightRound]:
        return [_round(row, submission) for row, submission in self._session.execute(statement)]

    def previous(self) -> dict[str, float]:
        """The last round's weights by hotkey; empty before the first."""
        latest = self.latest()
        return dict(latest[0].by_hotkey) if latest else {}

    def keep(self, computed: WeightRound) -> None:
        """Write a round, once per mark."""
        insert_ignoring(
            self._session,
            WeightRoundRow,
            [
                {
                    "mark": computed.mark,
                    "weights": {str(uid): weight for uid, weight in computed.weights.items()},
                    "by_hotkey": dict(computed.by_hotkey),
                    "pools": {name: dict(pools) for name, pools in computed.pools.items()},
                    "shares": [dict(share) for share in computed.shares],
                    "warnings": list(computed.warnings),
                    "computed_at": now(),
                }
            ],
        )

    def delete_before(self, instant: datetime, at_most: int) -> int:
        """Remove up to ``at_most`` rounds older than an instant, never the last, which the EMA needs; how many went."""
        last = select(WeightRoundRow.id).order_by(WeightRoundRow.id.desc()).limit(1).scalar_subquery()
        marks = list(
            self._session.execute(
                select(WeightRoundRow.mark)
                .where(WeightRoundRow.computed_at < instant, WeightRoundRow.id != last)
                .limit(at_most)
            ).scalars()
        )
        for table in (WeightSubmissionRow, WeightRoundRow):
            self._session.execute(delete(table).where(table.mark.in_(marks)))
        return len(marks)


# a round without a submission was computed, and nothing else
_ROUNDS: Final = select(WeightRoundRow, WeightSubmissionRow).outerjoin(
    WeightSubmissionRow, WeightSubmissionRow.mark == WeightRoundRow.mark
)


def _round(row: WeightRoundRow, submission: WeightSubmissionRow | None) -> WeightRound:
    state = WeightsState.COMPUTED if submission is None else WeightsState(submission.state)
    return WeightRound(
        mark=row.mark,
        weights={int(uid): weight for uid, weight in (row.weights or {}).items()},
        by_hotkey=row.by_hotkey or {},
        pools=row.pools or {},
        shares=row.shares or [],
        warnings=row.warnings or [],
        state=state,
        detail=None if submission is None else submission.detail,
        computed_at=row.computed_at,
        finished_at=None if submission is None or state in WEIGHTS_OPEN else submission.updated_at,
    )
