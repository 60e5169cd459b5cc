"""How far an epoch is, and how long the rest takes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from app.api.pages.epochs.stage_bars import BarState, StageBar, stage_bars, stage_seconds
from app.domain import ScoringModel
from app.store.epoch_views import EpochLine, EpochWork, StageWork
from app.store.records import EpochSummary, PartState, Stage

NOW = datetime(2025, 10, 28, 12, 0, tzinfo=UTC)
ENTERED = (Stage.ANNOUNCED, Stage.EXAMINING, Stage.SCORING, Stage.CLOSED, Stage.DONE)


def line(stage: Stage, reached: int) -> EpochLine:
    """An epoch that entered so many stages, ten minutes apart."""
    times = {ENTERED[n].value: (NOW - timedelta(minutes=10 * (reached - n))).isoformat() for n in range(reached + 1)}
    if stage not in ENTERED:
        times[stage.value] = NOW.isoformat()
    summary = EpochSummary(
        id=1, run="r", cluster="c", netuid=68, number=7, scores="model", publishes=True, stage=stage, error=None,
        psichic_winner=None, boltz_winner=None, weights=None, created_at=NOW, touched_at=NOW, closed_at=None,
        stage_times=times,
    )  # fmt: skip
    return EpochLine(summary, {PartState.VALID: 6, PartState.PENDING: 2}, None, None)


def bars(stage: Stage, reached: int, work: EpochWork | None = None) -> dict[str, StageBar]:
    return {bar.key: bar for bar in stage_bars(line(stage, reached), work or EpochWork(), NOW)}


def states(found: dict[str, StageBar]) -> list[str]:
    return [bar.state.value for bar in found.values()]


def some(done: int, total: int, began: float = 100, last: float = 0) -> StageWork:
    return StageWork(done, total, NOW - timedelta(seconds=began), NOW - timedelta(seconds=last))


@pytest.mark.parametrize(
    ("stage", "reached", "expected"),
    [
        (Stage.ANNOUNCED, 0, ["running", "waiting", "waiting", "waiting", "waiting", "waiting"]),
        (Stage.EXAMINING, 1, ["done", "running", "waiting", "waiting", "waiting", "waiting"]),
        (Stage.MISSED, 0, ["failed", "waiting", "waiting", "waiting", "waiting", "waiting"]),
        (Stage.FAILED, 1, ["done", "failed", "waiting", "waiting", "waiting", "waiting"]),
    ],
)
def test_states_follow_the_stage(stage: Stage, reached: int, expected: list[str]) -> None:
    assert states(bars(stage, reached)) == expected


def test_scoring_has_a_bar_per_model_and_ranks_when_both_are_through() -> None:
    both = {ScoringModel.PSICHIC: some(4, 4), ScoringModel.BOLTZ: some(1, 2)}
    assert states(bars(Stage.SCORING, 2, EpochWork(some(8, 8), both))) == [
        "done", "done", "done", "running", "waiting", "waiting",
    ]  # fmt: skip
    both[ScoringModel.BOLTZ] = some(2, 2)
    assert states(bars(Stage.SCORING, 2, EpochWork(some(8, 8), both)))[2:] == ["done", "done", "running", "waiting"]
    one = EpochWork(some(8, 8), {ScoringModel.PSICHIC: some(4, 4)})
    assert "boltz" not in bars(Stage.CLOSED, 3, one)
    assert states(bars(Stage.CLOSED, 3, one)) == ["done", "done", "done", "done", "running"]
    assert set(states(bars(Stage.DONE, 4, one))) == {"done"}


def test_what_is_left_is_estimated_from_the_pace() -> None:
    # 6 of 8 in 60 s, the last one 0 s ago: 10 s each
    bar = bars(Stage.EXAMINING, 1, EpochWork(some(6, 8, began=60)))["examine"]
    assert (bar.state, bar.done, bar.total, bar.eta) == (BarState.RUNNING, 6, 8, 20.0)
    # 5 s into the next one
    assert bars(Stage.EXAMINING, 1, EpochWork(some(6, 8, began=65, last=5)))["examine"].eta == 15.0
    # one that takes long does not promise that the others are over too
    assert bars(Stage.EXAMINING, 1, EpochWork(some(6, 8, began=90, last=30)))["examine"].eta == 10.0
    # work that stands still promises nothing
    assert bars(Stage.EXAMINING, 1, EpochWork(some(6, 8, began=161, last=101)))["examine"].eta is None
    assert bars(Stage.EXAMINING, 1, EpochWork(StageWork(0, 8, NOW, None)))["examine"].eta is None
    assert bars(Stage.DONE, 4, EpochWork(some(8, 8)))["examine"].eta is None


def test_how_long_each_stage_took() -> None:
    assert stage_seconds(line(Stage.DONE, 4).summary.stage_times) == {
        "open": 600.0, "examine": 600.0, "score and rank": 600.0, "weights": 600.0,
    }  # fmt: skip
    assert stage_seconds(line(Stage.FAILED, 1).summary.stage_times) == {"open": 600.0}
    assert stage_seconds({}) == {}
    found = bars(Stage.DONE, 4, EpochWork(some(8, 8), {ScoringModel.PSICHIC: some(4, 4, began=40, last=10)}))
    assert (found["open"].took, found["examine"].took, found["psichic"].took) == (600.0, 600.0, 30.0)
