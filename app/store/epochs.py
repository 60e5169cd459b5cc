"""The epoch aggregate: the epoch itself, its submissions, batches, warnings and weight submission."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any, cast

from sqlalchemy import CursorResult, func, or_, select, update
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
from app.store.database import insert_ignoring
from app.store.records import (
    FINAL_STAGES,
    BatchRecord,
    ClaimOutcome,
    EpochSummary,
    Examination,
    OpenEpoch,
    PartState,
    Progress,
    Stage,
    SubmissionRecord,
    Verdict,
)
from app.store.tables.epochs import BatchRow, EpochRow, SubmissionRow, WarningRow, WeightSubmissionRow


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
        source: str,
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
                    "source": source,
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
        return self._session.execute(select(EpochRow.id).where(EpochRow.run == run)).scalar_one()

    def announce_missed(self, run: str, header: EpochHeader, source: str, cluster: str) -> int:
        """Make known an epoch that ended while nobody watched; it is never scored. Its id."""
        row = self._row(self.announce(run, header, source, "model", cluster, publishes=True), lock=True)
        if row.stage == Stage.ANNOUNCED:
            row.error = "no validator watched when this epoch ended"
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

    def announced(self, epoch_id: int) -> tuple[Stage, str]:
        """The stage and source of an epoch that may not be open yet."""
        row = self._row(epoch_id)
        return Stage(row.stage), row.source

    def open(
        self,
        epoch_id: int,
        *,
        header: EpochHeader,
        neurons: Iterable[Neuron],
        rules: str,
        rules_sha256: str,
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
        row.challenge = asdict(challenge)
        row.sequences = [[protein.code, protein.sequence] for protein in proteins]
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
                    "attempts": 0,
                }
                for uid, commitment in commitments
            ],
        )
        for text in warnings:
            self.warn(epoch_id, text)
        return True

    def get(self, epoch_id: int) -> OpenEpoch:
        """An opened epoch's frozen facts."""
        row = self._row(epoch_id)
        if row.rules is None or row.challenge is None:
            raise ValidatorError(f"epoch {epoch_id} is not open yet")
        challenge = {key: tuple(value) for key, value in row.challenge.items()}
        return OpenEpoch(
            id=row.id,
            source=row.source,
            scores=row.scores,
            publishes=row.publishes,
            without_boltz=row.without_boltz,
            stage=Stage(row.stage),
            header=EpochHeader(**row.header),
            neurons=tuple(Neuron(**neuron) for neuron in row.neurons),
            rules_text=row.rules,
            rules_sha256=row.rules_sha256 or "",
            challenge=Challenge(**challenge),
            proteins=tuple(Protein(code, sequence) for code, sequence in row.sequences),
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

    def unfinished(self, cluster: str) -> list[EpochSummary]:
        """The cluster's epochs that are not in a final stage, oldest first."""
        rows = self._session.execute(
            select(EpochRow)
            .where(EpochRow.cluster == cluster, EpochRow.stage.not_in([stage.value for stage in FINAL_STAGES]))
            .order_by(EpochRow.id)
        ).scalars()
        return [epoch_summary(row) for row in rows]

    def fail(self, epoch_id: int, error: str) -> bool:
        """End an epoch that cannot go on, with the reason; False where it had ended before."""
        row = self._row(epoch_id, lock=True)
        if Stage(row.stage) in FINAL_STAGES:
            return False
        row.error = error
        self._enter(row, Stage.FAILED)
        return True

    def touch(self, epoch_id: int) -> None:
        """Note that the epoch moved."""
        self._session.execute(update(EpochRow).where(EpochRow.id == epoch_id).values(touched_at=now()))

    def delete_before(self, instant: datetime) -> int:
        """Remove finished epochs created before ``instant``, with all their parts; how many went."""
        ids = list(
            self._session.execute(
                select(EpochRow.id).where(
                    EpochRow.created_at < instant, EpochRow.stage.in_([stage.value for stage in FINAL_STAGES])
                )
            ).scalars()
        )
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
        rows = self._session.execute(
            select(SubmissionRow).where(SubmissionRow.epoch_id == epoch_id).order_by(SubmissionRow.uid)
        ).scalars()
        return [_submission(row) for row in rows]

    def claim_submission(self, epoch_id: int, uid: int, task_id: str, holder: str, lease: timedelta) -> ClaimOutcome:
        """Take a submission to examine it."""
        return self._claim(
            SubmissionRow, (SubmissionRow.epoch_id == epoch_id, SubmissionRow.uid == uid), task_id, holder, lease
        )

    def give_back(self, epoch_id: int, uid: int) -> None:
        """Void a claim whose examination could not begin, as if it had not been made."""
        self._session.execute(
            update(SubmissionRow)
            .where(
                SubmissionRow.epoch_id == epoch_id,
                SubmissionRow.uid == uid,
                SubmissionRow.state == PartState.PENDING.value,
            )
            .values(claimed_task=None, claimed_by=None, claimed_at=None, attempts=SubmissionRow.attempts - 1)
        )
        self.touch(epoch_id)

    def record_examination(self, epoch_id: int, uid: int, found: Examination) -> bool:
        """Write what examining found; False where it was written before."""
        refused = found.rejection
        result = self._session.execute(
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
                entropy=found.entropy,
                molecules=[[m.name, m.smiles, m.inchikey] for m in found.molecules] or None,
                finished_at=now(),
            )
        )
        self.touch(epoch_id)
        return _changed(result)

    # -- batches --------------------------------------------------------------------------------------------------

    def plan(self, epoch_id: int, batches: Mapping[ScoringModel, Sequence[Sequence[str]]]) -> bool:
        """Write the batches and enter the scoring stage; False where the epoch is past it."""
        row = self._row(epoch_id, lock=True)
        if row.stage != Stage.EXAMINING:
            return False
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
                        "state": PartState.PENDING.value,
                        "attempts": 0,
                    }
                    for number, smiles in enumerate(parts)
                ],
            )
        self._enter(row, Stage.SCORING)
        return True

    def pending_batches(self, epoch_id: int) -> list[tuple[ScoringModel, int]]:
        """Model and id of the batches still to be scored, in planning order."""
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

    def batches(self, epoch_id: int, model: ScoringModel) -> list[BatchRecord]:
        """A model's batches, by number."""
        rows = self._session.execute(
            select(BatchRow)
            .where(BatchRow.epoch_id == epoch_id, BatchRow.model == model.value)
            .order_by(BatchRow.number)
        ).scalars()
        return [_batch(row) for row in rows]

    def claim_batch(self, batch_id: int, task_id: str, holder: str, lease: timedelta) -> ClaimOutcome:
        """Take a batch to score it."""
        return self._claim(BatchRow, (BatchRow.id == batch_id,), task_id, holder, lease)

    def suspect(self, batch_id: int, index: int | None) -> None:
        """Note which molecule of a batch is being scored alone."""
        self._session.execute(update(BatchRow).where(BatchRow.id == batch_id).values(suspect=index))

    def finish_batch(self, batch: BatchRecord, model_digest: str) -> bool:
        """Mark a batch scored by the model with this digest; False where it was before."""
        result = self._session.execute(
            update(BatchRow)
            .where(BatchRow.id == batch.id, BatchRow.state == PartState.PENDING.value)
            .values(state=PartState.SCORED.value, model_digest=model_digest, finished_at=now(), suspect=None)
        )
        self.touch(batch.epoch_id)
        return _changed(result)

    # -- closing --------------------------------------------------------------------------------------------------

    def close(
        self,
        epoch_id: int,
        verdicts: Iterable[Verdict],
        winners: Mapping[str, int | None],
        weights: Mapping[int, float] | None,
        warnings: Iterable[str],
    ) -> bool:
        """Write the standings and the weight vector; False where the epoch was closed before."""
        row = self._row(epoch_id, lock=True)
        if row.stage != Stage.SCORING:
            return False
        for verdict in verdicts:
            self._session.execute(
                update(SubmissionRow)
                .where(SubmissionRow.epoch_id == epoch_id, SubmissionRow.uid == verdict.uid)
                .values(
                    scored=verdict.scored,
                    entropy_boltz=verdict.entropy_boltz,
                    **{f"{name}_score": standing.score for name, standing in verdict.standings.items()},
                    **{f"{name}_rank": standing.rank for name, standing in verdict.standings.items()},
                )
            )
        row.psichic_winner, row.boltz_winner = winners.get("psichic"), winners.get("boltz")
        row.weights = None if weights is None else {str(uid): share for uid, share in weights.items()}
        row.closed_at = now()
        for text in warnings:
            self.warn(epoch_id, text)
        self._enter(row, Stage.CLOSED)
        return True

    def record_weights(self, epoch_id: int, state: str, detail: str | None, tries: int) -> bool:
        """Write the outcome of the one weight submission and end the epoch; False where it ended before."""
        row = self._row(epoch_id, lock=True)
        if row.stage != Stage.CLOSED:
            return False
        insert_ignoring(
            self._session,
            WeightSubmissionRow,
            [
                {
                    "epoch_id": epoch_id,
                    "state": state,
                    "vector": row.weights,
                    "tries": tries,
                    "detail": detail,
                    "updated_at": now(),
                }
            ],
        )
        self._enter(row, Stage.DONE)
        return True

    # -- warnings, progress, claims -------------------------------------------------------------------------------

    def warn(self, epoch_id: int, text: str) -> None:
        """Add a sentence to the epoch's report."""
        insert_ignoring(self._session, WarningRow, [{"epoch_id": epoch_id, "text": text[:500]}])

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

    def release_claims(self, epoch_id: int, dead: Iterable[str]) -> int:
        """Void the claims of holders that no longer live; how many were voided."""
        holders = list(dead)
        voided = 0
        for table in (SubmissionRow, BatchRow):
            result = self._session.execute(
                update(table)
                .where(
                    table.epoch_id == epoch_id,
                    table.state == PartState.PENDING.value,
                    table.claimed_by.in_(holders),
                )
                .values(claimed_task=None, claimed_by=None, claimed_at=None)
            )
            voided += cast(CursorResult[Any], result).rowcount
        return voided

    def release_former_claims(self, epoch_id: int, started: Mapping[str, datetime]) -> int:
        """Void the claims that are older than their holder: a container's new processes bear the old ones' numbers."""
        voided = 0
        for table in (SubmissionRow, BatchRow):
            for holder, since in started.items():
                result = self._session.execute(
                    update(table)
                    .where(
                        table.epoch_id == epoch_id,
                        table.state == PartState.PENDING.value,
                        table.claimed_by == holder,
                        table.claimed_at < since,
                    )
                    .values(claimed_task=None, claimed_by=None, claimed_at=None)
                )
                voided += cast(CursorResult[Any], result).rowcount
        return voided

    def holders(self, epoch_id: int) -> set[str]:
        """Who holds a claim on a part of the epoch that is not done."""
        found: set[str] = set()
        for table in (SubmissionRow, BatchRow):
            found.update(
                holder
                for holder in self._session.execute(
                    select(table.claimed_by).where(
                        table.epoch_id == epoch_id,
                        table.state == PartState.PENDING.value,
                        table.claimed_by.is_not(None),
                    )
                ).scalars()
                if holder
            )
        return found

    def _claim(self, table: Any, which: tuple[Any, ...], task_id: str, holder: str, lease: timedelta) -> ClaimOutcome:
        at = now()
        result = self._session.execute(
            update(table)
            .where(
                *which,
                table.state == PartState.PENDING.value,
                or_(table.claimed_task.is_(None), table.claimed_task == task_id, table.claimed_at < at - lease),
            )
            .values(claimed_task=task_id, claimed_by=holder, claimed_at=at, attempts=table.attempts + 1)
        )
        if _changed(result):
            return ClaimOutcome.CLAIMED
        state = self._session.execute(select(table.state).where(*which)).scalar_one_or_none()
        if state is None:
            return ClaimOutcome.GONE
        return ClaimOutcome.BUSY if state == PartState.PENDING else ClaimOutcome.DONE

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


def _changed(result: object) -> bool:
    return cast(CursorResult[Any], result).rowcount > 0


def epoch_summary(row: Any) -> EpochSummary:
    """One epoch's line, from an ``EpochRow`` or a result with its columns."""
    return EpochSummary(
        id=row.id,
        run=row.run,
        cluster=row.cluster,
        netuid=row.netuid,
        number=row.number,
        source=row.source,
        scores=row.scores,
        publishes=row.publishes,
        stage=Stage(row.stage),
        error=row.error,
        psichic_winner=row.psichic_winner,
        boltz_winner=row.boltz_winner,
        weights=None if row.weights is None else {int(uid): share for uid, share in row.weights.items()},
        created_at=row.created_at,
        touched_at=row.touched_at,
        closed_at=row.closed_at,
        stage_times=row.stage_times or {},
    )


def _submission(row: SubmissionRow) -> SubmissionRecord:
    rejection = None
    if row.code is not None:
        rejection = Rejection(RejectionCode(row.code), row.message or "", row.molecule, row.molecule_index)
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
        attempts=row.attempts,
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
        attempts=row.attempts,
        suspect=row.suspect,
    )
