"""The last epochs at a glance, and how the running one stands against its time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import median
from typing import Final

from app.api.pages.epochs.stage_bars import RANKING_NAMES
from app.domain import BLOCK
from app.store.epoch_views import EpochLine, WorkSpan
from app.store.records import PartState, Stage

STRIP: Final = 20


@dataclass(frozen=True, slots=True)
class StripCell:
    """One epoch of the strip. ``seconds``: from its announcement to its end, None before that."""

    line: EpochLine
    valid: int
    refused: int
    pending: int
    seconds: float | None
    winners: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class EpochClock:
    """How the current epoch stands against its time.

    ``closes_at``: when the next epoch closes, after which these weights are late. ``expected``: median seconds from
    announcement to end of the epochs before it. ``gpu_busy``: the share of the scoring time in which its GPU workers
    computed, by ``gpu_workers``. None where nobody knows.
    """

    closes_at: datetime | None
    expected: float | None
    spent: float
    gpu_busy: float | None
    gpu_workers: int

    @property
    def left(self) -> float | None:
        """Seconds that it will still take, as the epochs before it did."""
        return None if self.expected is None else max(0.0, self.expected - self.spent)


def strip(lines: Sequence[EpochLine]) -> tuple[StripCell, ...]:
    """The cells of ``lines``, newest first as they are."""
    return tuple(
        StripCell(
            line,
            line.counts.get(PartState.VALID, 0),
            line.counts.get(PartState.REJECTED, 0),
            line.counts.get(PartState.PENDING, 0),
            seconds_of(line),
            {RANKING_NAMES.get(name, name): uid for name, uid in line.summary.winners.items() if uid is not None},
        )
        for line in lines
    )


def seconds_of(line: EpochLine) -> float | None:
    """How long an epoch took that ended as done."""
    times = line.summary.stage_times
    if line.summary.stage is not Stage.DONE or not {Stage.ANNOUNCED.value, Stage.DONE.value} <= set(times):
        return None
    return (_at(times, Stage.DONE) - _at(times, Stage.ANNOUNCED)).total_seconds()


def clock(
    line: EpochLine, length: int, lines: Sequence[EpochLine], spans: Sequence[WorkSpan], now: datetime
) -> EpochClock:
    """The clock of the current epoch; ``length`` in blocks, ``lines`` the epochs before it, ``spans`` its batches."""
    before = [
        seconds
        for other in lines
        if other.summary.id != line.summary.id and other.live == line.live
        if (seconds := seconds_of(other)) is not None
    ]
    workers = {span.worker for span in spans}
    busy = sum((span.finished_at - span.began_at).total_seconds() for span in spans)
    whole = (
        (max(span.finished_at for span in spans) - min(span.began_at for span in spans)).total_seconds()
        if spans
        else 0.0
    )
    return EpochClock(
        closes_at=line.summary.created_at + length * BLOCK if line.live and not line.final else None,
        expected=median(before) if before else None,
        spent=seconds_of(line) or ((_ended(line) if line.final else now) - line.summary.created_at).total_seconds(),
        gpu_busy=min(1.0, busy / (whole * len(workers))) if whole > 0 else None,
        gpu_workers=len(workers),
    )


def _ended(line: EpochLine) -> datetime:
    """When a final epoch, however it ended, came to its last stage."""
    return max(map(datetime.fromisoformat, line.summary.stage_times.values()), default=line.summary.touched_at)


def _at(times: Mapping[str, str], stage: Stage) -> datetime:
    return datetime.fromisoformat(times[stage.value])
