"""The pages of the model competitions: overview, one competition, one miner, reputations, rounds of weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

from fastapi import Request, Response
from sqlalchemy.orm import Session

from app.api.pages import charts
from app.api.pages.competitions import board as competition_board
from app.api.pages.competitions.board import (
    Board,
    MinerView,
    UnknownEvaluation,
    UnknownMiner,
    UnknownRound,
    metric_values,
)
from app.api.pages.competitions.tables import (
    BOARD_SHEETS,
    MINER_SHEETS,
    MINERS_SHEET,
    OVERVIEW_SHEETS,
    ROUND_SHEET,
    ROUNDS_SHEET,
    Sheet,
    Sheets,
    samples_sheet,
)
from app.api.pages.downloads import csv_response, streamed_json
from app.api.pages.errors import NotFound
from app.api.pages.page import PageRouter, render
from app.competitions.benchmarks import Capability, capabilities
from app.competitions.profile import profile_of
from app.domain import ValidatorError
from app.settings import get_settings
from app.store.competitions import Baseline, UnknownCompetition
from app.store.database import get_store
from app.store.model_priority import Priority
from app.store.model_queue import ScoreRecord
from app.store.reputations import WeightRound, WeightRounds

View = TypeVar("View")

router = PageRouter()

_SERIES: Final = 6
_METRICS: Final = 12
_SAMPLE_FIELDS: Final = 10

# The tiers of the queue, in the order in which they are served, in an operator's words.
TIERS: Final = {
    Priority.NEW: "new",
    Priority.NEVER_SCORED: "never scored above 0",
    Priority.LONG_AGO: "not scored for 7 days",
    Priority.HOPELESS: "more than 10 scores, all 0",
    Priority.DUE: "not scored for 5 days, or fewer than 5 scores",
    Priority.REST: "scored lately",
}


# -- overview ---------------------------------------------------------------------------------------------------------


@router.page("/competitions")
def competitions(request: Request) -> Response:
    """Every competition: percentage, baseline and its history, pools of the last round, leader."""
    view = _overview()
    return render(
        request,
        "competitions.html",
        view=view,
        capabilities=_capabilities(),
        run_api=get_settings().run_api,
        baselines=charts.lines(
            "Baselines",
            [_baseline_series(name, found) for name, found in view.baselines.items() if found],
            axis="set at",
            y_axis="baseline",
            times=True,
        ),
    )


@router.page("/competitions.{form}")
def competitions_file(form: str) -> Response:
    """The overview as a file."""
    return _file("competitions", "competitions", form, OVERVIEW_SHEETS, _overview)


@router.page("/competition-changes.{form}")
def changes_file(form: str) -> Response:
    """Who changed which competition, as a file."""
    return _file("competition-changes", "competition-changes", form, OVERVIEW_SHEETS, _overview)


@router.page("/refused-commitments.{form}")
def refusals_file(form: str) -> Response:
    """Commitments that are not queued, and why, as a file."""
    return _file("refused-commitments", "refused-commitments", form, OVERVIEW_SHEETS, _overview)


def _capabilities() -> dict[str, Capability]:
    with get_store().reading() as session:
        return {found.competition_id: found for found in capabilities(session, get_settings())}


def _overview() -> competition_board.Overview:
    return _read(lambda session: competition_board.overview(session, profile_of(get_settings())))


# -- one competition --------------------------------------------------------------------------------------------------


@router.page("/competitions/{competition_id:path}/{table}.{form}")
def competition_file(competition_id: str, table: str, form: str) -> Response:
    """A table of a competition's page as a file."""
    return _file(f"{competition_id}-{table}", table, form, BOARD_SHEETS, lambda: _board(competition_id))


@router.page("/competitions/{competition_id:path}")
def competition(request: Request, competition_id: str) -> Response:
    """One competition: leaderboard, models under scoring, queue, refusals."""
    board = _board(competition_id)
    return render(
        request,
        "competition.html",
        board=board,
        tiers=TIERS,
        standing=charts.scores_against(
            "Scores against the baseline",
            [
                charts.Scored(f"UID {row.uid}", row.score, tuple(report.score for report in row.reports))
                for row in board.rows
                if row.score is not None
            ],
            baseline=board.record.baseline.score if board.record.baseline else None,
        ),
        course=_course(board),
    )


def _board(competition_id: str) -> Board:
    wanted = _storable(competition_id)
    return _read(lambda session: competition_board.board(session, profile_of(get_settings()), wanted))


def _course(board: Board) -> charts.Chart:
    """The reported scores of the best models over the last days, and the baseline as it was set."""
    best = [row for row in board.rows if row.score][: _SERIES - 1]
    series = [
        charts.Series(
            f"UID {row.uid}",
            tuple((r.scored_at.timestamp(), r.score) for r in reversed(board.recent) if r.hotkey == row.hotkey),
        )
        for row in best
    ]
    drawn = [one for one in series if one.points]
    if drawn and board.baselines:
        begin = min(one.points[0][0] for one in drawn)
        drawn.append(_baseline_series("baseline", board.baselines, begin))
    return charts.lines("Reported scores", drawn, axis="scored at", y_axis="score", times=True)


