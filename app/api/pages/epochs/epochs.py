"""The list of epochs, and one epoch: leaderboards, refusals, weights and how long it took."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import lru_cache
from itertools import chain
from typing import Any, Final
from urllib.parse import quote

from fastapi import Request, Response

from app.api.pages.charts import Chart, Mark, Span, histogram, lanes, stacked_durations, timeline
from app.api.pages.downloads import csv_response, file_response, streamed_json
from app.api.pages.epochs.rejection_codes import EXPLANATIONS
from app.api.pages.epochs.stage_bars import MODEL_NAMES, RANKING_NAMES, StageBar, stage_bars, stage_seconds, stage_spans
from app.api.pages.epochs.tracks import TrackBoard, boards
from app.api.pages.errors import NotFound
from app.api.pages.home import epoch_entry
from app.api.pages.page import PageRouter, render
from app.api.pages.paging import READ_TOGETHER, every, paging
from app.domain import ScoringModel
from app.epochs.rules import RulesError, RuleSet, parse_rules, written_report
from app.epochs.rules.october_2025 import October2025
from app.store.database import get_store
from app.store.epoch_views import EpochFacts, EpochLine, EpochViews, SubmissionLine, WeightsRecord, WorkSpan
from app.store.epochs import Epochs
from app.store.records import PartState, Stage, TrackRefusal
from chain.incentive.molecules import entropy_weight

router = PageRouter()

# The models that have leaderboards of their own.
RANKED_MODELS: Final = {model: MODEL_NAMES[model] for model in (ScoringModel.PSICHIC, ScoringModel.BOLTZ)}

PAGE_SIZE: Final = 30
MOST_DOWNLOADED: Final = 5_000

# A leaderboard's first rows; the table of all submissions has the rest.
_LEADERS: Final = 10

_CODE_ORDER: Final = {explanation.code.value: place for place, explanation in enumerate(EXPLANATIONS)}

_COLUMNS: Final = (
    "epoch", "uid", "hotkey", "status", "psichic_rank", "psichic_score", "boltz_rank", "boltz_score", "entropy",
    "entropy_boltz", "weight", "block", "push_time", "path", "code", "message", "molecule", "molecule_index",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class EpochPage:
    """All that one epoch's page shows."""

    line: EpochLine
    facts: EpochFacts
    submissions: tuple[SubmissionLine, ...]
    bars: tuple[StageBar, ...]
    warnings: tuple[str, ...]
    weights: WeightsRecord | None
    neighbours: tuple[int | None, int | None]
    boards: tuple[TrackBoard, ...] = ()
    spans: tuple[WorkSpan, ...] = ()

    @property
    def rejected(self) -> list[SubmissionLine]:
        """The refused submissions, UIDs ascending."""
        return [submission for submission in self.submissions if submission.state is PartState.REJECTED]

    @property
    def reasons(self) -> list[tuple[str, int]]:
        """How often each code was given, in the order in which the rules are looked at."""
        return _in_order(Counter(submission.code or "" for submission in self.rejected))

    @property
    def entropy_weight(self) -> float | None:
        """What the epoch's entropy bonus is multiplied by; None where the rules know no bonus."""
        return entropy_weight_of(self.line, self.facts)

    def leaders(self, model: ScoringModel) -> list[SubmissionLine]:
        """The first rows of a model's leaderboard."""
        return ranked(self.submissions, model)[:_LEADERS]


@lru_cache(maxsize=64)
def rules_of(text: str) -> RuleSet | None:
    """A frozen rules file, parsed once per text; None for one of another version, whose page is shown without it."""
    try:
        return parse_rules(text, "the rules stored with the epoch")
    except RulesError:
        return None


def ranked(submissions: Sequence[SubmissionLine], model: ScoringModel) -> list[SubmissionLine]:
    """The submissions with a rank of this model, best first."""
    found = [(rank, one) for one in submissions if (rank := rank_of(one, model)) is not None]
    return [one for _, one in sorted(found, key=lambda pair: (pair[0], pair[1].uid))]


def rank_of(submission: SubmissionLine, model: ScoringModel) -> int | None:
    """A submission's rank for one model."""
    return submission.psichic_rank if model is ScoringModel.PSICHIC else submission.boltz_rank


def score_of(submission: SubmissionLine, model: ScoringModel) -> float | None:
    """A submission's score for one model."""
    return submission.psichic_score if model is ScoringModel.PSICHIC else submission.boltz_score


