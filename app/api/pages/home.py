"""The home page: what the validator does now, and how it is."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from fastapi import Request, Response

from app.api.pages.downloads import csv_response, json_response
from app.api.pages.epochs.stage_bars import StageBar, stage_bars
from app.api.pages.epochs.strip import STRIP, EpochClock, StripCell, clock, strip
from app.api.pages.page import BrowserRoute, PageRouter, render
from app.domain import MODELS_NETUID, QueueName
from app.epochs.allowance import ReadQuota, last_quota
from app.judgement import RECENT, Condition, Judgement, Part, cluster, gather, judge
from app.observability.broker import LiveWorker, QueueDepth, workers_by_queue
from app.settings import get_settings
from app.store.database import get_store
from app.store.epoch_views import EpochLine, EpochViews, WeightsRecord
from app.store.weight_submissions import LastWeights
from app.weights import ReadVerdict

# The longest that the page waits for the broker; what comes later is there at the next look.
_BROKER_SECONDS: Final = 0.15

home_router = PageRouter(route_class=BrowserRoute)
router = PageRouter()


@dataclass(frozen=True, slots=True)
class QueueState:
    """A queue: its messages and its workers; None where the broker does not say."""

    name: str
    depth: QueueDepth | None
    workers: int | None


@dataclass(frozen=True, slots=True)
class Overview:
    """All that the home page shows."""

    current: EpochLine | None
    bars: tuple[StageBar, ...]
    warnings: tuple[str, ...]
    recent: tuple[EpochLine, ...]
    weights: WeightsRecord | None
    last_weights: LastWeights | None
    queues: tuple[QueueState, ...]
    workers: tuple[LiveWorker, ...] | None
    cells: tuple[StripCell, ...]
    clock: EpochClock | None
    judgement: Judgement
    verdict: ReadVerdict | None
    quota: ReadQuota | None


@home_router.page("/")
def home(request: Request) -> Response:
    """What the validator does now. Clients that do not prefer HTML get the API's health instead."""
    return render(request, "home.html", **_context(overview()), fragment=False)


@router.page("/fragments/now")
def now_fragment(request: Request) -> Response:
    """The part of the home page that changes, for its script; ``X-Refresh: reload`` once another epoch is the news."""
    found = overview()
    response = render(request, "now.html", **_context(found), fragment=True)
    if request.query_params.get("shown", "") != shown_key(found.current):
        response.headers["X-Refresh"] = "reload"
    return response


@router.page("/now.json")
def now_json() -> Response:
    """What the home page shows, as JSON."""
    found = overview()
    return json_response(
        "now",
        {
            "epoch": None if found.current is None else epoch_entry(found.current),
            "stages": found.bars,
            "queues": [
                {
                    "name": queue.name,
                    "ready": queue.depth.ready if queue.depth else None,
                    "unacknowledged": queue.depth.unacknowledged if queue.depth else None,
                    "workers": queue.workers,
                }
                for queue in found.queues
            ],
            "workers": found.workers,
            "last_weights": found.weights or found.last_weights,
            "warnings": found.warnings,
            "clock": found.clock,
            "github": found.quota,
            "recent": [epoch_entry(cell.line) for cell in found.cells],
            "condition": found.judgement.condition,
            "findings": found.judgement.findings,
            "weights_parameters": found.verdict,
        },
    )


@router.page("/now.csv")
def now_csv() -> Response:
    """The stages of the current epoch, as CSV."""
    found = overview()
    rows = (
        (found.current and found.current.summary.number, bar.name, bar.state, bar.done, bar.total, bar.eta, bar.took)
        for bar in found.bars
    )
    return csv_response("now", ("epoch", "stage", "state", "done", "total", "seconds_left", "seconds_taken"), rows)


def overview() -> Overview:
    """Read the store, and the broker as far as it answers at once."""
    asked = cluster(_BROKER_SECONDS)
    with get_store().reading() as session:
        views = EpochViews(session)
        current = views.current()
        bars: tuple[StageBar, ...] = ()
        warnings: tuple[str, ...] = ()
        if current is not None:
            bars = stage_bars(current, views.work(current.summary.id, current.counts), datetime.now(UTC))
            warnings = tuple(views.warnings(current.summary.id))
        # rounds of subnet 21 belong to no epoch
        weights = None if get_settings().netuid == MODELS_NETUID else next(iter(views.weights_history(1)), None)
        lines = views.lines(STRIP)
        timed = None
        if current is not None:
            identity = current.summary.id
            spans = views.batch_spans(identity)
            timed = clock(current, views.epoch_length(identity), lines, spans, datetime.now(UTC))
        quota = last_quota(session)
        evidence = gather(session, get_settings(), asked)
    served = None if asked.workers is None else workers_by_queue(asked.workers)
    queues = tuple(
        QueueState(
            name.value,
            None if asked.depths is None else asked.depths[name],
            None if served is None else served[name],
        )
        for name in QueueName
    )
    return Overview(
        current=current,
        bars=bars,
        warnings=warnings,
        recent=tuple(lines[:RECENT]),
        weights=weights,
        last_weights=evidence.last_weights,
        queues=queues,
        workers=asked.workers,
        cells=strip(lines),
        clock=timed,
        judgement=judge(evidence),
        verdict=evidence.verdict,
        quota=quota,
    )


def shown_key(current: EpochLine | None) -> str:
    """What the page is about: once it differs, a page that is open shows the wrong epoch."""
    return "none" if current is None else f"{current.summary.id}-{'ended' if current.final else 'runs'}"


def epoch_entry(line: EpochLine) -> dict[str, Any]:
    """An epoch's line as the downloads have it."""
    summary = line.summary
    return {
        "id": summary.id,
        "epoch": summary.number,
        "netuid": summary.netuid,
        "kind": "live" if line.live else "replay",
        "stage": summary.stage,
        "error": summary.error,
        "submissions": line.submissions,
        **{state.value: count for state, count in sorted(line.counts.items())},
        "psichic_winner": summary.psichic_winner,
        "boltz_winner": summary.boltz_winner,
        "winners": summary.winners,
        "weights": summary.weights,
        "weights_state": line.weights_state,
        "weights_detail": line.weights_detail,
        "opened_at": summary.created_at,
        "closed_at": summary.closed_at,
        "stage_times": summary.stage_times,
    }


def _context(found: Overview) -> dict[str, Any]:
    accepted = found.judgement.of(Part.ACCEPTANCE)
    return {"overview": found, "shown": shown_key(found.current), "accepted": accepted, "conditions": Condition}
