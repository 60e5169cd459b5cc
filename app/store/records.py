"""What the repositories hand out: frozen views of the rows, in domain types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from app.domain import Challenge, Commitment, EpochHeader, Molecule, Neuron, Protein, Rejection, ScoringModel


class Stage(StrEnum):
    """How far an epoch is. An epoch only ever moves down this list."""

    ANNOUNCED = "announced"
    EXAMINING = "examining"
    SCORING = "scoring"
    CLOSED = "closed"
    DONE = "done"
    FAILED = "failed"
    MISSED = "missed"


FINAL_STAGES = frozenset({Stage.DONE, Stage.FAILED, Stage.MISSED})


class PartState(StrEnum):
    """A submission's or a batch's state."""

    PENDING = "pending"
    VALID = "valid"
    REJECTED = "rejected"
    SCORED = "scored"


@dataclass(frozen=True, slots=True)
class WorkedOn:
    """Which process worked on a part, and since when."""

    worker: str
    began_at: datetime


@dataclass(frozen=True, slots=True)
class EpochSummary:
    """One line of an epoch list."""

    id: int
    run: str
    cluster: str
    netuid: int
    number: int
    scores: str
    publishes: bool
    stage: Stage
    error: str | None
    psichic_winner: int | None
    boltz_winner: int | None
    weights: Mapping[int, float] | None
    created_at: datetime
    touched_at: datetime
    closed_at: datetime | None
    stage_times: Mapping[str, str]

    ranked: Mapping[str, int | None] | None = None
    unjudged: Mapping[str, str] = field(default_factory=dict)

    @property
    def winners(self) -> Mapping[str, int | None]:
        """The winner of each ranking."""
        if self.ranked is not None:
            return self.ranked
        return {"psichic": self.psichic_winner, "boltz": self.boltz_winner}

    def entered(self, stage: Stage) -> datetime:
        """When the epoch entered a stage that it has reached."""
        return datetime.fromisoformat(self.stage_times[stage.value])


@dataclass(frozen=True, slots=True)
class OpenEpoch:
    """All that was frozen when the epoch opened."""

    id: int
    scores: str
    publishes: bool
    without_boltz: bool
    stage: Stage
    header: EpochHeader
    neurons: tuple[Neuron, ...]
    rules_text: str
    parameters: Any
    rules_sha256: str
    challenge: Challenge
    proteins: tuple[Protein, ...]

    @property
    def targets(self) -> tuple[Protein, ...]:
        """The target proteins, in challenge order."""
        return self.proteins[: len(self.challenge.targets)]

    @property
    def antitargets(self) -> tuple[Protein, ...]:
        """The antitarget proteins, in challenge order."""
        start = len(self.challenge.targets)
        return self.proteins[start : start + len(self.challenge.antitargets)]

    @property
    def nanobody_targets(self) -> tuple[Protein, ...]:
        """The nanobodies' target proteins, in challenge order."""
        return self.proteins[len(self.challenge.targets) + len(self.challenge.antitargets) :]


@dataclass(frozen=True, slots=True)
class SubmissionRecord:
    """One submission. ``scored`` holds the report's per-molecule entries once the epoch is closed."""

    uid: int
    commitment: Commitment
    state: PartState
    push_time: str
    rejection: Rejection | None
    entropy: float | None
    molecules: tuple[Molecule, ...]
    scored: Any
    psichic_score: float | None
    boltz_score: float | None
    entropy_boltz: float | None
    psichic_rank: int | None
    boltz_rank: int | None
    tracks: Mapping[str, TrackFindings] = field(default_factory=dict)
    standings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """Up to 32 unique SMILES for one model. ``begun_alone`` is the index last begun alone, where the batch is being
    worked molecule by molecule after it killed its worker."""

    id: int
    epoch_id: int
    model: ScoringModel
    number: int
    smiles: tuple[str, ...]
    state: PartState
    model_digest: str | None
    begun_alone: int | None


@dataclass(frozen=True, slots=True)
class Progress:
    """Counts for the progress bars: parts done and in all, per kind of part."""

    stage: Stage
    error: str | None
    submissions_done: int
    submissions: int
    batches_done: Mapping[str, int]
    batches: Mapping[str, int]


class TrackStatus(StrEnum):
    """What became of one track of a submission; UNJUDGED is this validator's fault, not the miner's."""

    VALID = "valid"
    REJECTED = "rejected"
    ABSENT = "absent"
    UNJUDGED = "unjudged"


@dataclass(frozen=True, slots=True)
class ItemFinding:
    """One item of a track: as it was named, its structure (SMILES or sequence) and its key (InChIKey or hash).

    ``details`` holds what was measured on the way, accepted or not.
    """

    name: str
    structure: str = ""
    key: str = ""
    rejection: Rejection | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TrackFindings:
    """What the rules decided about one track: its items in the miner's order, and why it is refused as a whole."""

    status: TrackStatus
    items: tuple[ItemFinding, ...] = ()
    rejection: Rejection | None = None
    entropy: float | None = None
    figures: Mapping[str, str] = field(default_factory=dict)
    """What programs found out of the items on this machine, as the recording's tables, by file name."""

    @property
    def accepted(self) -> tuple[ItemFinding, ...]:
        """The items that count; none unless the track is valid."""
        return tuple(item for item in self.items if not item.rejection) if self.status is TrackStatus.VALID else ()


@dataclass(frozen=True, slots=True)
class TrackRefusal:
    """Why one track of a submission is refused (``whole``), or only one item of it."""

    track: str
    whole: bool
    rejection: Rejection


def track_refusals(tracks: Mapping[str, TrackFindings]) -> tuple[TrackRefusal, ...]:
    """What was refused in each track: the track first, then its items; an item that refused its track once."""
    return tuple(
        TrackRefusal(track, rejection is found.rejection, rejection)
        for track, found in tracks.items()
        for rejection in (
            *filter(None, (found.rejection,)),
            *(item.rejection for item in found.items if item.rejection and item.rejection != found.rejection),
        )
    )


@dataclass(frozen=True, slots=True)
class Findings:
    """What the rules decided about a submission's items: the accepted molecules and their entropy.

    Where an era has several tracks, each one's findings; ``rejection`` where none of them counts.
    """

    molecules: tuple[Molecule, ...] = ()
    entropy: float | None = None
    rejection: Rejection | None = None
    tracks: Mapping[str, TrackFindings] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Examination:
    """What examining one submission found: molecules and entropy, or the rejection."""

    push_time: str
    molecules: tuple[Molecule, ...] = ()
    entropy: float | None = None
    rejection: Rejection | None = None
    tracks: Mapping[str, TrackFindings] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Standing:
    """A submission's score in one ranking (−inf where it has none) and its rank (1 is the winner)."""

    score: float
    rank: int | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What closing an epoch writes for one valid submission: per-molecule entries, and its place in each ranking."""

    uid: int
    scored: Any
    standings: Mapping[str, Standing]
    entropy_boltz: float | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
