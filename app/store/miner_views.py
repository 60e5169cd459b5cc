"""What the pages show of one miner over all molecule epochs, and what the search box finds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Row, func, select
from sqlalchemy.orm import Session

from app.store.epoch_views import TrackStanding, track_standings
from app.store.epochs import read_tracks
from app.store.records import PartState, Stage, TrackRefusal, track_refusals
from app.store.tables.base import LARGEST_ID
from app.store.tables.epochs import EpochRow, SubmissionRow

# Epochs in which a UID is looked for, and in which every molecule is: a week, and half a day.
_UID_EPOCHS: Final = 140
MOLECULE_EPOCHS: Final = 10

# Hits of a search.
MOST_FOUND: Final = 50


@dataclass(frozen=True, slots=True)
class MinerEntry:
    """One epoch of a miner: its verdict, ranks, scores and weight; the molecule behind a refusal.

    ``refusals`` are those of its tracks and items, without the one for which the whole submission is refused.
    """

    epoch_id: int
    number: int
    live: bool
    stage: Stage
    uid: int
    hotkey: str
    state: PartState
    code: str | None
    message: str | None
    molecule: str | None
    molecule_index: int | None
    molecule_smiles: str | None
    psichic_rank: int | None
    psichic_score: float | None
    boltz_rank: int | None
    boltz_score: float | None
    tracks: Mapping[str, TrackStanding]
    refusals: tuple[TrackRefusal, ...]
    weight: float | None
    opened_at: datetime
    judged_at: datetime | None


@dataclass(frozen=True, slots=True)
class Found:
    """A hit: the submission in which something was found, and what it was found as.

    A neuron of the model competitions has no epoch.
    """

    epoch_id: int | None
    number: int | None
    uid: int
    hotkey: str
    what: str


_ENTRY: Final = (
    EpochRow.id,
    EpochRow.number,
    EpochRow.publishes,
    EpochRow.stage,
    SubmissionRow.uid,
    SubmissionRow.hotkey,
    SubmissionRow.state,
    SubmissionRow.code,
    SubmissionRow.message,
    SubmissionRow.molecule,
    SubmissionRow.molecule_index,
    SubmissionRow.molecule_smiles,
    SubmissionRow.psichic_rank,
    SubmissionRow.psichic_score,
    SubmissionRow.boltz_rank,
    SubmissionRow.boltz_score,
    SubmissionRow.standings,
    SubmissionRow.tracks,
    EpochRow.weights,
    EpochRow.created_at,
    EpochRow.closed_at,
    SubmissionRow.finished_at,
)


class MinerViews:
    """Reads inside one session."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def count(self, hotkey: str) -> int:
        """In how many epochs a hotkey submitted something."""
        query = select(func.count()).select_from(SubmissionRow).where(SubmissionRow.hotkey == hotkey)
        return self._session.execute(query).scalar_one()

    def entries(self, hotkey: str, limit: int, offset: int = 0) -> list[MinerEntry]:
        """A miner's epochs, newest first. One query."""
        rows = self._session.execute(
            select(*_ENTRY)
            .join(EpochRow, EpochRow.id == SubmissionRow.epoch_id)
            .where(SubmissionRow.hotkey == hotkey)
            .order_by(EpochRow.id.desc())
            .limit(limit)
            .offset(offset)
        )
        return [_entry(row) for row in rows]

    def of_uid(self, uid: int) -> list[Found]:
        """The hotkeys that submitted under a UID in the last epochs, the newest of each first."""
        if not 0 <= uid <= LARGEST_ID:
            return []
        newest = select(EpochRow.id).order_by(EpochRow.id.desc()).limit(_UID_EPOCHS)
        return self._hotkeys(SubmissionRow.uid == uid, SubmissionRow.epoch_id.in_(newest.scalar_subquery()))

    def of_hotkey(self, beginning: str) -> list[Found]:
        """The hotkeys that begin so, each with its newest epoch."""
        # neither LIKE nor an order of texts means the same on both databases; the index covers this scan
        return self._hotkeys(func.substr(SubmissionRow.hotkey, 1, len(beginning)) == beginning)

    def of_molecule(self, text: str) -> list[Found]:
        """The submissions of the last epochs that hold a molecule or sequence by name, SMILES or InChIKey."""
        epochs = self._session.execute(
            select(EpochRow.id, EpochRow.number).order_by(EpochRow.id.desc()).limit(MOLECULE_EPOCHS)
        ).all()
        found: list[Found] = []
        for epoch_id, number in epochs:
            for hit in self._molecules(epoch_id, number, text):
                found.append(hit)
                if len(found) == MOST_FOUND:
                    return found
        return found

    def _molecules(self, epoch_id: int, number: int, text: str) -> Iterator[Found]:
        row = SubmissionRow
        rows = self._session.execute(
            select(row.uid, row.hotkey, row.molecule, row.molecule_smiles, row.molecules, row.tracks)
            .where(row.epoch_id == epoch_id)
            .order_by(row.uid)
            .execution_options(yield_per=16)
        )
        for uid, hotkey, refused, smiles, molecules, tracks in rows:
            if text in {refused, smiles}:
                yield Found(epoch_id, number, uid, hotkey, "the molecule that was refused")
                continue
            index = next((index for index, one in enumerate(molecules or ()) if text in one), None)
            if index is not None:
                yield Found(epoch_id, number, uid, hotkey, f"molecule {index}")
                continue
            items = ((name, item) for name, track in (tracks or {}).items() for item in track.get("items", ()))
            hit = next((name for name, one in items if text in {one["name"], one["structure"], one["key"]}), None)
            if hit is not None:
                yield Found(epoch_id, number, uid, hotkey, f"an item of the {hit} track")

    def _hotkeys(self, *where: Any) -> list[Found]:
        newest = (
            select(SubmissionRow.hotkey, func.max(SubmissionRow.epoch_id).label("epoch_id"))
            .where(*where)
            .group_by(SubmissionRow.hotkey)
            .order_by(func.max(SubmissionRow.epoch_id).desc())
            .limit(MOST_FOUND)
            .subquery()
        )
        rows = self._session.execute(
            select(EpochRow.id, EpochRow.number, SubmissionRow.uid, SubmissionRow.hotkey)
            .join(newest, (newest.c.hotkey == SubmissionRow.hotkey) & (newest.c.epoch_id == SubmissionRow.epoch_id))
            .join(EpochRow, EpochRow.id == SubmissionRow.epoch_id)
            .order_by(EpochRow.id.desc(), SubmissionRow.uid)
        )
        return [Found(*row, "its last submission") for row in rows]


def _entry(row: Row[Any]) -> MinerEntry:
    return MinerEntry(
        epoch_id=row.id,
        number=row.number,
        live=row.publishes,
        stage=Stage(row.stage),
        uid=row.uid,
        hotkey=row.hotkey,
        state=PartState(row.state),
        code=row.code,
        message=row.message,
        molecule=row.molecule,
        molecule_index=row.molecule_index,
        molecule_smiles=row.molecule_smiles,
        psichic_rank=row.psichic_rank,
        psichic_score=row.psichic_score,
        boltz_rank=row.boltz_rank,
        boltz_score=row.boltz_score,
        tracks=track_standings(row.standings),
        refusals=tuple(
            one
            for one in track_refusals(read_tracks(row.tracks))
            if (one.rejection.code, one.rejection.message) != (row.code, row.message)
        ),
        weight=(row.weights or {}).get(str(row.uid)),
        opened_at=row.created_at,
        judged_at=row.closed_at or row.finished_at,
    )
