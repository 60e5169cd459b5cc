"""Claims: one way to take a piece of work, renew the claim, give it back, finish it, and find what stands still."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final, cast

from sqlalchemy import ColumnElement, CursorResult, delete, exists, literal, or_, select, update
from sqlalchemy.orm import Session, aliased

from app.clock import now
from app.domain import ValidatorError
from app.store.database import insert_ignoring
from app.store.tables.work import WorkRow

# Databases bound the number of values in one statement; SQLite's bound is the lowest.
_AT_ONCE: Final = 500


class ClaimLost(ValidatorError):
    """The piece was finished, or taken from this task, by another: what this task found is not kept."""


class Refused(StrEnum):
    """Why a piece could not be claimed."""

    DONE = "done before"
    BUSY = "in progress elsewhere"
    WAITING = "waiting for its parts"
    PUT_OFF = "put off"


@dataclass(frozen=True, slots=True)
class Work:
    """A task and its arguments, to be done once. ``epoch_id``: the work ends with that epoch."""

    task: str
    args: tuple[Any, ...]
    epoch_id: int | None = None
    part_of: str | None = None
    waits_for: str | None = None

    @property
    def key(self) -> str:
        """The arguments as they are stored."""
        return json.dumps(list(self.args), separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece that was claimed. ``attempts`` counts this claim too."""

    id: int
    claim: str
    attempts: int
    part_of: str | None
    epoch_id: int | None
    claimed_at: datetime
    lease: timedelta


# another piece than the one that a statement is about; made once, for it takes longer to make than to use
_OTHER = aliased(WorkRow)


