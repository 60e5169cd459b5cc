"""Models' evaluations on this node: accepted, tried, ended."""

from __future__ import annotations

import math
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final, cast

from sqlalchemy import CursorResult, delete, select
from sqlalchemy.orm import Session

from app.clock import now
from app.store.database import insert_ignoring
from app.store.scorings import ScoringEnd, Scorings
from app.store.tables.evaluations import EvaluationRow, EvaluationSampleRow

# An evaluation that ended its process, or could not be done, this often is given up: no score.
MOST_TRIES: Final = 5

_LONGEST_ERROR: Final = 2000

# How long a message may be on its way before it counts as lost; doubles with each one that is sent.
_ON_ITS_WAY: Final = timedelta(seconds=60)
_MOST_DOUBLINGS: Final = 5


class EvaluationPhase(StrEnum):
    """How far an evaluation is. ``waiting``: no try is at work; ``released``: given up unscored, the fault is ours."""

    WAITING = "waiting"
    SCORING = "scoring"
    COMPLETED = "completed"
    FAILED = "failed"
    TIMEOUT = "timeout"
    RELEASED = "released"


class ClaimResult(StrEnum):
    """Whether a delivery may work on an evaluation: ``busy``, another one does; ``over``, it has ended."""

    CLAIMED = "claimed"
    BUSY = "busy"
    OVER = "over"


@dataclass(frozen=True, slots=True)
class EvaluationInputs:
    """What was asked for, in the scoring API's words."""

    hf_repo_id: str
    competition_id: str
    hotkey: str
    block: int


@dataclass(frozen=True, slots=True)
class EvaluationTry:
    """One worker's try at an evaluation. Whatever it writes counts only as long as it is the latest."""

    evaluation_id: str
    number: int

    @property
    def name(self) -> str:
        """What everything that this try makes on its node is named after."""
        return f"{self.evaluation_id}-{self.number}"


@dataclass(frozen=True, slots=True)
class EvaluationRecord:
    """One evaluation as the store knows it."""

    id: str
    inputs: EvaluationInputs
    revision: str | None
    slot: str | None
    phase: EvaluationPhase
    score: float | None
    metric_scores: Mapping[str, Any] | None
    error: str | None
    tries: int
    holder: str | None
    device: str | None
    accepted_at: datetime
    begun_at: datetime | None
    started_at: datetime | None
    heartbeat_at: datetime | None
    finished_at: datetime | None

    def deadline(self, limit: timedelta) -> datetime:
        """When it must be over: the limit counts from the first try's beginning, or else from the acceptance."""
        return (self.begun_at or self.accepted_at) + limit


@dataclass(frozen=True, slots=True)
class EvaluationEnd:
    """How an evaluation ended. ``score`` is None where nobody is to get one."""

    phase: EvaluationPhase
    score: float | None
    error: str | None = None
    metric_scores: Mapping[str, Any] | None = None
    samples: Sequence[Mapping[str, Any]] = ()


