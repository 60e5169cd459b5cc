"""The model queue and the score history."""

from __future__ import annotations

import logging
import random
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, cast

from sqlalchemy import CursorResult, and_, case, delete, exists, func, join, select, true, update
from sqlalchemy.orm import Session, aliased

from app.clock import now
from app.domain import ModelCommitment, ModelId, ReportedScore
from app.store.model_priority import Candidate, queue_order
from app.store.tables.competitions import (
    CompetitionRow,
    ModelRefusalRow,
    ModelRow,
    ModelScoreRow,
    ModelScoringRow,
    NeuronRow,
)
from app.store.tables.evaluations import EvaluationRow

# The store's own field separator is the commitment's: a model is kept as the text it was committed as.
_ABSENT: Final = "None"

_GIVEN_BACK_LATELY: Final = timedelta(minutes=10)

_chance: Final = random.SystemRandom()

log = logging.getLogger("celery_validator.models")


@dataclass(frozen=True, slots=True)
class QueuedModel:
    """A model in the queue, its miner's present UID, and who scores it."""

    uid: int
    commitment: ModelCommitment
    competition_id: str
    committed_at: datetime
    is_new: bool
    is_being_scored_by: str | None
    taken_at: datetime | None
    repository_created_at: datetime | None
    repository_checked_at: datetime | None

    @property
    def hotkey(self) -> str:
        """The miner's hotkey."""
        return self.commitment.hotkey


@dataclass(frozen=True, slots=True)
class TakenModel:
    """A model as handed to a scorer."""

    uid: int
    commitment: ModelCommitment
    competition_id: str
    taken_at: datetime


@dataclass(frozen=True, slots=True)
class PostedScore:
    """What a scorer posts of the model it took."""

    score: float
    model_hash: str | None = None
    metric_scores: Mapping[str, Any] | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class ScoreRecord:
    """One line of the history."""

    hotkey: str
    uid: int
    competition_id: str
    model: ModelId
    block: int
    model_hash: str | None
    scorer_hotkey: str
    score: float
    metric_scores: Mapping[str, Any] | None
    error: str | None
    scored_at: datetime


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a miner's latest commitment is not queued."""

    hotkey: str
    uid: int
    block: int
    text: str
    reason: str
    refused_at: datetime | None = None