@router.page("/epochs")
def epochs(request: Request) -> Response:
    """The epochs, newest first, with their winners over time and how long each stage took."""
    with get_store().reading() as session:
        views = EpochViews(session)
        found = paging(request, views.count(), PAGE_SIZE)
        lines = views.lines(PAGE_SIZE, found.offset)
    return render(
        request, "epochs.html", lines=lines, paging=found, winners=_winners(lines), durations=_durations(lines)
    )


@router.page("/epochs.csv")
def epochs_csv() -> Response:
    """All epochs (the newest 5,000) as CSV."""
    rows = (_csv_entry(line) for line in _every_line())
    first = next(rows, {"id": None})
    entries = chain([first], rows) if first["id"] is not None else iter(())
    return csv_response("epochs", tuple(first), ([entry.get(column) for column in first] for entry in entries))


def _csv_entry(line: EpochLine) -> dict[str, Any]:
    return {
        **{key: value for key, value in epoch_entry(line).items() if key not in {"stage_times", "weights"}},
        "valid": line.counts.get(PartState.VALID, 0),
        "rejected": line.counts.get(PartState.REJECTED, 0),
        "pending": line.counts.get(PartState.PENDING, 0),
        **{f"seconds_{name.replace(' ', '_')}": None for name in ("open", "examine", "score and rank", "weights")},
        **{
            f"seconds_{name.replace(' ', '_')}": seconds
            for name, seconds in stage_seconds(line.summary.stage_times).items()
        },
    }


def _every_line() -> Iterator[EpochLine]:
    """The newest epochs, read a page at a time."""
    return every(lambda session, limit, offset: EpochViews(session).lines(limit, offset), MOST_DOWNLOADED)


@router.page("/epochs.json")
def epochs_json() -> Response:
    """All epochs (the newest 5,000) as JSON."""
    return streamed_json("epochs", {"epochs": (epoch_entry(line) for line in _every_line())})


@router.page("/epochs/{epoch_id:int}")
def epoch(request: Request, epoch_id: int) -> Response:
    """One epoch. ``?by=RANKING`` orders its table by the ranks of a model or a track, ``?by=uid`` by UID."""
    found = epoch_page(epoch_id)
    orders = {ranking: f"{_named(ranking)} rank" for ranking in found.line.summary.winners} | {"uid": "UID"}
    by = request.query_params.get("by", "")
    by = by if by in orders else next(iter(orders))
    return render(
        request,
        "epoch.html",
        page=found,
        models={} if found.boards else RANKED_MODELS,
        by=by,
        orders=orders,
        submissions=_ordered(found.submissions, by),
        distributions=_distributions(found),
        course=_course(found),
        winners=_won(found.line),
        miner_path=miner_path,
        durations=stacked_durations(
            "Time in each stage",
            [(str(found.line.summary.number), stage_seconds(found.line.summary.stage_times))],
            axis="epoch",
        ),
        refresh=_refresh_key(found.line),
    )


@router.page("/fragments/epochs/{epoch_id:int}")
def epoch_stages(request: Request, epoch_id: int) -> Response:
    """The bars of a running epoch, for the page's script; ``X-Refresh: reload`` when a new stage began."""
    with get_store().reading() as session:
        views = EpochViews(session)
        line = line_of(views, epoch_id)
        bars = stage_bars(line, views.work(epoch_id, line.counts), datetime.now(UTC))
    response = render(request, "stages.html", bars=bars, number=line.summary.number)
    if request.query_params.get("shown", "") != _refresh_key(line):
        response.headers["X-Refresh"] = "reload"
    return response


@router.page("/epochs/{epoch_id:int}.csv")
def epoch_csv(epoch_id: int) -> Response:
    """An epoch's submissions as CSV."""
    with get_store().reading() as session:
        line = line_of(EpochViews(session), epoch_id)
    number, weights, tracks = line.summary.number, line.summary.weights or {}, _tracks(line)
    rows = (
        (
            number, one.uid, one.hotkey, one.state, one.psichic_rank, one.psichic_score, one.boltz_rank,
            one.boltz_score, one.entropy, one.entropy_boltz, weights.get(one.uid), one.block, one.push_time, one.path,
            one.code, one.message, one.molecule, one.molecule_index,
            *(value for track in tracks for value in _place(one, track)),
            *([" | ".join(_told(refusal) for refusal in one.refusals)] if tracks else ()),
        )
        for one in _every_submission(epoch_id)
    )  # fmt: skip
    of_tracks = [f"{track}_{value}" for track in tracks for value in ("rank", "score")]
    return csv_response(f"epoch-{number}", (*_COLUMNS, *of_tracks, *(["track_refusals"] if tracks else ())), rows)