class Evaluations:
    """Reads and writes evaluations inside one session; the caller owns the transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session

    # -- asking -------------------------------------------------------------------------------------------------------

    def get(self, evaluation_id: str) -> EvaluationRecord | None:
        """One evaluation; None where it is gone."""
        row = self._session.get(EvaluationRow, evaluation_id)
        return None if row is None else _record(row)

    def latest(self) -> EvaluationRecord | None:
        """The evaluation that was accepted last."""
        return next(iter(self.recent(1)), None)

    def recent(self, limit: int = 20) -> list[EvaluationRecord]:
        """The latest evaluations, newest first."""
        rows = self._session.execute(
            select(EvaluationRow).order_by(EvaluationRow.accepted_at.desc(), EvaluationRow.id).limit(limit)
        ).scalars()
        return [_record(row) for row in rows]

    def in_slots(self, slots: Collection[str]) -> list[EvaluationRecord]:
        """The unfinished evaluations that take these slots, the oldest first."""
        rows = self._session.execute(
            select(EvaluationRow).where(EvaluationRow.slot.in_(list(slots))).order_by(EvaluationRow.accepted_at)
        ).scalars()
        return [_record(row) for row in rows]

    def samples(self, evaluation_id: str) -> list[Any]:
        """What was kept of each sample, in the benchmark's order."""
        return list(
            self._session.execute(
                select(EvaluationSampleRow.sample)
                .where(EvaluationSampleRow.evaluation_id == evaluation_id)
                .order_by(EvaluationSampleRow.number)
            ).scalars()
        )

    # -- from acceptance to end -----------------------------------------------------------------------------------

    def accept(
        self,
        inputs: EvaluationInputs,
        slots: Sequence[str],
        evaluation_id: str | None = None,
        scoring_id: int | None = None,
    ) -> str | None:
        """Give an evaluation the first free slot; its id, or None where every slot is taken.

        ``scoring_id`` is our own scoring that it is for, which ends with it.

        Without slots to choose from it takes none: a message that came on its own, of which the store knew nothing.
        """
        identity, at = evaluation_id or str(uuid.uuid4()), now()
        # the sender's own message is on its way from now on; were it lost, the reconciler sends another
        values = {
            "id": identity,
            **asdict(inputs),
            "scoring_id": scoring_id,
            "state": EvaluationPhase.WAITING.value,
            "tries": 0,
            "accepted_at": at,
            "due_at": at,
            "sent_at": at,
            "sends": 1,
        }
        for slot in slots or (None,):
            insert_ignoring(self._session, EvaluationRow, [values | {"slot": slot}])
            if self._session.execute(select(EvaluationRow.id).where(EvaluationRow.id == identity)).scalar():
                return identity
        return None

    def claim(self, evaluation_id: str, holder: str, device: str, silence: timedelta) -> ClaimResult:
        """Begin the next try, unless one is at work that was heard of within ``silence``, or all is over."""
        row = self._locked(evaluation_id)
        if row is None or row.finished_at is not None:
            return ClaimResult.OVER
        at = now()
        if row.state == EvaluationPhase.SCORING and row.heartbeat_at is not None and row.heartbeat_at > at - silence:
            return ClaimResult.BUSY
        if row.tries >= MOST_TRIES:
            self._end(row, _given_up(row))
            return ClaimResult.OVER
        row.state, row.tries, row.error = EvaluationPhase.SCORING.value, row.tries + 1, None
        row.holder, row.device = holder, device
        row.begun_at = row.begun_at or at
        row.started_at = row.heartbeat_at = at
        self._session.flush()
        return ClaimResult.CLAIMED

    def beat(self, of: EvaluationTry) -> bool:
        """Note that a try is alive; False where it no longer counts."""
        row = self._tried(of)
        if row is not None:
            row.heartbeat_at = now()
            self._session.flush()
        return row is not None

    def note_revision(self, of: EvaluationTry, revision: str | None) -> None:
        """Note which revision of the repository is evaluated."""
        row = self._tried(of)
        if row is not None:
            row.revision = revision
            self._session.flush()

    def finish(self, of: EvaluationTry, end: EvaluationEnd) -> bool:
        """End an evaluation and free its slot; False, and nothing changes, where this try no longer counts."""
        row = self._tried(of)
        if row is None:
            return False
        self._end(row, end)
        self._session.add_all(
            EvaluationSampleRow(evaluation_id=row.id, number=number, sample=_storable(dict(sample)))
            for number, sample in enumerate(end.samples)
        )
        self._session.flush()
        return True

    # -- what keeps them moving -----------------------------------------------------------------------------------

    def void_dead(self, silence: timedelta) -> list[str]:
        """Take the claims of tries that were not heard of for ``silence``; the evaluations' ids."""
        voided = []
        for row in self._unfinished():
            heard = row.heartbeat_at
            if row.state == EvaluationPhase.SCORING and (heard is None or heard <= now() - silence):
                self._void(row, "its worker was not heard of any more; the evaluation begins again")
                voided.append(str(row.id))
        self._session.flush()
        return voided

    def void_held_by(self, node: str) -> list[str]:
        """Take the claims of a worker that stops; who held them (``node/pid``)."""
        holders = []
        for row in self._unfinished():
            if row.state == EvaluationPhase.SCORING and row.holder and row.holder.startswith(f"{node}/"):
                holders.append(row.holder)
                self._void(row, "its worker was stopped; the evaluation begins again")
        self._session.flush()
        return holders

    def end_overdue(self, limit: timedelta, grace: timedelta, silence: timedelta) -> list[str]:
        """End what the time limit should have ended ``grace`` ago, or whose worker it has ended; the ids.

        A first try whose worker lived to the limit timed out, and its model gets 0; a worker's death, or a wait for
        one, is nobody's zero.
        """
        ended = []
        for row in self._unfinished():
            deadline = (row.begun_at or row.accepted_at) + limit
            at_work = row.state == EvaluationPhase.SCORING
            silent = at_work and (row.heartbeat_at is None or row.heartbeat_at <= now() - silence)
            if now() < (deadline if silent else deadline + grace):
                continue
            alive_to_the_end = row.heartbeat_at is not None and row.heartbeat_at >= deadline
            self._end(row, timed_out(row.tries, limit) if alive_to_the_end else _unheard(row, limit))
            ended.append(str(row.id))
        self._session.flush()
        return ended

    def unsent(self) -> list[tuple[str, EvaluationInputs]]:
        """Waiting evaluations whose message must have been lost; they count as sent from now on."""
        lost = []
        for row in self._unfinished():
            if row.state != EvaluationPhase.WAITING:
                continue
            patience = _ON_ITS_WAY * 2 ** min(max(row.sends - 1, 0), _MOST_DOUBLINGS)
            if row.sent_at is not None and now() < max(row.due_at, row.sent_at) + patience:
                continue
            row.sent_at, row.sends = now(), row.sends + 1
            lost.append((str(row.id), _inputs(row)))
        self._session.flush()
        return lost

    def delete_before(self, instant: datetime) -> int:
        """Remove evaluations that ended before an instant, with their samples; how many went."""
        result = self._session.execute(delete(EvaluationRow).where(EvaluationRow.finished_at < instant))
        return cast(CursorResult[Any], result).rowcount

    def _unfinished(self) -> list[EvaluationRow]:
        return list(
            self._session.execute(
                select(EvaluationRow)
                .where(EvaluationRow.finished_at.is_(None))
                .order_by(EvaluationRow.accepted_at)
                .with_for_update()
                .execution_options(populate_existing=True)
            ).scalars()
        )

    def _locked(self, evaluation_id: str) -> EvaluationRow | None:
        return self._session.execute(
            select(EvaluationRow)
            .where(EvaluationRow.id == evaluation_id)
            .with_for_update()
            .execution_options(populate_existing=True)
        ).scalar_one_or_none()

    def _void(self, row: EvaluationRow, why: str) -> None:
        row.state, row.holder, row.error = EvaluationPhase.WAITING.value, None, why
        row.due_at = now()
        # whatever message there was has reached a worker; the next one is overdue
        row.sent_at, row.sends = None, 0

    def _tried(self, of: EvaluationTry) -> EvaluationRow | None:
        row = self._locked(of.evaluation_id)
        if row is None or row.state != EvaluationPhase.SCORING or row.tries != of.number:
            return None
        return row

    def _end(self, row: EvaluationRow, end: EvaluationEnd) -> None:
        row.state, row.score = end.phase.value, end.score
        row.error = None if end.error is None else end.error[:_LONGEST_ERROR]
        row.metric_scores = None if end.metric_scores is None else _storable(dict(end.metric_scores))
        row.slot = row.holder = None
        row.finished_at = now()
        self._session.flush()
        scorings = Scorings(self._session)
        scoring = None if row.scoring_id is None else scorings.get(row.scoring_id)
        if scoring is not None and scoring.finished_at is None:
            completed = end.phase is EvaluationPhase.COMPLETED
            scorings.settle(scoring, ScoringEnd(end.score, completed, row.error, row.metric_scores))