def _baseline_series(name: str, baselines: Sequence[Baseline], begin: float = 0.0) -> charts.Series:
    """A baseline over time as steps, to the present; ``begin`` cuts what lies before."""
    points: list[tuple[float, float]] = []
    for found in baselines:
        at = found.set_at.timestamp()
        if points:
            points.append((at, points[-1][1]))
        points.append((at, found.score))
    points.append((datetime.now(UTC).timestamp(), points[-1][1]))
    before = [point for point in points if point[0] < begin]
    after = [point for point in points if point[0] >= begin]
    return charts.Series(name, tuple(([(begin, before[-1][1])] if before else []) + after))


# -- miners -----------------------------------------------------------------------------------------------------------


@router.page("/miners")
def miners(request: Request) -> Response:
    """Every miner's reputation, model and weight."""
    return render(request, "miners.html", lines=_miners())


@router.page("/miners.{form}")
def miners_file(form: str) -> Response:
    """The miners as a file."""
    return _file("miners", "miners", form, {"miners": MINERS_SHEET}, _miners)


def _miners() -> Sequence[competition_board.MinerLine]:
    return _read(lambda session: competition_board.miners(session, profile_of(get_settings())))


@router.page("/miners/{hotkey:path}/{table}.{form}")
def miner_file(hotkey: str, table: str, form: str) -> Response:
    """A table of a miner's page as a file."""
    return _file(f"{hotkey[:60]}-{table}", table, form, MINER_SHEETS, lambda: _miner(hotkey))


@router.page("/miners/{hotkey:path}")
def miner(request: Request, hotkey: str) -> Response:
    """One miner: its model, its scores by validator with errors and metrics, its reputation and weights."""
    view = _miner(hotkey)
    baseline = view.competition.baseline if view.competition else None
    return render(
        request,
        "miner.html",
        view=view,
        metrics=_metric_names(view.scores),
        metric_values=metric_values,
        scores_chart=charts.lines(
            "Reported scores",
            _by_validator(view),
            axis="scored at",
            y_axis="score",
            times=True,
            rules={"baseline": baseline.score} if baseline and view.scores else None,
        ),
        reputation_chart=charts.lines(
            "Reputation",
            _reputation_series(view),
            axis="day",
            y_axis="reputation",
            times=True,
            rules={"start": 0.5} if view.steps else None,
        ),
        weights_chart=charts.lines(
            "Weight in the last rounds",
            _weight_series([("weight", view.hotkey)], view.rounds),
            axis="round",
            y_axis="weight",
            times=True,
        ),
    )


def _miner(hotkey: str) -> MinerView:
    wanted = _storable(hotkey)
    return _read(lambda session: competition_board.miner(session, profile_of(get_settings()), wanted))


def _metric_names(scores: Sequence[ScoreRecord]) -> list[str]:
    """The metrics that are numbers, a set's score but not its parts, in the order in which they first appear."""
    names: dict[str, None] = {}
    for record in scores:
        names |= dict.fromkeys(name for name in metric_values(record.metric_scores) if "." not in name)
    return list(names)[:_METRICS]


def _by_validator(view: MinerView) -> list[charts.Series]:
    points: dict[str, list[tuple[float, float]]] = {}
    for record in reversed(view.scores):
        points.setdefault(record.scorer_hotkey, []).append((record.scored_at.timestamp(), record.score))
    return [
        charts.Series(f"UID {view.uids[who]}" if who in view.uids else f"{who[:6]}…", tuple(found))
        for who, found in points.items()
    ]


def _reputation_series(view: MinerView) -> list[charts.Series]:
    points: dict[str, list[tuple[float, float]]] = {}
    for step in view.steps:
        try:
            day = datetime.fromisoformat(step.day).replace(tzinfo=UTC)
        except ValueError:
            continue
        points.setdefault(step.competition_id, []).append((day.timestamp(), step.reputation))
    return [charts.Series(name, tuple(found)) for name, found in points.items()]


# -- evaluations ------------------------------------------------------------------------------------------------------


@router.page("/evaluations/{evaluation_id}/samples.{form}")
def samples_file(evaluation_id: str, form: str) -> Response:
    """An evaluation's samples as a file."""
    view = _evaluation(evaluation_id)
    return _file(f"{evaluation_id}-samples", "samples", form, {"samples": samples_sheet(view)}, lambda: view)


