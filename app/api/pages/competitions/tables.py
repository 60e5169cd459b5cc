"""The tables of the competition pages as files: their columns, and a row for each thing that the page shows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from app.api.pages.competitions.board import (
    Board,
    EvaluationView,
    MinerLine,
    MinerView,
    Overview,
    RoundRow,
    round_rows,
)
from app.competitions.queueing import remedy_of
from app.domain import ModelId
from app.store.model_queue import ScoreRecord
from app.store.reputations import WeightRound

View = TypeVar("View")
Row = Sequence[object]


@dataclass(frozen=True, slots=True)
class Sheet(Generic[View]):
    """One table of a page: the names of its columns, and what its rows are read from."""

    columns: tuple[str, ...]
    rows: Callable[[View], Iterable[Row]]

    def objects(self, view: View) -> Iterator[dict[str, object]]:
        """The rows under the names of their columns, for JSON, one at a time."""
        return (dict(zip(self.columns, row, strict=True)) for row in self.rows(view))


_MODEL: Final = ("repository", "commit", "hash")


def _model(model: ModelId) -> tuple[str, str | None, str | None]:
    return model.repository, model.commit, model.hash


_SCORE: Final = ("scored_at", "uid", "hotkey", "competition", *_MODEL, "block", "model_hash", "validator", "score")


def _score(record: ScoreRecord) -> tuple[object, ...]:
    return (
        record.scored_at,
        record.uid,
        record.hotkey,
        record.competition_id,
        *_model(record.model),
        record.block,
        record.model_hash,
        record.scorer_hotkey,
        record.score,
        record.metric_scores,
        record.error,
    )


def _competitions(view: Overview) -> Iterable[Row]:
    for line in view.lines:
        record, leader = line.record, line.leader
        yield (
            record.id,
            line.share,
            record.baseline.score if record.baseline else None,
            record.baseline.set_by if record.baseline else None,
            record.baseline.set_at if record.baseline else None,
            record.archived_at,
            line.models,
            line.scored,
            line.under_scoring,
            leader.uid if leader else None,
            leader.hotkey if leader else None,
            leader.score if leader else None,
            " ".join(map(str, line.above)),
            " ".join(map(str, line.below)),
        )


def _leaderboard(view: Board) -> Iterable[Row]:
    for row in view.rows:
        yield (
            row.place,
            row.uid,
            row.hotkey,
            *_model(row.model),
            row.score,
            row.validators_score,
            row.is_above,
            row.is_copy,
            row.is_penalised,
            row.got.pool if row.got else None,
            row.got.share if row.got else None,
            row.weight,
            row.reputation,
        )


def _reports(view: Board) -> Iterable[Row]:
    for row in view.rows:
        for report in row.reports:
            yield (
                row.uid,
                row.hotkey,
                report.validator_uid,
                report.validator,
                report.score,
                report.scored_at,
                report.share is not None,
                report.share,
            )


EVALUATION_COLUMNS: Final = (
    "id",
    "repository",
    "revision",
    "competition",
    "block",
    "phase",
    "score",
    "tries",
    "device",
    "accepted_at",
    "started_at",
    "finished_at",
    "metric_scores",
    "error",
)


def _evaluations(view: MinerView) -> Iterable[Row]:
    for one in view.evaluations:
        yield (
            one.id,
            one.inputs.hf_repo_id,
            one.revision,
            one.inputs.competition_id,
            one.inputs.block,
            one.phase,
            one.score,
            one.tries,
            one.device,
            one.accepted_at,
            one.started_at,
            one.finished_at,
            one.metric_scores,
            one.error,
        )


def samples_sheet(view: EvaluationView) -> Sheet[EvaluationView]:
    """The samples of one evaluation; each benchmark has fields of its own."""
    fields = view.sample_fields
    return Sheet(fields, lambda found: ([sample.get(name) for name in fields] for sample in found.samples))


OVERVIEW_SHEETS: Final[Mapping[str, Sheet[Overview]]] = {
    "competitions": Sheet(
        (
            "competition",
            "share",
            "baseline",
            "baseline_set_by",
            "baseline_set_at",
            "archived_at",
            "models",
            "scored",
            "under_scoring",
            "leader_uid",
            "leader_hotkey",
            "leader_score",
            "above",
            "below",
        ),
        _competitions,
    ),
    "competition-changes": Sheet(
        ("changed_at", "competition", "action", "detail", "changed_by"),
        lambda view: ((c.changed_at, c.competition_id, c.action, c.detail, c.changed_by) for c in view.changes),
    ),
    "refused-commitments": Sheet(
        ("uid", "hotkey", "block", "commitment", "reason", "remedy", "refused_at"),
        lambda view: (
            (r.uid, r.hotkey, r.block, r.text, r.reason, remedy_of(r.reason), r.refused_at) for r in view.refusals
        ),
    ),
}

BOARD_SHEETS: Final[Mapping[str, Sheet[Board]]] = {
    "leaderboard": Sheet(
        (
            "place",
            "uid",
            "hotkey",
            *_MODEL,
            "score",
            "reported",
            "above_baseline",
            "copy",
            "repository_too_young",
            "pool",
            "share",
            "weight",
            "reputation",
        ),
        _leaderboard,
    ),
    "reports": Sheet(
        ("uid", "hotkey", "validator_uid", "validator", "score", "scored_at", "counts", "share"), _reports
    ),
    "baselines": Sheet(
        ("set_at", "baseline", "set_by"), lambda view: ((b.set_at, b.score, b.set_by) for b in view.baselines)
    ),
    "queue": Sheet(
        ("uid", "hotkey", *_MODEL, "tier", "why", "scores", "best_score", "last_scored_at"),
        lambda view: (
            (
                line.uid,
                line.hotkey,
                *_model(line.model),
                int(line.tier),
                line.tier.name.lower(),
                line.scores,
                line.best_score,
                line.last_scored_at,
            )
            for line in view.queue
        ),
    ),
    "under-scoring": Sheet(
        ("uid", "hotkey", *_MODEL, "scored_by", "taken_at"),
        lambda view: (
            (m.uid, m.hotkey, *_model(m.commitment.model), m.is_being_scored_by, m.taken_at) for m in view.under_scoring
        ),
    ),
    "refusals": Sheet(
        ("uid", "hotkey", "block", "commitment", "reason", "remedy", "refused_at"),
        lambda view: (
            (r.uid, r.hotkey, r.block, r.text, r.reason, remedy_of(r.reason), r.refused_at) for r in view.refusals
        ),
    ),
    "scores": Sheet((*_SCORE, "metric_scores", "error"), lambda view: map(_score, view.recent)),
}

MINER_SHEETS: Final[Mapping[str, Sheet[MinerView]]] = {
    "scores": Sheet((*_SCORE, "metric_scores", "error"), lambda view: map(_score, view.scores)),
    "reputation": Sheet(
        ("day", "competition", "score", "baseline", "reputation"),
        lambda view: ((s.day, s.competition_id, s.score, s.baseline, s.reputation) for s in view.steps),
    ),
    "evaluations": Sheet(EVALUATION_COLUMNS, _evaluations),
    "weights": Sheet(
        ("mark", "weight", "state"),
        lambda view: ((r.mark, r.by_hotkey.get(view.hotkey, 0.0), r.state) for r in view.rounds),
    ),
    "scorings": Sheet(
        ("scorer", "state", *_MODEL, "taken_at", "started_at", "finished_at", "score", "error"),
        lambda view: (
            (
                s.scorer,
                s.state,
                *_model(s.commitment.model),
                s.taken_at,
                s.started_at,
                s.finished_at,
                s.score,
                s.error,
            )
            for s in view.scorings
        ),
    ),
}

MINERS_SHEET: Final[Sheet[Sequence[MinerLine]]] = Sheet(
    ("uid", "hotkey", "reputation", "updated_at", "competition", "repository", "score", "weight"),
    lambda lines: (
        (
            line.uid,
            line.hotkey,
            line.reputation,
            line.updated_at,
            line.competition_id,
            line.model.repository if line.model else None,
            line.score,
            line.weight,
        )
        for line in lines
    ),
)


def _round(found: WeightRound) -> Row:
    return found.mark, found.computed_at, found.finished_at, found.state, found.detail, found.pools, found.warnings


ROUNDS_SHEET: Final[Sheet[Sequence[WeightRound]]] = Sheet(
    ("mark", "computed_at", "finished_at", "state", "detail", "pools", "warnings"), lambda rounds: map(_round, rounds)
)


def _weight(row: RoundRow) -> Row:
    return row.uid, row.hotkey, row.weight, row.new, [dict(reason) for reason in row.reasons]


ROUND_SHEET: Final[Sheet[WeightRound]] = Sheet(
    ("uid", "hotkey", "weight", "before_ema", "shares"), lambda found: map(_weight, round_rows(found))
)

Sheets = Mapping[str, Sheet[Any]]
