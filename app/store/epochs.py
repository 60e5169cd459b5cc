"""The epoch aggregate: the epoch itself, its submissions, batches, warnings and weight submission."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any, Final

from pydantic import TypeAdapter
from sqlalchemy import func, select, update
from sqlalchemy.exc import NoResultFound
from sqlalchemy.orm import Session

from app.clock import now
from app.domain import (
    Challenge,
    Commitment,
    EpochHeader,
    Molecule,
    Neuron,
    Protein,
    Rejection,
    RejectionCode,
    ScoringModel,
    ValidatorError,
)
from app.store.claims import Claims, Work
from app.store.database import insert_ignoring
from app.store.records import (
    FINAL_STAGES,
    BatchRecord,
    EpochSummary,
    Examination,
    OpenEpoch,
    PartState,
    Progress,
    Stage,
    SubmissionRecord,
    TrackFindings,
    Verdict,
    WorkedOn,
)
from app.store.tables.epochs import BatchRow, EpochRow, SubmissionRow, WarningRow

# What is done for an epoch that was announced.
FIRST_STEP: Final = "workers.epochs.open_epoch"

# Submissions of a hundred molecules each, read at once.
_READ_TOGETHER: Final = 16


# How a submission's tracks are kept.
_TRACKS: Final = TypeAdapter(dict[str, TrackFindings])


class UnknownEpoch(ValidatorError):
    """No epoch with this id is in the store."""


class Epochs:
    """Reads and writes epochs inside one session; the caller owns the transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session

    # -- the epoch ------------------------------------------------------------------------------------------------

    def announce(
        self,
        run: str,
        header: EpochHeader,
        scores: str,
        cluster: str,
        *,
        publishes: bool = False,
        without_boltz: bool = False,
    ) -> int:
        """Make an epoch known, once: a second announcement of the same run returns the first one's id."""
        at = now()
        insert_ignoring(
            self._session,
            EpochRow,
            [
                {
                    "run": run,
                    "cluster": cluster,
                    "netuid": header.netuid,
                    "number": header.epoch,
                    "scores": scores,
                    "publishes": publishes,
                    "without_boltz": without_boltz,
                    "stage": Stage.ANNOUNCED.value,
                    "stage_times": {Stage.ANNOUNCED.value: at.isoformat()},
                    "header": asdict(header),
                    "created_at": at,
                    "touched_at": at,
                }
            ],
        )
        epoch_id, stage = self._session.execute(select(EpochRow.id, EpochRow.stage).where(EpochRow.run == run)).one()
        if stage == Stage.ANNOUNCED:
            Claims(self._session).add([Work(FIRST_STEP, (epoch_id,), epoch_id)], cluster)
        return int(epoch_id)

    def announce_missed(self, run: str, header: EpochHeader, cluster: str) -> int:
        """Make known an epoch that ended while nobody watched; it is never scored. Its id."""
        row = self._row(self.announce(run, header, "model", cluster, publishes=True), lock=True)
        if row.stage == Stage.ANNOUNCED:
            row.error = "no validator watched when this epoch ended"
            Claims(self._session).drop_epoch(row.id)
            self._enter(row, Stage.MISSED)
        return row.id

    def newest_headers(self, netuid: int, finalized: int) -> list[EpochHeader]:
        """For each network's name the live epoch of a subnet that was announced last, the newest first.

        Left out are missed epochs, whose hashes nobody asked for, and those that end after block ``finalized``.
        """
        rows = self._session.execute(
            select(EpochRow.header)
            .where(EpochRow.netuid == netuid, EpochRow.publishes, EpochRow.stage != Stage.MISSED.value)
            .order_by(EpochRow.id.desc())
        ).scalars()
        newest: dict[str, EpochHeader] = {}
        for header in (EpochHeader(**row) for row in rows):
            if header.end_block <= finalized:
                newest.setdefault(header.network, header)
        return list(newest.values())

    def live(self, netuid: int, number: int) -> int | None:
        """The id of a live epoch by its number; the one announced last where a number came twice.

        It does on another network, and after the tempo has changed.
        """
        query = (
            select(EpochRow.id)
            .where(EpochRow.netuid == netuid, EpochRow.number == number, EpochRow.publishes)
            .order_by(EpochRow.id.desc())
            .limit(1)
        )
        return self._session.execute(query).scalar_one_or_none()

    def find(self, netuid: int, number: int, *, replay: bool = False) -> int | None:
        """The id of an epoch by its number: the live one, else (or first, with ``replay``) its newest replay."""
        order = EpochRow.publishes if replay else EpochRow.publishes.desc()
        query = select(EpochRow.id).where(EpochRow.netuid == netuid, EpochRow.number == number)
        return self._session.execute(query.order_by(order, EpochRow.id.desc()).limit(1)).scalar()

    def unfinished(self) -> int | None:
        """The id of the newest epoch that is not at its end."""
        final = [stage.value for stage in FINAL_STAGES]
        query = select(EpochRow.id).where(EpochRow.stage.not_in(final)).order_by(EpochRow.id.desc()).limit(1)
        return self._session.execute(query).scalar()

    def header(self, epoch_id: int) -> EpochHeader:
        """The boundary of an epoch that may not be open yet."""
        return EpochHeader(**self._row(epoch_id).header)

    def open(
        self,
        epoch_id: int,
        *,
        header: EpochHeader,
        neurons: Iterable[Neuron],
        rules: str,
        rules_sha256: str,
        era: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        challenge: Challenge,
        proteins: Iterable[Protein],
        commitments: Iterable[tuple[int, Commitment]],
        warnings: Iterable[str],
    ) -> bool:
        """Freeze an announced epoch's facts and write its submissions; False where it is open already."""
        row = self._row(epoch_id, lock=True)
        if row.stage != Stage.ANNOUNCED:
            return False
        row.header, row.number = asdict(header), header.epoch
        row.neurons = [asdict(neuron) for neuron in neurons]
        row.rules, row.rules_sha256 = rules, rules_sha256
        row.era, row.parameters = era, parameters
        row.challenge = asdict(challenge)
        row.sequences = [[protein.code, protein.sequence, protein.alignment] for protein in proteins]
        self._enter(row, Stage.EXAMINING)
        insert_ignoring(
            self._session,
            SubmissionRow,
            [
                {
                    "epoch_id": epoch_id,
                    "uid": uid,
                    "hotkey": commitment.hotkey,
                    "block": commitment.block,
                    "path": commitment.data,
                    "state": PartState.PENDING.value,
                    "push_time": "",
                }
                for uid, commitment in commitments
            ],
        )
        self.warn(epoch_id, *warnings)
        return True

    def get(self, epoch_id: int) -> OpenEpoch:
        """An opened epoch's frozen facts."""
        row = self._row(epoch_id)
        if row.rules is None or row.challenge is None:
            raise ValidatorError(f"epoch {epoch_id} is not open yet")
        challenge = {key: tuple(value) for key, value in row.challenge.items()}
        return OpenEpoch(
            id=row.id,
            scores=row.scores,
            publishes=row.publishes,
            without_boltz=row.without_boltz,
            stage=Stage(row.stage),
            header=EpochHeader(**row.header),
            neurons=tuple(Neuron(**neuron) for neuron in row.neurons),
            rules_text=row.rules,
            parameters=row.parameters,
            rules_sha256=row.rules_sha256 or "",
            challenge=Challenge(**challenge),
            proteins=tuple(Protein(*protein) for protein in row.sequences),
        )

    def rules_text(self, epoch_id: int) -> str:
        """The rules file as it was frozen, letter by letter."""
        return self._row(epoch_id).rules or ""

    def summary(self, epoch_id: int) -> EpochSummary:
        """One epoch's line."""
        return epoch_summary(self._row(epoch_id))

    def recent(self, limit: int = 20, *, published_only: bool = False) -> list[EpochSummary]:
        """The latest epochs, newest first."""
        query = select(EpochRow).order_by(EpochRow.id.desc()).limit(limit)
        if published_only:
            query = query.where(EpochRow.publishes)
        rows = self._session.execute(query).scalars()
        return [epoch_summary(row) for row in rows]

    def fail(self, epoch_id: int, error: str, weights: Mapping[int, float] | None = None) -> bool:
        """End an epoch that cannot go on, with the reason; False where it had ended before.

        ``weights``: what the rules set all the same.
        """
        row = self._row(epoch_id, lock=True)
        if Stage(row.stage) in FINAL_STAGES:
            return False
        row.error = error
        row.weights = None if weights is None else {str(uid): share for uid, share in weights.items()}
        Claims(self._session).drop_epoch(epoch_id)
        self._enter(row, Stage.FAILED)
        return True

    def delete_before(self, instant: datetime, at_most: int) -> int:
        """Remove up to ``at_most`` finished epochs created before ``instant``, with all their parts; how many went."""
        old = (
            select(EpochRow.id)
            .where(EpochRow.created_at < instant, EpochRow.stage.in_([stage.value for stage in FINAL_STAGES]))
            .limit(at_most)
        )
        ids = list(self._session.execute(old).scalars())
        for epoch_id in ids:
            self._session.delete(self._row(epoch_id))
        return len(ids)

    # -- submissions ----------------------------------------------------------------------------------------------

    def pending_uids(self, epoch_id: int) -> list[int]:
        """UIDs still to be examined, ascending."""
        return list(
            self._session.execute(
                select(SubmissionRow.uid)
                .where(SubmissionRow.epoch_id == epoch_id, SubmissionRow.state == PartState.PENDING.value)
                .order_by(SubmissionRow.uid)
            ).scalars()
        )

    def submission(self, epoch_id: int, uid: int) -> SubmissionRecord:
        """One submission."""
        row = self._session.execute(
            select(SubmissionRow).where(SubmissionRow.epoch_id == epoch_id, SubmissionRow.uid == uid)
        ).scalar_one_or_none()
        if row is None:
            raise UnknownEpoch(f"epoch {epoch_id} has no submission of UID {uid}")
        return _submission(row)

    def submissions(self, epoch_id: int) -> list[SubmissionRecord]:
        """All submissions, UIDs ascending."""
        return list(self.each_submission(epoch_id))

    def each_submission(self, epoch_id: int) -> Iterator[SubmissionRecord]:
        """The same, with a few in memory at a time."""
        uids = self._session.scalars(
            select(SubmissionRow.uid).where(SubmissionRow.epoch_id == epoch_id).order_by(SubmissionRow.uid)
        ).all()
        for start in range(0, len(uids), _READ_TOGETHER):
            chosen = uids[start : start + _READ_TOGETHER]
            for row in self._session.scalars(
                select(SubmissionRow)
                .where(SubmissionRow.epoch_id == epoch_id, SubmissionRow.uid.in_(chosen))
                .order_by(SubmissionRow.uid)
            ):
                yield _submission(row)

    def record_examination(self, epoch_id: int, uid: int, found: Examination, by: WorkedOn | None = None) -> None:
        """Write what examining found, who found it, and when it was begun."""
        refused = found.rejection
        if refused is not None and refused.code is RejectionCode.INTERNAL_ERROR:
            self.warn(epoch_id, f"UID {uid} was refused for a fault of this validator: {refused.message}")
        self._session.execute(
            update(SubmissionRow)
            .where(
                SubmissionRow.epoch_id == epoch_id,
                SubmissionRow.uid == uid,
                SubmissionRow.state == PartState.PENDING.value,
            )
            .values(
                state=(PartState.REJECTED if refused else PartState.VALID).value,
                push_time=found.push_time,
                code=refused.code.value if refused else None,
                message=refused.message if refused else None,
                molecule=refused.molecule if refused else None,
                molecule_index=refused.index if refused else None,
                molecule_smiles=refused.smiles if refused else None,
                entropy=found.entropy,
                molecules=[[m.name, m.smiles, m.inchikey] for m in found.molecules] or None,
                tracks=_TRACKS.dump_python(dict(found.tracks), mode="json") or None,
                worker=by.worker if by else None,
                began_at=by.began_at if by else None,
                finished_at=now(),
            )
        )

    # -- batches --------------------------------------------------------------------------------------------------

    def plan(
        self,
        epoch_id: int,
        batches: Mapping[ScoringModel, Sequence[Sequence[str]]],
        known: Mapping[ScoringModel, str] | None = None,
    ) -> list[tuple[ScoringModel, int]]:
        """Write the batches and enter the scoring stage; model and id of those to be scored, in planning order.

        ``known``: the digest of each model whose scores the store has already.
        """
        digests = known or {}
        row = self._row(epoch_id, lock=True)
        for model, parts in batches.items():
            insert_ignoring(
                self._session,
                BatchRow,
                [
                    {
                        "epoch_id": epoch_id,
                        "model": model.value,
                        "number": number,
                        "smiles": list(smiles),
                        "state": (PartState.SCORED if model in digests else PartState.PENDING).value,
                        "model_digest": digests.get(model),
                    }
                    for number, smiles in enumerate(parts)
                ],
            )
        self._enter(row, Stage.SCORING)
        rows = self._session.execute(
            select(BatchRow.model, BatchRow.id)
            .where(BatchRow.epoch_id == epoch_id, BatchRow.state == PartState.PENDING.value)
            .order_by(BatchRow.id)
        )
        return [(ScoringModel(model), batch_id) for model, batch_id in rows]

    def batch(self, batch_id: int) -> BatchRecord:
        """One batch."""
        row = self._session.get(BatchRow, batch_id)
        if row is None:
            raise UnknownEpoch(f"no batch {batch_id} in the store")
        return _batch(row)

    def batches_of(self, batch_ids: Sequence[int]) -> list[BatchRecord]:
        """Batches, in the order of their ids."""
        rows = self._session.execute(select(BatchRow).where(BatchRow.id.in_(batch_ids)).order_by(BatchRow.id)).scalars()
        return [_batch(row) for row in rows]

    def batches(self, epoch_id: int, model: ScoringModel) -> list[BatchRecord]:
        """A model's batches, by number."""
        rows = self._session.execute(
            select(BatchRow)
            .where(BatchRow.epoch_id == epoch_id, BatchRow.model == model.value)
            .order_by(BatchRow.number)
        ).scalars()
        return [_batch(row) for row in rows]

    def begin_alone(self, batch_id: int, index: int | None) -> None:
        """Note which molecule of a batch is being scored alone."""
        self._session.execute(update(BatchRow).where(BatchRow.id == batch_id).values(begun_alone=index))

    def finish_batch(self, batch_id: int, model_digest: str, by: WorkedOn | None = None) -> None:
        """Mark a batch scored by the model with this digest, by whom, and when it was begun."""
        self.finish_batches([batch_id], model_digest, by)

    def finish_batches(self, batch_ids: Sequence[int], model_digest: str, by: WorkedOn | None = None) -> None:
        """The same for batches that were scored together."""
        self._session.execute(
            update(BatchRow)
            .where(BatchRow.id.in_(batch_ids))
            .values(
                state=PartState.SCORED.value,
                model_digest=model_digest,
                worker=by.worker if by else None,
                began_at=by.began_at if by else None,
                finished_at=now(),
                begun_alone=None,
            )
        )

    # -- closing --------------------------------------------------------------------------------------------------

    def close(
        self,
        epoch_id: int,
        verdicts: Iterable[Verdict],
        winners: Mapping[str, int | None],
        weights: Mapping[int, float] | None,
        warnings: Iterable[str],
        unjudged: Mapping[str, str] | None = None,
    ) -> None:
        """Write the standings and the weight vector."""
        row = self._row(epoch_id, lock=True)
        for verdict in verdicts:
            self._session.execute(
                update(SubmissionRow)
                .where(SubmissionRow.epoch_id == epoch_id, SubmissionRow.uid == verdict.uid)
                .values(
                    scored=verdict.scored,
                    entropy_boltz=verdict.entropy_boltz,
                    **{f"{name}_score": standing.score for name, standing in verdict.standings.items()},
                    **{f"{name}_rank": standing.rank for name, standing in verdict.standings.items()},
                    standings=dict(verdict.details) or None,
                )
            )
        row.psichic_winner, row.boltz_winner = winners.get("psichic"), winners.get("boltz")
        row.winners, row.unjudged = dict(winners), dict(unjudged or {}) or None
        row.weights = None if weights is None else {str(uid): share for uid, share in weights.items()}
        row.closed_at = now()
        self.warn(epoch_id, *warnings)
        self._enter(row, Stage.CLOSED)

    def finish(self, epoch_id: int) -> bool:
        """End a closed epoch whose weights are settled; False where it ended before."""
        row = self._row(epoch_id, lock=True)
        if row.stage != Stage.CLOSED:
            return False
        self._enter(row, Stage.DONE)
        return True

    # -- warnings, progress ---------------------------------------------------------------------------------------

    def warn(self, epoch_id: int, *texts: str) -> None:
        """Add sentences to the epoch's report."""
        insert_ignoring(self._session, WarningRow, [{"epoch_id": epoch_id, "text": text[:500]} for text in texts])

    def warnings(self, epoch_id: int) -> list[str]:
        """The report's warnings, sorted so that two validators print the same list."""
        return sorted(self._session.execute(select(WarningRow.text).where(WarningRow.epoch_id == epoch_id)).scalars())

    def progress(self, epoch_id: int) -> Progress:
        """How many parts are done."""
        row = self._session.execute(select(EpochRow.stage, EpochRow.error).where(EpochRow.id == epoch_id)).one_or_none()
        if row is None:
            raise UnknownEpoch(f"no epoch {epoch_id} in the store")
        submissions = dict(
            self._session.execute(
                select(SubmissionRow.state, func.count())
                .where(SubmissionRow.epoch_id == epoch_id)
                .group_by(SubmissionRow.state)
            ).all()
        )
        done: dict[str, int] = {}
        total: dict[str, int] = {}
        for model, state, count in self._session.execute(
            select(BatchRow.model, BatchRow.state, func.count())
            .where(BatchRow.epoch_id == epoch_id)
            .group_by(BatchRow.model, BatchRow.state)
        ):
            total[model] = total.get(model, 0) + count
            done[model] = done.get(model, 0) + (count if state == PartState.SCORED else 0)
        return Progress(
            stage=Stage(row.stage),
            error=row.error,
            submissions_done=sum(count for state, count in submissions.items() if state != PartState.PENDING),
            submissions=sum(submissions.values()),
            batches_done=done,
            batches=total,
        )

    def _row(self, epoch_id: int, *, lock: bool = False) -> EpochRow:
        statement = select(EpochRow).where(EpochRow.id == epoch_id)
        if lock:
            statement = statement.with_for_update()
        try:
            return self._session.execute(statement).scalar_one()
        except NoResultFound:
            raise UnknownEpoch(f"no epoch {epoch_id} in the store; see 'python -m app epoch list'") from None

    def _enter(self, row: EpochRow, stage: Stage) -> None:
        at = now()
        row.stage = stage.value
        row.stage_times = {**row.stage_times, stage.value: at.isoformat()}
        row.touched_at = at
        self._session.flush()


