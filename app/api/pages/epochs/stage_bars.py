"""How far an epoch is, as bars: what the command line's progress shows, with an estimate of what is left."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from app.domain import ScoringModel
from app.store.epoch_views import EpochLine, EpochWork, StageWork
from app.store.records import Stage

MODEL_NAMES: Final = {ScoringModel.PSICHIC: "PSICHIC", ScoringModel.BOLTZ: "Boltz-2", ScoringModel.BOLTZGEN: "BoltzGen"}

# Rankings that are named after their model.
RANKING_NAMES: Final = {model.value: name for model, name in MODEL_NAMES.items()}

# What each stage's time is called, and between which two entries of ``stage_times`` it lies.
_SPANS: Final = (
    ("open", Stage.ANNOUNCED, Stage.EXAMINING),
    ("examine", Stage.EXAMINING, Stage.SCORING),
    ("score and rank", Stage.SCORING, Stage.CLOSED),
    ("weights", Stage.CLOSED, Stage.DONE),
)

# Work stands still when nothing was finished for so many times the usual, and for so long (s).
_PATIENCE: Final = 10
_LEAST_PATIENCE: Final = 60.0

_ORDER: Final = (Stage.ANNOUNCED, Stage.EXAMINING, Stage.SCORING, Stage.CLOSED, Stage.DONE)


class BarState(StrEnum):
    """A stage's state, as the page says it."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class StageBar:
    """One bar. ``total`` is 0 where nothing is counted; ``eta`` and ``took`` are seconds, None where nobody knows."""

    key: str
    name: str
    state: BarState
    done: int
    total: int
    unit: str = ""
    eta: float | None = None
    took: float | None = None


def stage_bars(line: EpochLine, work: EpochWork, now: datetime) -> tuple[StageBar, ...]:
    """The bars of one epoch, in the order of its stages."""
    took = stage_seconds(line.summary.stage_times)
    reached = _reached(line)
    ended = line.summary.stage in {Stage.FAILED, Stage.MISSED}
    bars = [
        _single("open", "Open", 0, reached, ended, took.get("open")),
        _counted("examine", "Examine", 1, reached, ended, work.examining, "submissions", now, took.get("examine")),
    ]
    for model in ScoringModel:
        found = work.scoring.get(model)
        if found is None and (reached >= 2 or model is ScoringModel.BOLTZGEN):
            continue
        bars.append(
            _counted(
                model.value,
                f"Score with {MODEL_NAMES[model]}",
                2,
                reached,
                ended,
                found or StageWork(),
                "batches",
                now,
                _length(found.began, found.last) if found else None,
            )
        )
    scored = all(part.done == part.total for part in work.scoring.values())
    ranking = _single("rank", "Rank and weigh", 2, reached, ended, None)
    if ranking.state is BarState.RUNNING and not scored:
        ranking = StageBar(ranking.key, ranking.name, BarState.WAITING, 0, 0)
    bars.append(ranking)
    bars.append(_single("weights", "Submit weights", 3, reached, ended, took.get("weights")))
    return tuple(bars)


def stage_spans(stage_times: Mapping[str, str]) -> Iterator[tuple[str, datetime, datetime]]:
    """Each ended stage, from when to when."""
    for name, first, second in _SPANS:
        if first.value in stage_times and second.value in stage_times:
            began, ended = (datetime.fromisoformat(stage_times[stage.value]) for stage in (first, second))
            yield name, began, ended


def stage_seconds(stage_times: Mapping[str, str]) -> dict[str, float]:
    """Seconds per ended stage."""
    return {name: (ended - began).total_seconds() for name, began, ended in stage_spans(stage_times)}


def _reached(line: EpochLine) -> int:
    """The number of the stage that the epoch is in; of the last one it was in, where it failed."""
    if line.summary.stage in _ORDER:
        return _ORDER.index(line.summary.stage)
    return max((_ORDER.index(stage) for stage in _ORDER if stage.value in line.summary.stage_times), default=0)


def _state(number: int, reached: int, ended: bool) -> BarState:
    if number < reached:
        return BarState.DONE
    if number > reached:
        return BarState.WAITING
    return BarState.FAILED if ended else BarState.RUNNING


def _single(key: str, name: str, number: int, reached: int, ended: bool, took: float | None) -> StageBar:
    state = _state(number, reached, ended)
    return StageBar(key, name, state, int(state is BarState.DONE), 0, took=took)


def _counted(
    key: str,
    name: str,
    number: int,
    reached: int,
    ended: bool,
    work: StageWork,
    unit: str,
    now: datetime,
    took: float | None,
) -> StageBar:
    state = _state(number, reached, ended)
    if state is BarState.RUNNING and work.total and work.done == work.total:
        state = BarState.DONE
    eta = None
    if state is BarState.RUNNING and work.began is not None and work.last is not None and work.done:
        pace, idle = (work.last - work.began).total_seconds() / work.done, (now - work.last).total_seconds()
        # the time since the last part was finished counts towards the next one; of work that stands still, nobody knows
        if idle <= max(pace * _PATIENCE, _LEAST_PATIENCE):
            eta = pace * (work.total - work.done) - min(idle, pace)
    return StageBar(key, name, state, work.done, work.total, unit, eta, took if state is BarState.DONE else None)


def _length(began: datetime | None, last: datetime | None) -> float | None:
    return (last - began).total_seconds() if began is not None and last is not None else None
