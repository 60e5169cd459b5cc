"""Submissions with several tracks, as pages show them: one board per track, one verdict per item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from app.domain import Rejection
from app.store.epoch_views import SubmissionLine
from app.store.records import ItemFinding, SubmissionRecord

# A board's first rows; the submissions' own pages have the rest.
_LEADERS: Final = 10


@dataclass(frozen=True, slots=True)
class TrackBoard:
    """One track of an epoch: its submissions, best first, or why it was not judged."""

    track: str
    winner: int | None
    unjudged: str | None
    entered: tuple[SubmissionLine, ...]

    @property
    def leaders(self) -> tuple[SubmissionLine, ...]:
        """Its first places."""
        return self.entered[:_LEADERS]

    @property
    def scores(self) -> dict[int, float]:
        """The finite scores by UID."""
        return {
            one.uid: float(score)
            for one in self.entered
            if isinstance(score := one.standings[self.track].score, int | float)
        }


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
    submissions: Sequence[SubmissionLine], winners: Mapping[str, int | None], unjudged: Mapping[str, str]
) -> tuple[TrackBoard, ...]:
    """The boards of an epoch with tracks, in the order in which its winners are listed."""
    found = []
    for track, winner in winners.items():
        entered = sorted(
            (one for one in submissions if track in one.standings),
            key=lambda one: (one.standings[track].rank or len(submissions) + 1, one.uid),
        )
        found.append(TrackBoard(track, winner, unjudged.get(track), tuple(entered)))
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
