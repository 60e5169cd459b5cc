"""Our own scorings: which scorer works on which model, from start to end."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, cast

from sqlalchemy import CursorResult, delete, select, update
from sqlalchemy.orm import Session

from app.clock import now
from app.domain import ModelCommitment
from app.store.database import insert_ignoring
from app.store.model_queue import TakenModel, model_id
from app.store.tables.competitions import ModelScoringRow


class ScoringState(StrEnum):
    """How far a scoring is. ``released``: given back unscored, for a fault that is not the model's."""

    STARTING = "starting"
    SCORING = "scoring"
    SCORED = "scored"
    FAILED = "failed"
    RELEASED = "released"


@dataclass(frozen=True, slots=True)
class Scoring:
    """One scoring. ``error`` is the latest trouble, or why it ended without a score of its own."""

    id: int
    scorer: str
    uid: int
    commitment: ModelCommitment
    competition_id: str
    scorer_hotkey: str
    state: ScoringState
    task_id: str | None
    score: float | None
    error: str | None
    taken_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class Scorings:
    """Reads and writes scorings inside one session; the caller owns the transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def idle(self, scorers: Collection[str]) -> list[str]:
        """Those of the scorers that work on nothing, in the order given."""
        busy = set(
            self._session.execute(
                select(ModelScoringRow.busy_scorer).where(ModelScoringRow.busy_scorer.in_(list(scorers)))
            ).scalars()
        )
        return [scorer for scorer in scorers if scorer not in busy]

    def resting(self, scorer: str, pause: timedelta) -> bool:
        """Whether a scorer's latest scoring was given back so recently that it should be left alone."""
        row = self._session.execute(
            select(ModelScoringRow.state, ModelScoringRow.finished_at)
            .where(ModelScoringRow.scorer == scorer)
            .order_by(ModelScoringRow.id.desc())
            .limit(1)
        ).one_or_none()
        if row is None or row.state != ScoringState.RELEASED or row.finished_at is None:
            return False
        return bool(row.finished_at > now() - pause)

    def open(self, scorer: str, scorer_hotkey: str, taken: TakenModel) -> int | None:
        """Note that a scorer begins on a model; None where it has one already."""
        insert_ignoring(
            self._session,
            ModelScoringRow,
            [
                {
                    "scorer": scorer,
                    "busy_scorer": scorer,
                    "hotkey": taken.commitment.hotkey,
                    "uid": taken.uid,
                    "competition_id": taken.competition_id,
                    "model": taken.commitment.model.text,
                    "block": taken.commitment.block,
                    "scorer_hotkey": scorer_hotkey,
                    "state": ScoringState.STARTING.value,
                    "taken_at": taken.taken_at,
                    "looked_at": taken.taken_at,
                }
            ],
        )
        row = self._session.execute(
            select(ModelScoringRow.id).where(
                ModelScoringRow.busy_scorer == scorer, ModelScoringRow.taken_at == taken.taken_at
            )
        ).scalar_one_or_none()
        return None if row is None else int(row)

    def get(self, scoring_id: int) -> Scoring | None:
        """One scoring; None where it is gone."""
        row = self._session.get(ModelScoringRow, scoring_id)
        return None if row is None else _scoring(row)

    def started(self, scoring_id: int, task_id: str | None) -> None:
        """Note that the scorer accepted the model."""
        at = now()
        self._change(
            scoring_id, state=ScoringState.SCORING.value, task_id=task_id, started_at=at, looked_at=at, error=None
        )

    def start_anew(self, scoring_id: int, error: str) -> None:
        """Note that the scorer has forgotten the model and must be given it again."""
        self._change(scoring_id, state=ScoringState.STARTING.value, task_id=None, error=error[:2000], looked_at=now())

    def looked(self, scoring_id: int, error: str | None) -> None:
        """Note that the scorer was asked, and what trouble there was."""
        self._change(scoring_id, looked_at=now(), error=None if error is None else error[:2000])

    def finish(self, scoring_id: int, state: ScoringState, score: float | None, error: str | None) -> None:
        """End a scoring; its scorer is free again."""
        self._change(
            scoring_id,
            state=state.value,
            score=score,
            error=None if error is None else error[:2000],
            busy_scorer=None,
            finished_at=now(),
        )

    def unattended(self, pause: timedelta) -> list[int]:
        """Scorings that nobody has looked at for ``pause``: their message was lost."""
        return list(
            self._session.execute(
                select(ModelScoringRow.id)
                .where(ModelScoringRow.finished_at.is_(None), ModelScoringRow.looked_at < now() - pause)
                .order_by(ModelScoringRow.id)
            ).scalars()
        )

    def delete_before(self, instant: datetime) -> int:
        """Remove scorings that ended before an instant; how many went. The score history is not touched."""
        result = self._session.execute(delete(ModelScoringRow).where(ModelScoringRow.finished_at < instant))
        return cast(CursorResult[Any], result).rowcount

    def recent(self, limit: int = 20) -> list[Scoring]:
        """The latest scorings, newest first."""
        rows = self._session.execute(select(ModelScoringRow).order_by(ModelScoringRow.id.desc()).limit(limit)).scalars()
        return [_scoring(row) for row in rows]

    def of_miner(self, hotkey: str, limit: int = 20) -> list[Scoring]:
        """A miner's latest scorings, newest first."""
        rows = self._session.execute(
            select(ModelScoringRow)
            .where(ModelScoringRow.hotkey == hotkey)
            .order_by(ModelScoringRow.id.desc())
            .limit(limit)
        ).scalars()
        return [_scoring(row) for row in rows]

    def _change(self, scoring_id: int, **values: Any) -> None:
        self._session.execute(
            update(ModelScoringRow)
            .where(ModelScoringRow.id == scoring_id, ModelScoringRow.finished_at.is_(None))
            .values(**values)
        )


def _scoring(row: Any) -> Scoring:
    return Scoring(
        id=row.id,
        scorer=row.scorer,
        uid=row.uid,
        commitment=ModelCommitment(row.hotkey, row.block, model_id(row.model)),
        competition_id=row.competition_id,
        scorer_hotkey=row.scorer_hotkey,
        state=ScoringState(row.state),
        task_id=row.task_id,
        score=row.score,
        error=row.error,
        taken_at=row.taken_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
    )