def _place(submission: SubmissionLine, track: str) -> tuple[int | None, float | str | None]:
    found = submission.standings.get(track)
    return (None, None) if found is None else (found.rank, found.score)


def _told(refusal: TrackRefusal) -> str:
    return f"{refusal.track}: {refusal.rejection.code}: {refusal.rejection.message}"


@router.page("/epochs/{epoch_id:int}.json")
def epoch_json(epoch_id: int) -> Response:
    """All that an epoch's page shows as JSON; ``…/result.json`` has every molecule too."""
    with get_store().reading() as session:
        views = EpochViews(session)
        line = line_of(views, epoch_id)
        facts = views.facts(epoch_id)
        counts = views.refusals(epoch_id)
        bars = stage_bars(line, views.work(epoch_id, line.counts), datetime.now(UTC))
        warnings, weights = views.warnings(epoch_id), views.weights(epoch_id)
        boards_found = _boards(line, views.submissions(epoch_id) if _tracks(line) else ())
    return streamed_json(
        f"epoch-{line.summary.number}",
        {
            **epoch_entry(line),
            "header": facts.header,
            "challenge": facts.challenge,
            "rules": facts.rules_text,
            "rules_sha256": facts.rules_sha256,
            "entropy_weight": entropy_weight_of(line, facts),
            "stages": bars,
            "submission_list": _every_submission(epoch_id),
            "rejections_by_code": dict(_in_order(counts)),
            "warnings": iter(warnings),
            "weight_submission": weights,
            "boards": [
                {
                    "track": board.track,
                    "winner": board.winner,
                    "unjudged": board.unjudged,
                    "places": [{"uid": one.uid, **asdict(one.standings[board.track])} for one in board.entered],
                }
                for board in boards_found
            ],
            "work": _every_span(epoch_id),
        },
    )


def _every_submission(epoch_id: int) -> Iterator[SubmissionLine]:
    """The submissions, read a page at a time; no session outlives a page."""
    after = -1
    while True:
        with get_store().reading() as session:
            found = EpochViews(session).submissions(epoch_id, after, READ_TOGETHER)
        yield from found
        if len(found) < READ_TOGETHER:
            return
        after = found[-1].uid


def _every_span(epoch_id: int) -> Iterator[WorkSpan]:
    for read in (EpochViews.examination_spans, EpochViews.batch_spans):
        with get_store().reading() as session:
            found = read(EpochViews(session), epoch_id)
        yield from found