def epoch_summary(row: Any) -> EpochSummary:
    """One epoch's line, from an ``EpochRow`` or a result with its columns."""
    return EpochSummary(
        id=row.id,
        run=row.run,
        cluster=row.cluster,
        netuid=row.netuid,
        number=row.number,
        scores=row.scores,
        publishes=row.publishes,
        stage=Stage(row.stage),
        error=row.error,
        psichic_winner=row.psichic_winner,
        boltz_winner=row.boltz_winner,
        ranked=row.winners,
        unjudged=row.unjudged or {},
        weights=None if row.weights is None else {int(uid): share for uid, share in row.weights.items()},
        created_at=row.created_at,
        touched_at=row.touched_at,
        closed_at=row.closed_at,
        stage_times=row.stage_times or {},
    )


def read_tracks(kept: Any) -> dict[str, TrackFindings]:
    """The tracks of a submission from its row's column."""
    return _TRACKS.validate_python(kept or {})


def _submission(row: SubmissionRow) -> SubmissionRecord:
    rejection = None
    if row.code is not None:
        rejection = Rejection(
            RejectionCode(row.code), row.message or "", row.molecule, row.molecule_index, row.molecule_smiles
        )
    return SubmissionRecord(
        uid=row.uid,
        commitment=Commitment(row.hotkey, row.block, row.path),
        state=PartState(row.state),
        push_time=row.push_time,
        rejection=rejection,
        entropy=row.entropy,
        molecules=tuple(Molecule(*molecule) for molecule in row.molecules or ()),
        scored=row.scored,
        psichic_score=row.psichic_score,
        boltz_score=row.boltz_score,
        entropy_boltz=row.entropy_boltz,
        psichic_rank=row.psichic_rank,
        boltz_rank=row.boltz_rank,
        tracks=read_tracks(row.tracks),
        standings=row.standings or {},
    )


def _batch(row: BatchRow) -> BatchRecord:
    return BatchRecord(
        id=row.id,
        epoch_id=row.epoch_id,
        model=ScoringModel(row.model),
        number=row.number,
        smiles=tuple(row.smiles),
        state=PartState(row.state),
        model_digest=row.model_digest,
        begun_alone=row.begun_alone,
    )
