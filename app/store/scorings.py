"""Our own scorings: which scorer works on which model, from start to end."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from app.clock import now
from app.domain import MODELS_NETUID, ModelCommitment
from app.observability.metrics import MODEL_SCORINGS
from app.store.database import delete_slice, insert_ignoring
from app.store.model_queue import ModelQueue, PostedScore, TakenModel, model_id
from app.store.tables.competitions import ModelScoringRow

log = logging.getLogger("celery_validator.scoring")


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


@dataclass(frozen=True, slots=True)
class ScoringEnd:
    """How a scoring ends. ``score`` None: nobody gets one, and ``error`` says why.

    ``completed``: the score is the benchmark's, not that of a failure.
    """

    score: float | None
    completed: bool
    error: str | None = None
    metric_scores: Mapping[str, Any] | None = None
    model_hash: str | None = None


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

    def resting(self, scorer: str, pause: timedelta) -> set[str]:
        """Competitions whose latest scoring by this scorer was given back within ``pause``: others go first."""
        latest = (
            select(func.max(ModelScoringRow.id))
            .where(ModelScoringRow.scorer == scorer)
            .group_by(ModelScoringRow.competition_id)
        )
        return set(
            self._session.execute(
                select(ModelScoringRow.competition_id).where(
                    ModelScoringRow.id.in_(latest),
                    ModelScoringRow.state == ScoringState.RELEASED.value,
                    ModelScoringRow.finished_at > now() - pause,
                )
            ).scalars()
        )

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

    def start_again(self, scoring_id: int, error: str) -> None:
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

    def settle(self, scoring: Scoring, end: ScoringEnd) -> ScoringState:
        """End a scoring: its score into the history, or its model back into the queue; scorer and model are free."""
        queue, miner = ModelQueue(self._session, MODELS_NETUID), scoring.commitment.hotkey
        state, score, error = ScoringState.RELEASED, end.score, end.error
        if end.score is None:
            queue.release(miner, scoring.scorer_hotkey, scoring.taken_at)
        elif queue.post(
            miner,
            scoring.uid,
            scoring.scorer_hotkey,
            PostedScore(end.score, end.model_hash, end.metric_scores, end.error),
            scoring.taken_at,
        ):
            state = ScoringState.SCORED if end.completed else ScoringState.FAILED
        else:
            error = "the queue had taken the model back; its score was not kept"
        self.finish(scoring.id, state, score, error)
        MODEL_SCORINGS.labels(state.value).inc()
        log.info("UID %s: %s by %s, score %s%s", scoring.uid, state.value, scoring.scorer, score, _because(error))
        return state

    def delete_before(self, instant: datetime, at_most: int) -> int:
        """Remove up to ``at_most`` scorings that ended before an instant; how many went. The score history stays."""
        return delete_slice(self._session, [ModelScoringRow.id], ModelScoringRow.finished_at < instant, at_most)

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


def _because(error: str | None) -> str:
    return f" ({error})" if error else ""