class ModelQueue:
    """Reads and writes the queue inside one session; the caller owns the transaction."""

    def __init__(self, session: Session, netuid: int) -> None:
        self._session = session
        self._netuid = netuid

    # -- what miners commit ---------------------------------------------------------------------------------------

    def register(self, uid: int, commitment: ModelCommitment, committed_at: datetime) -> bool:
        """Queue a miner's model; True where it is new or changed. A model under scoring stays with its scorer."""
        row = self._session.get(ModelRow, commitment.hotkey)
        text, competition = commitment.model.text, commitment.model.competition_id or ""
        self._session.execute(delete(ModelRefusalRow).where(ModelRefusalRow.hotkey == commitment.hotkey))
        if row is not None and (row.model, row.block) == (text, commitment.block):
            if row.uid != uid:
                row.uid, row.updated_at = uid, now()
            return False
        if row is None:
            row = ModelRow(hotkey=commitment.hotkey)
            self._session.add(row)
        elif row.model.split(":")[:2] != text.split(":")[:2]:
            row.repository_created_at = None
        row.uid, row.competition_id, row.model, row.block = uid, competition, text, commitment.block
        row.committed_at, row.is_new, row.updated_at = committed_at, True, now()
        row.repository_checked_at = None
        self._session.flush()
        return True

    def refuse(self, refusal: Refusal) -> None:
        """Keep why a commitment is not queued; an earlier model of the miner stays as it is."""
        self._session.merge(
            ModelRefusalRow(
                hotkey=refusal.hotkey,
                uid=refusal.uid,
                block=refusal.block,
                text=refusal.text[:200],
                reason=refusal.reason[:500],
                refused_at=now(),
            )
        )
        self._session.flush()

    def refusals(self) -> list[Refusal]:
        """Commitments that are not queued, by UID."""
        rows = self._session.execute(select(ModelRefusalRow).order_by(ModelRefusalRow.uid)).scalars()
        return [Refusal(row.hotkey, row.uid, row.block, row.text, row.reason, row.refused_at) for row in rows]

    def models(self) -> list[QueuedModel]:
        """The models of registered miners, by UID."""
        columns = ModelRow.__table__.c
        rows = self._session.execute(
            select(NeuronRow.uid.label("present_uid"), *columns)
            .join(ModelRow, self._registered())
            .order_by(NeuronRow.uid)
        )
        return [_queued(row) for row in rows]

    def versions(self, hotkey: str) -> tuple[datetime, list[ModelCommitment]] | None:
        """A miner's models and when the first of them was committed: its current one, and what a scorer was given."""
        row = self._session.get(ModelRow, hotkey)
        if row is None:
            return None
        found = [ModelCommitment(hotkey, row.block, model_id(row.model))]
        if row.taken_model is not None and row.taken_block is not None:
            found.append(ModelCommitment(hotkey, row.taken_block, model_id(row.taken_model)))
        return row.committed_at, found

    def referenced(self) -> set[str]:
        """Commitment texts of all models that are queued or under scoring."""
        rows = self._session.execute(select(ModelRow.model, ModelRow.taken_model))
        return {text for pair in rows for text in pair if text}

    def note_repository(self, hotkey: str, model: ModelId, created_at: datetime | None) -> None:
        """Keep when a model's repository was created; None where nobody knows."""
        self._session.execute(
            update(ModelRow)
            .where(ModelRow.hotkey == hotkey, ModelRow.model == model.text)
            .values(repository_created_at=created_at, repository_checked_at=now())
        )

    # -- taking and posting ---------------------------------------------------------------------------------------

    def take(self, competition_id: str, scorer: str, chance: random.Random = _chance) -> TakenModel | None:
        """Hand the next model of a competition to a scorer; None where there is none. Nobody else gets it.

        The order is made from a snapshot; the row's own lock decides, so that a model that another scorer is just
        taking is passed over. Models that our own scorers have just given back come after all others: one that no node
        can evaluate must not keep the rest from their turn.
        """
        at = now()
        order = queue_order(self.candidates(competition_id), at, chance)
        given_back = self._given_back_lately(competition_id)
        for hotkey in sorted(order, key=lambda hotkey: hotkey in given_back):
            row = self._session.execute(
                select(ModelRow)
                .where(
                    ModelRow.hotkey == hotkey,
                    ModelRow.competition_id == competition_id,
                    ModelRow.is_being_scored_by.is_(None),
                )
                .with_for_update(skip_locked=True)
                .execution_options(populate_existing=True)
            ).scalar_one_or_none()
            if row is None:
                continue
            uid = self._session.execute(
                select(NeuronRow.uid).where(NeuronRow.netuid == self._netuid, NeuronRow.hotkey == hotkey)
            ).scalar_one_or_none()
            if uid is None:
                continue
            row.uid, row.is_being_scored_by, row.taken_at = uid, scorer, at
            row.taken_model, row.taken_block = row.model, row.block
            self._session.flush()
            commitment = ModelCommitment(hotkey, row.block, model_id(row.model))
            return TakenModel(uid, commitment, competition_id, at)
        return None

    def post(self, hotkey: str, uid: int, scorer: str, posted: PostedScore, taken_at: datetime | None = None) -> bool:
        """Add a score to the history and free the model; False, and nothing changes, unless this scorer has it.

        With ``taken_at`` it must be that very taking, not a later one by the same scorer.
        """
        row = self._taken_by(hotkey, scorer)
        if row is None or row.uid != uid or row.taken_model is None or row.taken_block is None:
            return False
        if taken_at is not None and row.taken_at != taken_at:
            return False
        model = model_id(row.taken_model)
        self._session.add(
            ModelScoreRow(
                hotkey=hotkey,
                uid=uid,
                competition_id=model.competition_id or row.competition_id,
                model=row.taken_model,
                block=row.taken_block,
                model_hash=posted.model_hash,
                scorer_hotkey=scorer,
                score=posted.score,
                metric_scores=None if posted.metric_scores is None else dict(posted.metric_scores),
                error=None if posted.error is None else posted.error[:2000],
                scored_at=now(),
            )
        )
        if (row.taken_model, row.taken_block) == (row.model, row.block):
            row.is_new = False
        _free(row)
        self._session.flush()
        return True

    def release(self, hotkey: str, scorer: str, taken_at: datetime) -> bool:
        """Give a model back unscored; False unless this scorer has it from that taking."""
        row = self._taken_by(hotkey, scorer)
        if row is None or row.taken_at != taken_at:
            return False
        _free(row)
        self._session.flush()
        return True

    def _taken_by(self, hotkey: str, scorer: str) -> ModelRow | None:
        return self._session.execute(
            select(ModelRow)
            .where(ModelRow.hotkey == hotkey, ModelRow.is_being_scored_by == scorer)
            .with_for_update()
            .execution_options(populate_existing=True)
        ).scalar_one_or_none()

    def release_stale(self, limit: timedelta) -> int:
        """Give back every model that is under scoring for longer than ``limit``; how many.

        Not those of an evaluation in this cluster: it has a time limit of its own, and gives its model back itself.
        """
        evaluated_here = exists().where(
            EvaluationRow.finished_at.is_(None),
            EvaluationRow.scoring_id == ModelScoringRow.id,
            ModelScoringRow.hotkey == ModelRow.hotkey,
            ModelScoringRow.taken_at == ModelRow.taken_at,
        )
        result = self._session.execute(
            update(ModelRow)
            .where(ModelRow.is_being_scored_by.is_not(None), ModelRow.taken_at < now() - limit, ~evaluated_here)
            .values(is_being_scored_by=None, taken_at=None, taken_model=None, taken_block=None)
            .execution_options(synchronize_session=False)
        )
        released = cast(CursorResult[Any], result).rowcount
        if released:
            log.warning("%d models under scoring for longer than %s returned to the queue", released, limit)
        return released

    def candidates(self, competition_id: str) -> list[Candidate]:
        """The models of a running competition that may be taken now, as the queue's order sees them."""
        rows = self._session.execute(
            select(
                ModelRow.hotkey,
                ModelRow.is_new,
                func.count(ModelScoreRow.id),
                func.sum(case((ModelScoreRow.score > 0, 1), else_=0)),
                func.max(ModelScoreRow.score),
                func.max(ModelScoreRow.scored_at),
            )
            .join(NeuronRow, self._registered())
            .join(CompetitionRow, CompetitionRow.id == ModelRow.competition_id)
            .outerjoin(
                ModelScoreRow, and_(ModelScoreRow.hotkey == ModelRow.hotkey, ModelScoreRow.model == ModelRow.model)
            )
            .where(
                ModelRow.competition_id == competition_id,
                ModelRow.is_being_scored_by.is_(None),
                CompetitionRow.archived_at.is_(None),
            )
            .group_by(ModelRow.hotkey, ModelRow.is_new)
        )
        return [
            Candidate(hotkey, is_new, count or 0, int(non_zero or 0), best, last)
            for hotkey, is_new, count, non_zero, best, last in rows
        ]

    def _given_back_lately(self, competition_id: str) -> set[str]:
        return set(
            self._session.execute(
                select(ModelScoringRow.hotkey).where(
                    ModelScoringRow.competition_id == competition_id,
                    ModelScoringRow.state == "released",
                    ModelScoringRow.finished_at > now() - _GIVEN_BACK_LATELY,
                )
            ).scalars()
        )

    def _registered(self) -> Any:
        return and_(NeuronRow.netuid == self._netuid, NeuronRow.hotkey == ModelRow.hotkey)