class Claims:
    """Reads and writes pieces of work inside one session; the caller owns the transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def add(self, work: Iterable[Work], cluster: str) -> None:
        """Make work known; a piece that is known already stays as it is."""
        at = now()
        rows = [
            {
                "cluster": cluster,
                "task": piece.task,
                "args": piece.key,
                "epoch_id": piece.epoch_id,
                "part_of": piece.part_of,
                "waits_for": piece.waits_for,
                "due_at": at,
                "moved_at": at,
                "attempts": 0,
            }
            for piece in work
        ]
        for start in range(0, len(rows), _AT_ONCE):
            insert_ignoring(self._session, WorkRow, rows[start : start + _AT_ONCE])

    def take(self, work: Work, claim: str, holder: str, lease: timedelta, *, early: bool = False) -> Piece | Refused:
        """Claim a piece for ``lease``. A redelivery of the task that holds it takes it over at once; others wait.

        A piece that was put off is taken by the task that comes back for it; another message of it, that was sent when
        the first seemed lost, waits until it is due: else both would come back for ever. ``early``: by no message, but
        by hand; it does not wait.
        """
        at = now()
        free = or_(WorkRow.claim.is_(None), WorkRow.claim == claim, WorkRow.held_until <= at)
        ready = or_(WorkRow.waits_for.is_(None), ~exists().where(_OTHER.part_of == WorkRow.waits_for))
        due = or_(
            literal(early),
            WorkRow.claim.is_not(None),
            WorkRow.holder.is_(None),
            WorkRow.holder == claim,
            WorkRow.due_at <= at,
        )
        taken = self._session.execute(
            update(WorkRow)
            .where(WorkRow.task == work.task, WorkRow.args == work.key, free, ready, due)
            .values(claim=claim, holder=holder, claimed_at=at, held_until=at + lease, attempts=WorkRow.attempts + 1)
            .returning(WorkRow.id, WorkRow.attempts, WorkRow.part_of, WorkRow.epoch_id)
            .execution_options(synchronize_session=False)
        ).one_or_none()
        if taken is not None:
            return Piece(taken.id, claim, taken.attempts, taken.part_of, taken.epoch_id, at, lease)
        found = self._session.execute(
            select(WorkRow.claim, WorkRow.holder).where(WorkRow.task == work.task, WorkRow.args == work.key)
        ).one_or_none()
        if found is None:
            return Refused.DONE
        if found.claim is not None:
            return Refused.BUSY
        return Refused.WAITING if found.holder is None else Refused.PUT_OFF

    def take_more(self, piece: Piece, task: str, holder: str, at_most: int) -> list[tuple[Piece, tuple[Any, ...]]]:
        """Claim further parts of a piece's group that nobody has tried yet, with their arguments."""
        at = now()
        free = (
            select(WorkRow.id)
            .where(
                WorkRow.part_of == piece.part_of,
                WorkRow.task == task,
                WorkRow.claim.is_(None),
                WorkRow.attempts == 0,
            )
            .order_by(WorkRow.id)
            .limit(at_most)
            .with_for_update(skip_locked=True)
        )
        taken = self._session.execute(
            update(WorkRow)
            .where(WorkRow.id.in_(free.scalar_subquery()), WorkRow.claim.is_(None))
            .values(claim=piece.claim, holder=holder, claimed_at=at, held_until=at + piece.lease, attempts=1)
            .returning(WorkRow.id, WorkRow.args)
            .execution_options(synchronize_session=False)
        ).all()
        return [
            (Piece(row.id, piece.claim, 1, piece.part_of, piece.epoch_id, at, piece.lease), tuple(json.loads(row.args)))
            for row in sorted(taken, key=lambda row: row.id)
        ]

    def renew(self, piece: Piece) -> bool:
        """Keep a claim for its lease from now on; False where it was lost."""
        return self._changed(piece, held_until=now() + piece.lease, moved_at=now())

    def give_back(self, piece: Piece, until: datetime, *, uncounted: bool = False, comes_back: bool = False) -> bool:
        """Let go of a piece that is to be tried again at ``until``.

        Args:
            piece: what is let go.
            until: when it is due.
            uncounted: forget the attempt.
            comes_back: the task itself comes back for it then; no other takes it before.
        """
        less = {"attempts": WorkRow.attempts - 1} if uncounted else {}
        holder = piece.claim if comes_back else None
        return self._changed(piece, claim=None, holder=holder, claimed_at=None, due_at=until, moved_at=until, **less)

    def failed(self, piece: Piece) -> int:
        """Count that an attempt ended in an exception; how many did, 0 where the claim was lost."""
        failures = self._session.execute(
            update(WorkRow)
            .where(*_held_by(piece))
            .values(failures=WorkRow.failures + 1)
            .returning(WorkRow.failures)
            .execution_options(synchronize_session=False)
        ).scalar_one_or_none()
        return failures or 0

    def finish(self, piece: Piece) -> None:
        """Take a finished piece from the table, and note that its group moved.

        Raises:
            ClaimLost: the piece is no longer this task's; nothing of the transaction may be kept.
        """
        gone = self._session.execute(delete(WorkRow).where(*_held_by(piece)))
        if _count(gone) == 0:
            raise ClaimLost("the work was finished or taken over elsewhere")
        self._group_moved(piece)

    def finished(self, pieces: Sequence[Piece]) -> set[int]:
        """Finish parts of one group that were claimed together; the ids of those that were not lost meanwhile."""
        gone = self._session.execute(
            delete(WorkRow)
            .where(WorkRow.id.in_([piece.id for piece in pieces]), *_held_as(pieces[0]))
            .returning(WorkRow.id)
            .execution_options(synchronize_session=False)
        ).scalars()
        self._group_moved(pieces[0])
        return set(gone)

    def drop(self, work: Work) -> None:
        """Take a piece from the table, no matter which process holds it."""
        self._session.execute(delete(WorkRow).where(WorkRow.task == work.task, WorkRow.args == work.key))

    def drop_epoch(self, epoch_id: int) -> None:
        """Take all work of an ended epoch from the table."""
        self._session.execute(delete(WorkRow).where(WorkRow.epoch_id == epoch_id))

    def ready(self, group: str) -> Work | None:
        """The piece that waits for a group, once the group is empty and nobody works on it."""
        row = self._session.execute(
            select(WorkRow).where(
                WorkRow.waits_for == group, WorkRow.claim.is_(None), ~exists().where(_OTHER.part_of == group)
            )
        ).scalar_one_or_none()
        return None if row is None else _work(row)

    # -- what stands still ----------------------------------------------------------------------------------------

    def holders(self, cluster: str) -> set[str]:
        """The processes that hold claims."""
        rows = self._session.execute(
            select(WorkRow.holder).distinct().where(WorkRow.cluster == cluster, WorkRow.claim.is_not(None))
        ).scalars()
        return {holder for holder in rows if holder}

    def void(self, cluster: str, alive: Mapping[str, datetime], beating: Collection[str] = ()) -> int:
        """Void the claims that have expired, and those of processes that do not live or began later; how many.

        Args:
            alive: each living process and since when it has run; a restarted container's processes bear the numbers
                of those before. Empty where nobody answered, which proves nobody dead.
            beating: tasks that renew their short claims: these expire, whichever process does not answer.
        """
        at = now()
        of = WorkRow.id, WorkRow.task, WorkRow.holder, WorkRow.claimed_at, WorkRow.held_until
        held = self._session.execute(select(*of).where(WorkRow.cluster == cluster, WorkRow.claim.is_not(None))).all()
        checked = {row.id for row in held if alive and row.task not in beating}
        dead = [
            row.id
            for row in held
            if row.held_until <= at
            or (row.id in checked and (row.holder not in alive or row.claimed_at < alive[row.holder]))
        ]
        self._void(dead)
        return len(dead)

    def void_at(self, node: str, task: str) -> list[str]:
        """Void the claims on pieces of a task that a worker's processes hold; which processes (``node/pid``)."""
        held = self._session.execute(
            select(WorkRow.id, WorkRow.holder).where(
                WorkRow.task == task, WorkRow.claim.is_not(None), WorkRow.holder.startswith(f"{node}/", autoescape=True)
            )
        ).all()
        self._void([row.id for row in held])
        return [row.holder for row in held]

    def _void(self, dead: Sequence[int]) -> None:
        for start in range(0, len(dead), _AT_ONCE):
            self._session.execute(
                update(WorkRow)
                .where(WorkRow.id.in_(dead[start : start + _AT_ONCE]))
                # in the past, so that the reconciler sends it in the same round
                .values(claim=None, holder=None, claimed_at=None, moved_at=datetime.fromtimestamp(0, now().tzinfo))
                .execution_options(synchronize_session=False)
            )

    def standing(self, cluster: str, for_longer_than: timedelta) -> list[Work]:
        """Pieces that are due, that nobody works on, and whose group did not move either; they count as sent now."""
        at = now()
        still = at - for_longer_than
        rows = self._session.execute(
            select(WorkRow)
            .where(
                WorkRow.cluster == cluster,
                WorkRow.claim.is_(None),
                WorkRow.due_at <= at,
                WorkRow.moved_at < still,
                or_(
                    WorkRow.part_of.is_(None),
                    # nil: the claim of a dead process was voided
                    WorkRow.moved_at < at - timedelta(days=365),
                    ~exists().where(_OTHER.waits_for == WorkRow.part_of, _OTHER.moved_at >= still),
                ),
            )
            .order_by(WorkRow.id)
        ).scalars()
        found = []
        for row in rows:
            row.moved_at = at
            found.append(_work(row))
        self._session.flush()
        return found

    def follower(self, group: str) -> Work | None:
        """The piece that waits for a group."""
        row = self._session.execute(select(WorkRow).where(WorkRow.waits_for == group)).scalar_one_or_none()
        return None if row is None else _work(row)

    def has_parts(self, group: str) -> bool:
        """Whether a group has parts that are not finished."""
        return bool(self._session.execute(select(exists().where(WorkRow.part_of == group))).scalar())

    def _group_moved(self, piece: Piece) -> None:
        if piece.part_of is not None:
            self._session.execute(
                update(WorkRow)
                .where(WorkRow.waits_for == piece.part_of)
                .values(moved_at=now())
                .execution_options(synchronize_session=False)
            )

    def _changed(self, piece: Piece, **values: Any) -> bool:
        result = self._session.execute(
            update(WorkRow).where(*_held_by(piece)).values(**values).execution_options(synchronize_session=False)
        )
        return _count(result) > 0


def _held_by(piece: Piece) -> tuple[ColumnElement[bool], ...]:
    return WorkRow.id == piece.id, *_held_as(piece)


def _held_as(piece: Piece) -> tuple[ColumnElement[bool], ...]:
    # a redelivery that took the piece over bears the same claim, and counts one attempt more
    return WorkRow.claim == piece.claim, WorkRow.attempts == piece.attempts


def _work(row: WorkRow) -> Work:
    return Work(row.task, tuple(json.loads(row.args)), row.epoch_id, row.part_of, row.waits_for)


def _count(result: object) -> int:
    return cast(CursorResult[Any], result).rowcount