def timed_out(tries: int, limit: timedelta, doing: str | None = None) -> EvaluationEnd:
    """The end of an evaluation at its time limit: the model's 0 if it had all of the time, nobody's if we took some."""
    error = doing or f"the evaluation was not over within {limit}"
    if tries > 1:
        return EvaluationEnd(EvaluationPhase.RELEASED, None, f"an interruption of ours took of its time; {error}")
    return EvaluationEnd(EvaluationPhase.TIMEOUT, 0.0, error)


def _unheard(row: EvaluationRow, limit: timedelta) -> EvaluationEnd:
    if row.begun_at is None:
        return EvaluationEnd(EvaluationPhase.RELEASED, None, f"no gpu worker took the evaluation within {limit}")
    why = f" (last: {row.error})" if row.error else ""
    return EvaluationEnd(EvaluationPhase.RELEASED, None, f"no try came to an end within {limit}{why}")


def _given_up(row: EvaluationRow) -> EvaluationEnd:
    why = row.error or "its worker was lost each time"
    return EvaluationEnd(EvaluationPhase.RELEASED, None, f"given up after {row.tries} tries: {why}")


def _storable(value: Any) -> Any:
    """JSON that can be kept: a number that is not finite becomes its name."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _storable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_storable(item) for item in value]
    return value


def _inputs(row: EvaluationRow) -> EvaluationInputs:
    return EvaluationInputs(row.hf_repo_id, row.competition_id, row.hotkey, row.block)


def _record(row: EvaluationRow) -> EvaluationRecord:
    return EvaluationRecord(
        id=row.id,
        inputs=_inputs(row),
        revision=row.revision,
        slot=row.slot,
        phase=EvaluationPhase(row.state),
        score=row.score,
        metric_scores=row.metric_scores,
        error=row.error,
        tries=row.tries,
        holder=row.holder,
        device=row.device,
        accepted_at=row.accepted_at,
        begun_at=row.begun_at,
        started_at=row.started_at,
        heartbeat_at=row.heartbeat_at,
        finished_at=row.finished_at,
    )