class ScoreHistory:
    """Reads the score history inside one session. Nothing in it is ever changed."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def latest(self, per_model: int = 10) -> dict[str, list[ReportedScore]]:
        """Each queued model's latest scores by hotkey, newest first; only those of its current version."""
        scored = aliased(ModelScoreRow)
        newest = (
            select(scored.id)
            .where(scored.hotkey == ModelRow.hotkey, scored.model == ModelRow.model)
            .order_by(scored.id.desc())
            .limit(per_model)
            .correlate(ModelRow)
        )
        # both read per_model rows of the index for each model, however long the history; neither database has the
        # other's way (SQLite no LATERAL, PostgreSQL would ask the subquery for every pair)
        if self._session.get_bind().dialect.name == "postgresql":
            lateral = newest.lateral()
            which = select(lateral.c.id).select_from(ModelRow).join(lateral, true()).subquery()
            source = join(ModelScoreRow, which, which.c.id == ModelScoreRow.id)
        else:
            source = join(ModelRow, ModelScoreRow, ModelScoreRow.id.in_(newest))
        table = ModelScoreRow
        # on the connection: the session would make an object of each of thousands of rows
        rows = (
            self._session.connection()
            .execute(
                select(table.hotkey, table.scorer_hotkey, table.score, table.scored_at, table.model_hash)
                .select_from(source)
                .order_by(table.id.desc())
            )
            .all()
        )
        found: dict[str, list[ReportedScore]] = defaultdict(list)
        for hotkey, scorer, score, scored_at, model_hash in rows:
            found[hotkey].append(ReportedScore(scorer, score, scored_at, model_hash))
        return dict(found)

    def since(self, instant: datetime, limit: int, hotkey: str | None = None) -> list[ScoreRecord]:
        """Scores since an instant, newest first, with their metrics and errors; of one miner where asked for."""
        query = select(ModelScoreRow).where(ModelScoreRow.scored_at >= instant)
        if hotkey is not None:
            query = query.where(ModelScoreRow.hotkey == hotkey)
        rows = self._session.execute(query.order_by(ModelScoreRow.id.desc()).limit(limit)).scalars()
        return [_score(row) for row in rows]

    def of_miner(self, hotkey: str, limit: int) -> list[ScoreRecord]:
        """A miner's latest scores, of whatever model, newest first."""
        rows = self._session.execute(
            select(ModelScoreRow).where(ModelScoreRow.hotkey == hotkey).order_by(ModelScoreRow.id.desc()).limit(limit)
        ).scalars()
        return [_score(row) for row in rows]

    def of_competition(self, competition_id: str, instant: datetime, limit: int) -> list[ScoreRecord]:
        """A competition's scores since an instant, newest first."""
        rows = self._session.execute(
            select(ModelScoreRow)
            .where(ModelScoreRow.competition_id == competition_id, ModelScoreRow.scored_at >= instant)
            .order_by(ModelScoreRow.id.desc())
            .limit(limit)
        ).scalars()
        return [_score(row) for row in rows]


