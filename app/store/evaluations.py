"""Models' evaluations on this node: accepted, tried, ended."""

from __future__ import annotations

import math
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import Select, exists, literal, select, update
from sqlalchemy.orm import Session

from app.clock import now
from app.store.claims import Claims, Work
from app.store.database import delete_slice, insert_ignoring
from app.store.scorings import ScoringEnd, Scorings
from app.store.tables.evaluations import EvaluationRow, EvaluationSampleRow
from app.store.tables.work import WorkRow

# An evaluation that ended its process, or could not be done, this often is given up: no score.
MOST_TRIES: Final = 5

_LONGEST_ERROR: Final = 2000

# The task whose pieces of work evaluations are.
EVALUATE: Final = "workers.evaluations.evaluate_model"


class EvaluationPhase(StrEnum):
    """How far an evaluation is. ``waiting``: no worker has it; ``released``: given up unscored, the fault is ours."""

    WAITING = "waiting"
    SCORING = "scoring"
    COMPLETED = "completed"
    FAILED = "failed"
    TIMEOUT = "timeout"
    RELEASED = "released"


@dataclass(frozen=True, slots=True)
class EvaluationInputs:
    """What was asked for, in the scoring API's words."""

    hf_repo_id: str
    competition_id: str
    hotkey: str
    block: int


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
    device: str | None
    accepted_at: datetime
    begun_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None

    @property
    def name(self) -> str:
        """What everything that the present try makes on its node is named after."""
        return f"{self.id}-{self.tries}"

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
    """Reads and writes evaluations inside one session; the caller owns the transaction.

    Who may work on one is for the claims to say: each is a piece of work, and a transaction that changes both takes the
    piece first.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    # -- asking -------------------------------------------------------------------------------------------------------

    def get(self, evaluation_id: str) -> EvaluationRecord | None:
        """One evaluation; None where it is gone."""
        return next(iter(self._records(select(EvaluationRow).where(EvaluationRow.id == evaluation_id))), None)

    def latest(self) -> EvaluationRecord | None:
        """The evaluation that was accepted last."""
        return next(iter(self.recent(1)), None)

    def recent(self, limit: int = 20, hotkey: str | None = None) -> list[EvaluationRecord]:
        """The latest evaluations, of all miners or of one, newest first."""
        of = () if hotkey is None else (EvaluationRow.hotkey == hotkey,)
        newest = EvaluationRow.accepted_at.desc(), EvaluationRow.id
        return self._records(select(EvaluationRow).where(*of).order_by(*newest).limit(limit))

    def in_slots(self, slots: Collection[str]) -> list[EvaluationRecord]:
        """The unfinished evaluations that take these slots, the oldest first."""
        return self._records(
            select(EvaluationRow).where(EvaluationRow.slot.in_(list(slots))).order_by(EvaluationRow.accepted_at)
        )

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
        """
        identity, at = evaluation_id or str(uuid.uuid4()), now()
        values = {
            "id": identity,
            **asdict(inputs),
            "scoring_id": scoring_id,
            "state": EvaluationPhase.WAITING.value,
            "tries": 0,
            "accepted_at": at,
        }
        for slot in slots:
            insert_ignoring(self._session, EvaluationRow, [values | {"slot": slot}])
            if self._session.execute(select(EvaluationRow.id).where(EvaluationRow.id == identity)).scalar():
                return identity
        return None

    def begin(self, evaluation_id: str, number: int, device: str, limit: timedelta) -> EvaluationRecord | None:
        """Begin a try, the piece being claimed; None where the evaluation has ended, or ends here."""
        row = self._unfinished(evaluation_id)
        if row is None:
            return None
        at = now()
        end = _overdue(row, limit) if row.begun_at is not None and at >= row.begun_at + limit else None
        if number > MOST_TRIES:
            end = end or _given_up(row)
        if end is not None:
            self._end(row, end)
            return None
        row.tries, row.device, row.begun_at = number, device, row.begun_at or at
        row.started_at = row.heartbeat_at = at
        self._session.flush()
        return self.get(evaluation_id)

    def beat(self, evaluation_id: str) -> None:
        """Note that the try that holds the claim is alive."""
        self._change(evaluation_id, heartbeat_at=now())

    def note_revision(self, evaluation_id: str, revision: str | None) -> None:
        """Note which revision of the repository is evaluated."""
        self._change(evaluation_id, revision=revision)

    def finish(self, evaluation_id: str, end: EvaluationEnd) -> None:
        """End an evaluation and free its slot; one that has ended stays as it is."""
        row = self._unfinished(evaluation_id)
        if row is None:
            return
        self._end(row, end)
        self._session.add_all(
            EvaluationSampleRow(evaluation_id=row.id, number=number, sample=_storable(dict(sample)))
            for number, sample in enumerate(end.samples)
        )
        self._session.flush()

    def end_overdue(self, limit: timedelta, grace: timedelta, silence: timedelta) -> list[str]:
        """End what the time limit should have ended ``grace`` ago, or whose worker it has ended; the ids.

        A first try whose worker lived to the limit timed out, and its model gets 0; a worker's death, or a wait for
        one, is nobody's zero.
        """
        ended = []
        for row in self._session.execute(
            select(EvaluationRow.id, EvaluationRow.begun_at, EvaluationRow.accepted_at, EvaluationRow.heartbeat_at)
            .where(EvaluationRow.finished_at.is_(None))
            .order_by(EvaluationRow.accepted_at)
        ).all():
            silent = row.heartbeat_at is None or row.heartbeat_at <= now() - silence
            if now() < (row.begun_at or row.accepted_at) + (limit if silent else limit + grace):
                continue
            Claims(self._session).drop(Work(EVALUATE, (row.id,)))
            overdue = self._unfinished(row.id)
            if overdue is not None:
                self._end(overdue, _overdue(overdue, limit))
                ended.append(str(row.id))
        return ended

    def delete_before(self, instant: datetime, at_most: int) -> int:
        """Remove up to ``at_most`` evaluations that ended before an instant, with their samples; how many went."""
        return delete_slice(self._session, [EvaluationRow.id], EvaluationRow.finished_at < instant, at_most)

    def _records(self, rows: Select[Any]) -> list[EvaluationRecord]:
        piece = literal('["') + EvaluationRow.id + literal('"]')
        claimed = WorkRow.claim.is_not(None) & (WorkRow.held_until > now())
        at_work = exists().where(WorkRow.task == EVALUATE, WorkRow.args == piece, claimed)
        found = self._session.execute(rows.add_columns(at_work).execution_options(populate_existing=True)).all()
        return [_record(row, at_work=at_work) for row, at_work in found]

    def _unfinished(self, evaluation_id: str) -> EvaluationRow | None:
        return self._session.execute(
            select(EvaluationRow)
            .where(EvaluationRow.id == evaluation_id, EvaluationRow.finished_at.is_(None))
            .with_for_update()
            .execution_options(populate_existing=True)
        ).scalar_one_or_none()

    def _change(self, evaluation_id: str, **values: Any) -> None:
        self._session.execute(
            update(EvaluationRow)
            .where(EvaluationRow.id == evaluation_id, EvaluationRow.finished_at.is_(None))
            .values(**values)
            .execution_options(synchronize_session=False)
        )

    def _end(self, row: EvaluationRow, end: EvaluationEnd) -> None:
        row.state, row.score = end.phase.value, end.score
        row.error = None if end.error is None else end.error[:_LONGEST_ERROR]
        row.metric_scores = None if end.metric_scores is None else _storable(dict(end.metric_scores))
        row.slot = None
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