@router.page("/evaluations/{evaluation_id}")
def evaluation(request: Request, evaluation_id: str) -> Response:
    """One evaluation of this node: its metrics, and what the model answered to each sample."""
    view = _evaluation(evaluation_id)
    return render(
        request,
        "evaluation.html",
        view=view,
        metrics=metric_values(view.record.metric_scores),
        fields=view.sample_fields[:_SAMPLE_FIELDS],
        text_of=_text,
    )


def _text(value: object) -> str:
    """A value of a sample as it is read: a text as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _evaluation(evaluation_id: str) -> competition_board.EvaluationView:
    return _read(lambda session: competition_board.evaluation(session, _storable(evaluation_id)))


# -- rounds of weights ------------------------------------------------------------------------------------------------


@router.page("/rounds")
def rounds(request: Request, before: str = "") -> Response:
    """Rounds of weights, newest first: state, reason, warnings, and who got how much."""
    found, older = _rounds(before)
    heaviest = sorted(found[0].by_hotkey.items(), key=lambda item: -item[1])[:_SERIES] if found else []
    uid_of = {hotkey: uid for uid, hotkey in found[0].hotkeys.items()} if found else {}
    named = [(f"UID {uid_of[hotkey]}", hotkey) for hotkey, weight in heaviest if weight > 0 and hotkey in uid_of]
    return render(
        request,
        "rounds.html",
        rounds=found,
        older=older,
        is_first=not before,
        chart=charts.lines(
            "Weights over the rounds", _weight_series(named, found), axis="round", y_axis="weight", times=True
        ),
    )


@router.page("/rounds.{form}")
def rounds_file(form: str, before: str = "") -> Response:
    """The rounds as a file."""
    return _file("rounds", "rounds", form, {"rounds": ROUNDS_SHEET}, lambda: _rounds(before)[0])


@router.page("/rounds/{mark:path}/weights.{form}")
def round_file(mark: str, form: str) -> Response:
    """One round's weights as a file."""
    return _file(f"round-{mark[:20]}", "weights", form, {"weights": ROUND_SHEET}, lambda: _round(mark))


@router.page("/rounds/{mark:path}")
def round_page(request: Request, mark: str) -> Response:
    """One round: each UID's weight, and why."""
    found = _round(mark)
    return render(request, "round.html", round=found, rows=competition_board.round_rows(found))


def _rounds(before: str) -> tuple[list[WeightRound], datetime | None]:
    """A page of rounds, and the instant before which older ones lie."""
    try:
        instant = datetime.fromisoformat(before) if before else datetime.now(UTC) + timedelta(days=1)
        instant = (instant if instant.tzinfo else instant.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise NotFound("'before' must be an instant, such as 2026-11-22T01:20:00Z.") from None
    most = competition_board.ROUNDS_SHOWN
    with get_store().reading() as session:
        found = WeightRounds(session).before(instant, most + 1)
    return found[:most], found[most - 1].computed_at if len(found) > most else None


def _round(mark: str) -> WeightRound:
    return _read(lambda session: competition_board.round_at(session, _storable(mark)))


def _weight_series(named: Sequence[tuple[str, str]], found: Sequence[WeightRound]) -> list[charts.Series]:
    return [
        charts.Series(
            name,
            tuple(
                (one.computed_at.timestamp(), one.by_hotkey.get(hotkey, 0.0))
                for one in reversed(found)
                if one.computed_at is not None
            ),
        )
        for name, hotkey in named
    ]


# -- files ------------------------------------------------------------------------------------------------------------


def _file(name: str, table: str, form: str, sheets: Sheets, view: Callable[[], Any]) -> Response:
    sheet: Sheet[Any] | None = sheets.get(table)
    if sheet is None or form not in {"csv", "json"}:
        raise NotFound(f"There is no such file; there are {', '.join(sheets)}, as .csv and .json.")
    found = view()
    if form == "json":
        return streamed_json(name, sheet.objects(found))
    return csv_response(name, sheet.columns, sheet.rows(found))


# What is not in the store, in words for the reader of the page.
_MISSING: Final[Mapping[type[ValidatorError], str]] = {
    UnknownCompetition: (
        "There never was a competition of this id. Add one with: python -m app competition add ID --share P"
    ),
    UnknownMiner: "No miner of this hotkey is in the store: it has no model, no score and no refusal.",
    UnknownEvaluation: "No evaluation of this id is in the store, or it is older than RETENTION.",
    UnknownRound: "No weights were computed for this mark, or they are older than RETENTION.",
}


def _read(read: Callable[[Session], View]) -> View:
    """What a view reads in one transaction.

    Raises:
        NotFound: the store has no such thing.
    """
    try:
        with get_store().reading() as session:
            return read(session)
    except tuple(_MISSING) as missing:
        raise NotFound(_MISSING[type(missing)]) from None


def _storable(text: str) -> str:
    """A text of the address as the store may be asked for it: no database knows NUL."""
    return text.replace("\x00", "\ufffd")