def _free(row: Any) -> None:
    row.is_being_scored_by = row.taken_at = row.taken_model = row.taken_block = None
    row.updated_at = now()


def model_id(text: str) -> ModelId:
    """The model of a stored commitment text."""
    namespace, name, *rest = text.split(":")
    epoch, commit, digest, competition = (None if value == _ABSENT else value for value in rest)
    return ModelId(namespace, name, epoch, commit, digest, competition)


def _queued(row: Any) -> QueuedModel:
    return QueuedModel(
        uid=row.present_uid,
        commitment=ModelCommitment(row.hotkey, row.block, model_id(row.model)),
        competition_id=row.competition_id,
        committed_at=row.committed_at,
        is_new=row.is_new,
        is_being_scored_by=row.is_being_scored_by,
        taken_at=row.taken_at,
        repository_created_at=row.repository_created_at,
        repository_checked_at=row.repository_checked_at,
    )


def _score(row: Any) -> ScoreRecord:
    return ScoreRecord(
        hotkey=row.hotkey,
        uid=row.uid,
        competition_id=row.competition_id,
        model=model_id(row.model),
        block=row.block,
        model_hash=row.model_hash,
        scorer_hotkey=row.scorer_hotkey,
        score=row.score,
        metric_scores=row.metric_scores,
        error=row.error,
        scored_at=row.scored_at,
    )
