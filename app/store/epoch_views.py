"""What the pages show of molecule epochs: few queries, light columns, no molecules unless they are asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.domain import Challenge, EpochHeader, Molecule, Protein, ScoringModel
from app.store.epochs import epoch_summary, read_tracks
from app.store.records import FINAL_STAGES, EpochSummary, PartState, Stage, TrackRefusal, track_refusals
from app.store.scores import Scores
from app.store.tables.base import LARGEST_ID
from app.store.tables.epochs import (
    BatchRow,
    EpochRow,
    SubmissionRow,
    WarningRow,
)
from app.store.tables.weights import WeightSubmissionRow


@dataclass(frozen=True, slots=True)
class EpochLine:
    """One epoch in a list: its summary, counts of its submissions by state, and how its weights ended."""

    summary: EpochSummary
    counts: Mapping[PartState, int]
    weights_state: str | None
    weights_detail: str | None

    @property
    def submissions(self) -> int:
        """All submissions, whatever became of them."""
        return sum(self.counts.values())

    @property
    def final(self) -> bool:
        """Whether nothing of the epoch will change any more."""
        return self.summary.stage in FINAL_STAGES

    @property
    def live(self) -> bool:
        """A live epoch, not a replay of a recording."""
        return self.summary.publishes


@dataclass(frozen=True, slots=True)
class EpochFacts:
    """What was frozen when the epoch opened, its neurons left out; None throughout before that."""

    header: EpochHeader
    rules_text: str | None
    rules_sha256: str | None
    challenge: Challenge | None
    proteins: tuple[Protein, ...]
    without_boltz: bool
    scores: str


@dataclass(frozen=True, slots=True)
class TrackStanding:
    """A submission's place in one track; a score of −inf is the text ``-inf``."""

    rank: int | None
    score: float | str | None
    rank_sums: Mapping[str, float]


def track_standings(kept: Any) -> dict[str, TrackStanding]:
    """The places of a submission from its row's column, its items left out."""
    return {
        track: TrackStanding(one.get("rank"), one.get("score"), one.get("rank_sums") or {})
        for track, one in (kept or {}).items()
    }


@dataclass(frozen=True, slots=True)
class SubmissionLine:
    """One submission in a list: everything but its molecules."""

    uid: int
    hotkey: str
    block: int
    path: str
    push_time: str
    state: PartState
    code: str | None
    message: str | None
    molecule: str | None
    molecule_index: int | None
    entropy: float | None
    psichic_score: float | None
    boltz_score: float | None
    entropy_boltz: float | None
    psichic_rank: int | None
    boltz_rank: int | None
    finished_at: datetime | None
    standings: Mapping[str, TrackStanding] = field(default_factory=dict)
    refusals: tuple[TrackRefusal, ...] = ()


@dataclass(frozen=True, slots=True)
class StageWork:
    """Parts of one kind: how many are done, since when they are worked on, and when the last one was finished."""

    done: int = 0
    total: int = 0
    began: datetime | None = None
    last: datetime | None = None


@dataclass(frozen=True, slots=True)
class EpochWork:
    """The countable work of an epoch."""

    examining: StageWork = field(default_factory=StageWork)
    scoring: Mapping[ScoringModel, StageWork] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WorkSpan:
    """One finished part of an epoch: who worked on it, on what, from when to when. ``model`` None: it was examined."""

    worker: str
    model: ScoringModel | None
    part: int
    began_at: datetime
    finished_at: datetime


@dataclass(frozen=True, slots=True)
class WeightsRecord:
    """The weight submission of an epoch, its failed tries included."""

    epoch_id: int
    number: int
    state: str
    vector: Mapping[int, float] | None
    tries: int
    detail: str | None
    updated_at: datetime
    extrinsic: str | None
    block_hash: str | None
    failures: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ScoreFailure:
    """Why a model has no score of a pair: ``code: sentence``."""

    model: ScoringModel
    protein: str
    smiles: str
    error: str