def _in_order(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """Codes in the order in which the rules are looked at."""
    return sorted(counts.items(), key=lambda item: (_CODE_ORDER.get(item[0], len(_CODE_ORDER)), item[0]))


def entropy_weight_of(line: EpochLine, facts: EpochFacts) -> float | None:
    """What the epoch's entropy bonus is multiplied by; None where the rules know no bonus."""
    rules = None if facts.rules_text is None else rules_of(facts.rules_text)
    if not isinstance(rules, October2025):
        return None
    return entropy_weight(line.summary.number, rules.parameters.molecule_validation)


@router.page("/epochs/{epoch_id:int}/result.json")
def epoch_result(request: Request, epoch_id: int) -> Response:
    """A closed epoch's ``result.json``, the document that validators compare, with every molecule."""
    with get_store().reading() as session:
        line = line_of(EpochViews(session), epoch_id)
        if line.summary.stage not in {Stage.CLOSED, Stage.DONE}:
            raise NotFound(f"Epoch {line.summary.number} is {line.summary.stage.value}; it has no result.")
        stored = Epochs(session)
        opened, summary, warnings = stored.get(epoch_id), stored.summary(epoch_id), stored.warnings(epoch_id)
        return file_response(
            request,
            f"epoch-{summary.number}-result.json",
            (get_store().shown_url, summary, opened.rules_sha256, warnings),
            written_report(opened, summary, stored.each_submission(epoch_id), warnings),
        )


def miner_path(hotkey: str) -> str:
    """The address of a miner's page across epochs."""
    return f"/hotkeys/{quote(hotkey, safe='')}"


def line_of(views: EpochViews, epoch_id: int) -> EpochLine:
    """An epoch's line.

    Raises:
        NotFound: the store has no epoch of this id.
    """
    line = views.line(epoch_id)
    if line is None:
        raise NotFound(f"The store has no epoch with the id {epoch_id}; old epochs are removed after a time.")
    return line


def epoch_page(epoch_id: int) -> EpochPage:
    """Read one epoch, in a number of queries that does not grow with its submissions."""
    with get_store().reading() as session:
        views = EpochViews(session)
        line = line_of(views, epoch_id)
        submissions = tuple(views.submissions(epoch_id))
        return EpochPage(
            line=line,
            facts=views.facts(epoch_id),
            submissions=submissions,
            bars=stage_bars(line, views.work(epoch_id, line.counts), datetime.now(UTC)),
            warnings=tuple(views.warnings(epoch_id)),
            weights=views.weights(epoch_id),
            neighbours=views.neighbours(epoch_id),
            boards=_boards(line, submissions),
            spans=(*views.examination_spans(epoch_id), *views.batch_spans(epoch_id)),
        )


def _tracks(line: EpochLine) -> tuple[str, ...]:
    """The tracks of an epoch that ranks tracks and not models."""
    winners = line.summary.winners
    return () if winners.keys() <= {model.value for model in RANKED_MODELS} else tuple(winners)


def _boards(line: EpochLine, submissions: Sequence[SubmissionLine]) -> tuple[TrackBoard, ...]:
    return boards(submissions, line.summary.winners, line.summary.unjudged) if _tracks(line) else ()


def _refresh_key(line: EpochLine) -> str:
    return line.summary.stage.value


def _ordered(submissions: Sequence[SubmissionLine], by: str) -> list[SubmissionLine]:
    if by == "uid":
        return list(submissions)
    places = {PartState.VALID: 0, PartState.PENDING: 1}

    def rank(one: SubmissionLine) -> int | None:
        if by in RANKED_MODELS:
            return rank_of(one, ScoringModel(by))
        return one.standings[by].rank if by in one.standings else None

    return sorted(submissions, key=lambda one: (places.get(one.state, 2), rank(one) or len(submissions) + 1, one.uid))


def _distributions(found: EpochPage) -> list[Chart]:
    by_track = {board.track: board.scores for board in found.boards}
    charts = []
    for ranking, won in found.line.summary.winners.items():
        scores = by_track.get(ranking)
        if scores is None:
            model = ScoringModel(ranking)
            scores = {one.uid: score for one in found.submissions if (score := score_of(one, model)) is not None}
        winner = None if won is None or won not in scores else (f"UID {won}", scores[won])
        title = f"{_named(ranking)} scores"
        charts.append(histogram(title, list(scores.values()), axis="score of a submission", winner=winner))
    return charts


def _named(ranking: str) -> str:
    """A ranking as pages call it: by its model, or by its track."""
    return RANKING_NAMES.get(ranking, f"{ranking.capitalize()} track")


def _won(line: EpochLine) -> dict[int, str]:
    """What each winner won, by UID."""
    found: dict[int, list[str]] = {}
    for ranking, uid in line.summary.winners.items():
        if uid is not None:
            found.setdefault(uid, []).append(RANKING_NAMES.get(ranking, ranking))
    return {uid: " and ".join(won) for uid, won in found.items()}


def _course(found: EpochPage) -> Chart:
    """The epoch's stages, and below them what each worker did when."""
    spans = [
        Span("stages", name, began.timestamp(), ended.timestamp(), name)
        for name, began, ended in stage_spans(found.line.summary.stage_times)
    ]
    for one in found.spans:
        kind = "examine" if one.model is None else MODEL_NAMES[one.model]
        text = f"UID {one.part}" if one.model is None else f"{kind} batch {one.part}"
        spans.append(Span(one.worker, kind, one.began_at.timestamp(), one.finished_at.timestamp(), text))
    return timeline("Who worked when", spans, lane_axis="worker")


def labels(lines: Sequence[EpochLine]) -> dict[int, str]:
    """A name for each epoch of a plot, by id: its number, and its id too where two runs have one number."""
    numbers = Counter(line.summary.number for line in lines)
    return {
        line.summary.id: str(line.summary.number)
        if numbers[line.summary.number] == 1
        else f"{line.summary.number} #{line.summary.id}"
        for line in lines
    }


def _winners(lines: Sequence[EpochLine]) -> Chart:
    names = labels(lines)
    kinds = list(dict.fromkeys(ranking for line in lines for ranking in line.summary.winners))
    marks = [
        Mark(f"UID {uid}", names[line.summary.id], 0.4, f"UID {uid} won {_named(ranking)}", kinds.index(ranking))
        for line in reversed(lines)
        for ranking, uid in line.summary.winners.items()
        if uid is not None
    ]
    return lanes("Winners", marks, axis="epoch", lane_axis="winner", kinds=[_named(kind) for kind in kinds])


def _durations(lines: Sequence[EpochLine]) -> Chart:
    names = labels(lines)
    bars = [(names[line.summary.id], stage_seconds(line.summary.stage_times)) for line in lines]
    return stacked_durations("Time in each stage", bars[:12], axis="epoch")
