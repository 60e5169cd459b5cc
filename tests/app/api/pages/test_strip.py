"""An epoch at a glance: the strip of the last epochs, its clock, its timeline, and the winner in the distribution."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import update
from starlette.testclient import TestClient

from app.api.application import create_app
from app.api.pages.charts import Span, histogram, timeline
from app.api.pages.epochs.strip import clock
from app.clock import now
from app.store.database import Store
from app.store.epoch_views import EpochViews
from app.store.epochs import Epochs
from app.store.records import Stage
from app.store.tables.epochs import BatchRow, EpochRow
from tests.app.api.pages.page_reader import folded, read
from tests.app.page_stores import full_epoch, running_epoch

on_sqlite = pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)


@on_sqlite
def test_the_home_page_shows_the_last_epochs_and_the_clock(store: Store) -> None:
    at = now()
    for number in range(22):
        full_epoch(store, submissions=8, molecules=2, number=number)
    with store.writing() as session:
        times = {"announced": (at - timedelta(minutes=12)).isoformat(), "done": at.isoformat()}
        session.execute(update(EpochRow).values(stage_times=times))
    running = running_epoch(store)
    with store.writing() as session:
        session.execute(
            update(EpochRow).where(EpochRow.id == running).values(created_at=at - timedelta(minutes=5, seconds=1))
        )
        # two workers; one computes all the time, one half of it
        for worker, seconds in (("gpu@a/1", 60), ("gpu@b/2", 30)):
            session.add(
                BatchRow(
                    epoch_id=running,
                    model="psichic",
                    number=seconds,
                    smiles=[],
                    state="scored",
                    worker=worker,
                    began_at=at,
                    finished_at=at + timedelta(seconds=seconds),
                )
            )
    with TestClient(create_app()) as client:
        page = read(client, "/")
        said = client.get("/now.json").json()
    cells = [folded(cell.text_content()) for cell in page.root.xpath("//ol[@class='strip']/li")]
    assert len(cells) == 20
    assert "7 valid / 1 refused" in cells[-1]
    assert "12 min" in cells[-1]
    assert "UID 0" in cells[-1]
    assert cells[-1].endswith("set")
    assert "examining" in cells[0]
    facts = page.text("//section[@aria-labelledby='current']//dl")
    assert "5 min" in facts
    assert "12 min expected, about 6 min" in facts
    assert "before the next epoch closes" in facts
    assert "75 % of the scoring time, 2 workers" in facts
    assert said["clock"]["gpu_busy"] == 0.75
    assert len(said["recent"]) == 20


@on_sqlite
def test_what_is_not_known_of_the_time_is_said(store: Store) -> None:
    running_epoch(store)
    with TestClient(create_app()) as client:
        page = read(client, "/")
    facts = page.text("//section[@aria-labelledby='current']//dl")
    assert "how long it will take is not known yet" in facts
    assert "GPU usenot known yet" in facts
    assert "How many calls are left is not known yet" in page.text("//main")


@on_sqlite
def test_an_epoch_shows_who_worked_when_and_marks_the_winner(store: Store) -> None:
    epoch_id = full_epoch(store, submissions=4, molecules=40)
    at = now()
    with store.writing() as session:
        session.execute(
            update(BatchRow).values(worker="gpu@node/7", began_at=at, finished_at=at + timedelta(seconds=9))
        )
    with TestClient(create_app()) as client:
        page = read(client, f"/epochs/{epoch_id}")
        work = client.get(f"/epochs/{epoch_id}.json").json()["work"]
    rows = page.table("Who worked when")
    assert {row[0] for row in rows} == {"stages", "gpu@node/7"}
    assert {row[1] for row in rows} >= {"5 parts of PSICHIC", "Boltz-2 batch 0"}
    assert len(work) == 6
    winners = [text.text for text in page.root.xpath("//figure//*[contains(@class,'mark')]/title")]
    assert any((text or "").startswith("winner UID 0: ") for text in winners)
    row = page.table("All submissions of epoch")[0]
    assert (row[0], row[2]) == ("0", "winner of PSICHIC")


def test_a_timeline_of_thousands_of_parts_stays_small() -> None:
    spans = [Span(f"w{i % 40}", "examine", i * 0.01, i * 0.01 + 0.5, f"UID {i}") for i in range(8000)]
    chart = timeline("T", spans, lane_axis="worker")
    assert chart.svg.count("<rect") < 2_000
    assert "16 more are in the table" in chart.description
    assert len(chart.rows) < 2_000
    alone = timeline("T", [Span("a", "k", 0.0, 1.0, "x"), Span("a", "k", 1.0, 2.0, "y")], lane_axis="worker")
    assert [row[1] for row in alone.rows] == ["2 parts of k"]
    assert timeline("T", [], lane_axis="worker").rows == ()
    assert timeline("T", [Span("a", "k", 5.0, 5.0, "x")], lane_axis="worker").svg


def test_the_winner_is_marked_once_it_has_a_score() -> None:
    values = [1.0, 2.0, 3.0]
    assert "The winner, UID 3, has 3.0000." in histogram("H", values, axis="s", winner=("UID 3", 3.0)).description
    for nobody in (None, ("UID 3", float("-inf"))):
        assert "winner" not in histogram("H", values, axis="s", winner=nobody).svg


@on_sqlite
@pytest.mark.parametrize("end", ["fail", "miss"])
def test_the_time_of_an_epoch_that_failed_does_not_grow(end: str, store: Store) -> None:
    epoch_id = running_epoch(store)
    with store.writing() as session:
        Epochs(session).fail(epoch_id, "no target was found")
        if end == "miss":
            session.execute(update(EpochRow).values(stage=Stage.MISSED.value))
    with store.reading() as session:
        (line,) = EpochViews(session).lines(1)
    later = clock(line, 361, [], [], now() + timedelta(days=5))
    assert later.spent < 60