def _overdue(row: EvaluationRow, limit: timedelta) -> EvaluationEnd:
    if row.heartbeat_at is not None and row.begun_at is not None and row.heartbeat_at >= row.begun_at + limit:
        return timed_out(row.tries, limit)
    if row.begun_at is None:
        return EvaluationEnd(EvaluationPhase.RELEASED, None, f"no gpu worker took the evaluation within {limit}")
    return EvaluationEnd(EvaluationPhase.RELEASED, None, f"no try came to an end within {limit}")


def _given_up(row: EvaluationRow) -> EvaluationEnd:
    return EvaluationEnd(
        EvaluationPhase.RELEASED, None, f"given up after {row.tries} tries: its worker was lost each time"
    )


def _storable(value: Any) -> Any:
    """JSON that can be kept: a number that is not finite becomes its name."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _storable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_storable(item) for item in value]
    return value


def _record(row: EvaluationRow, *, at_work: bool) -> EvaluationRecord:
    phase, error = EvaluationPhase(row.state), row.error
    if phase is EvaluationPhase.WAITING and at_work:
        phase = EvaluationPhase.SCORING
    elif phase is EvaluationPhase.WAITING and row.tries:
        error = "its worker stopped or was not heard of any more; the evaluation begins again"
    return EvaluationRecord(
        id=row.id,
        inputs=EvaluationInputs(row.hf_repo_id, row.competition_id, row.hotkey, row.block),
        revision=row.revision,
        slot=row.slot,
        phase=phase,
        score=row.score,
        metric_scores=row.metric_scores,
        error=error,
        tries=row.tries,
        device=row.device,
        accepted_at=row.accepted_at,
        begun_at=row.begun_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
    )
