"""Submissions with several tracks, as pages show them: one board per track, one verdict per item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from app.domain import Rejection
from app.store.records import ItemFinding, SubmissionRecord

# A board's first rows; the submissions' own pages have the rest.
_LEADERS: Final = 10


@dataclass(frozen=True, slots=True)
class BoardLine:
    """A UID's place in one track."""

    uid: int
    block: int
    rank: int | None
    score: float | str | None
    rank_sums: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class TrackBoard:
    """One track of an epoch: its first places, or why it was not judged."""

    track: str
    winner: int | None
    entered: int
    unjudged: str | None
    lines: tuple[BoardLine, ...]


@dataclass(frozen=True, slots=True)
class TrackItem:
    """One item of a submission: its verdict, what was measured, and its score where it counts."""

    finding: ItemFinding
    score: float | str | None
    metrics: Mapping[str, Any]

    @property
    def rejection(self) -> Rejection | None:
        """Why this item is refused."""
        return self.finding.rejection

    @property
    def nearest(self) -> Mapping[str, Any] | None:
        """The archived molecule that it resembles most."""
        return self.finding.details.get("nearest")


@dataclass(frozen=True, slots=True)
class SubmissionTrack:
    """One track of a submission."""

    track: str
    status: str
    rejection: Rejection | None
    rank: int | None
    score: float | str | None
    rank_sums: Mapping[str, float]
    items: tuple[TrackItem, ...]


def boards(
    submissions: Sequence[SubmissionRecord], winners: Mapping[str, int | None], unjudged: Mapping[str, str]
) -> tuple[TrackBoard, ...]:
    """The boards of an epoch with tracks, in the order in which its winners are listed."""
    found = []
    for track, winner in winners.items():
        lines = [
            BoardLine(
                one.uid, one.commitment.block, standing["rank"], standing["score"], standing.get("rank_sums") or {}
            )
            for one in submissions
            if (standing := one.standings.get(track)) is not None
        ]
        lines.sort(key=lambda line: (line.rank or len(lines) + 1, line.uid))
        found.append(TrackBoard(track, winner, len(lines), unjudged.get(track), tuple(lines[:_LEADERS])))
    return tuple(found)


def tracks_of(submission: SubmissionRecord) -> tuple[SubmissionTrack, ...]:
    """The tracks of one submission; none in an era without tracks."""
    return tuple(_track(submission, track) for track in submission.tracks)


def _track(submission: SubmissionRecord, track: str) -> SubmissionTrack:
    found, standing = submission.tracks[track], submission.standings.get(track) or {}
    scored = {entry.get("smiles") or entry.get("sequence"): entry for entry in standing.get("items", ())}
    items = []
    for item in found.items:
        entry = scored.get(item.structure, {}) if item.rejection is None else {}
        by_target = entry.get("boltz") or entry.get("boltzgen") or {}
        metrics = {f"{target} {name}": value for target, values in by_target.items() for name, value in values.items()}
        items.append(TrackItem(item, entry.get("score"), metrics))
    return SubmissionTrack(
        track=track,
        status=found.status.value,
        rejection=found.rejection,
        rank=standing.get("rank"),
        score=standing.get("score"),
        rank_sums=standing.get("rank_sums") or {},
        items=tuple(items),
    )
