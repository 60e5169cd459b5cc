"""The weights of the molecule epochs over time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from fastapi import Request, Response

from app.api.pages.charts import Chart, Mark, lanes
from app.api.pages.downloads import csv_response, streamed_json
from app.api.pages.epochs.epochs import MOST_DOWNLOADED
from app.api.pages.page import PageRouter, render
from app.api.pages.paging import every, paging
from app.domain import percent
from app.store.database import get_store
from app.store.epoch_views import EpochViews, WeightsRecord

router = PageRouter()

_PAGE_SIZE: Final = 30


@router.page("/weights")
def weights(request: Request) -> Response:
    """Every weight submission, newest first, and who got what."""
    with get_store().reading() as session:
        views = EpochViews(session)
        found = paging(request, views.weights_count(), _PAGE_SIZE)
        records = views.weights_history(_PAGE_SIZE, found.offset)
    return render(request, "weights.html", records=records, paging=found, plot=_plot(records))


@router.page("/weights.csv")
def weights_csv() -> Response:
    """One line per epoch and UID, as CSV; an epoch without weights has one line."""
    rows = (
        (one.number, one.epoch_id, uid, share, one.state, one.tries, one.detail, one.updated_at, one.extrinsic,
         one.block_hash, " | ".join(one.failures))
        for one in _every_record()
        for uid, share in (list(one.vector.items()) if one.vector else [(None, None)])
    )  # fmt: skip
    columns = ("epoch", "id", "uid", "weight", "state", "tries", "detail", "at", "extrinsic", "block_hash", "failures")
    return csv_response("weights", columns, rows)


@router.page("/weights.json")
def weights_json() -> Response:
    """Every weight submission (the newest 5,000), as JSON."""
    return streamed_json("weights", {"weights": _every_record()})


def _every_record() -> Iterator[WeightsRecord]:
    """The newest weight submissions, read a page at a time."""
    return every(lambda session, limit, offset: EpochViews(session).weights_history(limit, offset), MOST_DOWNLOADED)


def _plot(records: Sequence[WeightsRecord]) -> Chart:
    numbers = [one.number for one in records]
    marks = [
        Mark(
            f"UID {uid}",
            str(one.number) if numbers.count(one.number) == 1 else f"{one.number} #{one.epoch_id}",
            share,
            f"UID {uid}: {percent(share)}",
        )
        for one in reversed(records)
        for uid, share in (one.vector or {}).items()
        if share > 0
    ]
    return lanes("Weights", marks, axis="epoch", lane_axis="UID")