# All that a summary needs; header, neurons and rules stay in the database.
_SUMMARY: Final = (
    EpochRow.id,
    EpochRow.run,
    EpochRow.cluster,
    EpochRow.netuid,
    EpochRow.number,
    EpochRow.scores,
    EpochRow.publishes,
    EpochRow.stage,
    EpochRow.error,
    EpochRow.psichic_winner,
    EpochRow.boltz_winner,
    EpochRow.winners,
    EpochRow.unjudged,
    EpochRow.weights,
    EpochRow.created_at,
    EpochRow.touched_at,
    EpochRow.closed_at,
    EpochRow.stage_times,
)

_WEIGHTS: Final = (
    EpochRow.number,
    WeightSubmissionRow.epoch_id,
    WeightSubmissionRow.state,
    WeightSubmissionRow.vector,
    WeightSubmissionRow.tries,
    WeightSubmissionRow.detail,
    WeightSubmissionRow.updated_at,
    WeightSubmissionRow.extrinsic,
    WeightSubmissionRow.block_hash,
    WeightSubmissionRow.failures,
)


class EpochViews:
    """Reads for the pages, inside one session."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def count(self) -> int:
        """How many epochs the store holds."""
        return self._session.execute(select(func.count()).select_from(EpochRow)).scalar_one()

    def lines(self, limit: int, offset: int = 0, *, live_only: bool = False) -> list[EpochLine]:
        """Epochs, newest first. Two queries."""
        query = self._line_query().order_by(EpochRow.id.desc()).limit(limit).offset(offset)
        return self._lines(query.where(EpochRow.publishes) if live_only else query)

    def line(self, epoch_id: int) -> EpochLine | None:
        """One epoch; None where there is none of this id."""
        if not 0 <= epoch_id <= LARGEST_ID:
            return None
        return next(iter(self._lines(self._line_query().where(EpochRow.id == epoch_id))), None)

    def current(self) -> EpochLine | None:
        """The newest epoch that is not at its end, or else the newest of all; None in an empty store."""
        final = [stage.value for stage in FINAL_STAGES]
        query = self._line_query().order_by(EpochRow.stage.in_(final), EpochRow.id.desc()).limit(1)
        return next(iter(self._lines(query)), None)

    def last_live_end(self) -> datetime | None:
        """When a live epoch last ended as done; None where none ever was."""
        done = (EpochRow.stage == Stage.DONE.value) & EpochRow.publishes
        return self._session.execute(select(func.max(EpochRow.touched_at)).where(done)).scalar()

    def neighbours(self, epoch_id: int) -> tuple[int | None, int | None]:
        """Ids of the epochs before and after this one, in the order of the list."""
        before = select(func.max(EpochRow.id)).where(EpochRow.id < epoch_id).scalar_subquery()
        after = select(func.min(EpochRow.id)).where(EpochRow.id > epoch_id).scalar_subquery()
        row = self._session.execute(select(before, after)).one()
        return row[0], row[1]

    def facts(self, epoch_id: int) -> EpochFacts:
        """The frozen facts of an epoch that :meth:`line` found."""
        row = self._session.execute(
            select(
                EpochRow.header,
                EpochRow.rules,
                EpochRow.rules_sha256,
                EpochRow.challenge,
                EpochRow.sequences,
                EpochRow.without_boltz,
                EpochRow.scores,
            ).where(EpochRow.id == epoch_id)
        ).one()
        challenge = None
        if row.challenge is not None:
            challenge = Challenge(**{key: tuple(value) for key, value in row.challenge.items()})
        return EpochFacts(
            header=EpochHeader(**row.header),
            rules_text=row.rules,
            rules_sha256=row.rules_sha256,
            challenge=challenge,
            proteins=tuple(Protein(*protein) for protein in row.sequences or ()),
            without_boltz=row.without_boltz,
            scores=row.scores,
        )

    def submissions(self, epoch_id: int, after: int = -1, limit: int | None = None) -> list[SubmissionLine]:
        """The submissions without their molecules, UIDs ascending, from the UID above ``after`` on. One query."""
        rows = self._session.execute(
            select(
                SubmissionRow.uid,
                SubmissionRow.hotkey,
                SubmissionRow.block,
                SubmissionRow.path,
                SubmissionRow.push_time,
                SubmissionRow.state,
                SubmissionRow.code,
                SubmissionRow.message,
                SubmissionRow.molecule,
                SubmissionRow.molecule_index,
                SubmissionRow.entropy,
                SubmissionRow.psichic_score,
                SubmissionRow.boltz_score,
                SubmissionRow.entropy_boltz,
                SubmissionRow.psichic_rank,
                SubmissionRow.boltz_rank,
                SubmissionRow.finished_at,
                SubmissionRow.standings,
                SubmissionRow.tracks,
            )
            .where(SubmissionRow.epoch_id == epoch_id, SubmissionRow.uid > after)
            .order_by(SubmissionRow.uid)
            .limit(limit)
        )
        found: list[list[Any]] = [list(row) for row in rows]
        for values in found:
            values[5] = PartState(values[5])
            values[-2:] = track_standings(values[-2]), track_refusals(read_tracks(values[-1]))
        return [SubmissionLine(*values) for values in found]

    def refusals(self, epoch_id: int) -> dict[str, int]:
        """How many submissions were refused with each code. One query."""
        rows = self._session.execute(
            select(SubmissionRow.code, func.count())
            .where(SubmissionRow.epoch_id == epoch_id, SubmissionRow.state == PartState.REJECTED.value)
            .group_by(SubmissionRow.code)
        )
        return {code or "": count for code, count in rows}

    def molecules(self, epoch_id: int, uid: int) -> tuple[Molecule, ...]:
        """One submission's accepted molecules; empty where there are none, or no such submission."""
        if not (0 <= epoch_id <= LARGEST_ID and 0 <= uid <= LARGEST_ID):
            return ()
        found = self._session.execute(
            select(SubmissionRow.molecules).where(SubmissionRow.epoch_id == epoch_id, SubmissionRow.uid == uid)
        ).scalar_one_or_none()
        return tuple(Molecule(*molecule) for molecule in found or ())

    def warnings(self, epoch_id: int) -> list[str]:
        """The warnings of an epoch, sorted."""
        return sorted(self._session.execute(select(WarningRow.text).where(WarningRow.epoch_id == epoch_id)).scalars())

    def work(self, epoch_id: int, examining: Mapping[PartState, int]) -> EpochWork:
        """What of the epoch's work is done; ``examining`` is the line's counts. Two queries."""
        began, last = self._session.execute(
            select(func.min(SubmissionRow.began_at), func.max(SubmissionRow.finished_at)).where(
                SubmissionRow.epoch_id == epoch_id
            )
        ).one()
        total = sum(examining.values())
        found: dict[ScoringModel, StageWork] = {}
        for model, state, count, first, latest in self._session.execute(
            select(
                BatchRow.model,
                BatchRow.state,
                func.count(),
                func.min(BatchRow.began_at),
                func.max(BatchRow.finished_at),
            )
            .where(BatchRow.epoch_id == epoch_id)
            .group_by(BatchRow.model, BatchRow.state)
        ):
            before = found.get(ScoringModel(model), StageWork())
            found[ScoringModel(model)] = StageWork(
                done=before.done + (count if state == PartState.SCORED else 0),
                total=before.total + count,
                began=min(filter(None, (before.began, first)), default=None),
                last=max(filter(None, (before.last, latest)), default=None),
            )
        examined = StageWork(total - examining.get(PartState.PENDING, 0), total, began, last)
        return EpochWork(examined, found)

    def epoch_length(self, epoch_id: int) -> int:
        """How many blocks an epoch that :meth:`line` found is long."""
        header = self._session.execute(select(EpochRow.header).where(EpochRow.id == epoch_id)).scalar_one()
        return int(header["epoch_length"])

    def batch_spans(self, epoch_id: int) -> list[WorkSpan]:
        """The finished batches, in the order in which they were begun. One query."""
        rows = self._session.execute(
            select(BatchRow.worker, BatchRow.model, BatchRow.number, BatchRow.began_at, BatchRow.finished_at)
            .where(BatchRow.epoch_id == epoch_id, BatchRow.worker.is_not(None))
            .where(BatchRow.began_at.is_not(None), BatchRow.finished_at.is_not(None))
            .order_by(BatchRow.began_at)
        )
        return [
            WorkSpan(worker or "", ScoringModel(model), number, began, finished)
            for worker, model, number, began, finished in rows
            if began is not None and finished is not None
        ]

    def examination_spans(self, epoch_id: int) -> list[WorkSpan]:
        """The finished examinations, in the order in which they were begun. One query."""
        row = SubmissionRow
        rows = self._session.execute(
            select(row.worker, row.uid, row.began_at, row.finished_at)
            .where(row.epoch_id == epoch_id, row.worker.is_not(None))
            .where(row.began_at.is_not(None), row.finished_at.is_not(None))
            .order_by(row.began_at)
        )
        return [
            WorkSpan(worker or "", None, uid, began, finished)
            for worker, uid, began, finished in rows
            if began is not None and finished is not None
        ]

    def weights(self, epoch_id: int) -> WeightsRecord | None:
        """The weight submission of one epoch, once there is one."""
        return next(iter(self._weights(WeightSubmissionRow.epoch_id == epoch_id, limit=1)), None)

    def weights_history(self, limit: int, offset: int = 0) -> list[WeightsRecord]:
        """Weight submissions, newest epoch first. One query."""
        return self._weights(limit=limit, offset=offset)

    def weights_count(self) -> int:
        """How many weight submissions the store holds."""
        return self._session.execute(select(func.count(WeightSubmissionRow.epoch_id))).scalar_one()

    def score_failures(
        self, epoch_id: int, proteins: Iterable[Protein], smiles: Sequence[str]
    ) -> dict[tuple[ScoringModel, str, str], ScoreFailure]:
        """Why the epoch's models have no score of some of these molecules, by model, protein code and SMILES."""
        if not smiles:
            return {}
        models = self._session.execute(
            select(BatchRow.model, BatchRow.model_digest)
            .where(BatchRow.epoch_id == epoch_id, BatchRow.model_digest.is_not(None))
            .distinct()
        ).all()
        wanted, scores = tuple(proteins), Scores(self._session)
        return {
            (ScoringModel(model), code, text): ScoreFailure(ScoringModel(model), code, text, pair.error)
            for model, digest in models
            for (code, text), pair in scores.known(digest or "", wanted, smiles).items()
            if pair.error
        }

    def _line_query(self) -> Any:
        return select(*_SUMMARY, WeightSubmissionRow.state, WeightSubmissionRow.detail).outerjoin(
            WeightSubmissionRow, WeightSubmissionRow.epoch_id == EpochRow.id
        )

    def _lines(self, query: Any) -> list[EpochLine]:
        rows = self._session.execute(query).all()
        counts: dict[int, dict[PartState, int]] = {row.id: {} for row in rows}
        for epoch_id, state, count in self._session.execute(
            select(SubmissionRow.epoch_id, SubmissionRow.state, func.count())
            .where(SubmissionRow.epoch_id.in_(counts))
            .group_by(SubmissionRow.epoch_id, SubmissionRow.state)
        ):
            counts[epoch_id][PartState(state)] = count
        return [EpochLine(epoch_summary(row), counts[row.id], *row[-2:]) for row in rows]

    def _weights(self, *where: Any, limit: int, offset: int = 0) -> list[WeightsRecord]:
        rows = self._session.execute(
            select(*_WEIGHTS)
            .join(EpochRow, EpochRow.id == WeightSubmissionRow.epoch_id)
            .where(*where)
            .order_by(WeightSubmissionRow.epoch_id.desc())
            .limit(limit)
            .offset(offset)
        )
        return [
            WeightsRecord(
                epoch_id=row.epoch_id,
                number=row.number,
                state=row.state,
                vector=None if row.vector is None else {int(uid): share for uid, share in row.vector.items()},
                tries=row.tries,
                detail=row.detail,
                updated_at=row.updated_at,
                extrinsic=row.extrinsic,
                block_hash=row.block_hash,
                failures=tuple(row.failures or ()),
            )
            for row in rows
        ]
