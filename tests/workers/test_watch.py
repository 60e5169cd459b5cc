"""Every closed epoch once: restarts, double beats, reorganisations, and a watcher that slept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import workers.watch
from app.settings import get_settings
from app.store.database import get_store
from app.store.epochs import Epochs
from app.store.records import EpochSummary, Stage
from tests.workers.live_scene import END, LENGTH, Scene, live_scene
from workers.watch import watch_epoch

NUMBER = END // LENGTH - 1


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    with live_scene(tmp_path, monkeypatch) as scene:
        yield scene


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The epochs that were sent to be opened."""
    sent: list[int] = []
    monkeypatch.setattr(workers.watch.open_epoch, "delay", sent.append)
    return sent


def epochs() -> list[EpochSummary]:
    with get_store().reading() as session:
        return sorted(Epochs(session).recent(1000), key=lambda epoch: epoch.number)


def beat() -> str:
    return str(watch_epoch.delay().get()["status"])


def test_the_last_closed_epoch_is_announced_once(scene: Scene, opened: list[int]) -> None:
    assert beat() == "announced"
    assert beat() == "known"
    (epoch,) = epochs()
    assert opened == [epoch.id]
    assert (epoch.number, epoch.stage, epoch.run) == (NUMBER, Stage.ANNOUNCED, f"68:{NUMBER}")
    assert epoch.source == f"live:68:{END}:{LENGTH}"


def test_an_epoch_closes_when_its_last_block_is_final(scene: Scene, opened: list[int]) -> None:
    beat()
    scene.node.mine(END + LENGTH - scene.chain.head)
    assert scene.chain.head == END + LENGTH
    assert beat() == "known"
    scene.node.mine(1)
    assert beat() == "announced"
    assert [epoch.number for epoch in epochs()] == [NUMBER, NUMBER + 1]


def test_a_reorganisation_at_the_boundary_changes_nothing_announced(scene: Scene, opened: list[int]) -> None:
    beat()
    scene.node.mine(END + LENGTH - scene.chain.head)
    before = scene.chain.hash(END + LENGTH)
    scene.chain.reorganise(1)
    assert scene.chain.hash(END + LENGTH) != before
    assert beat() == "known"
    scene.node.mine(1)
    assert beat() == "announced"
    assert len(opened) == 2
    with get_store().reading() as session:
        from app.store.tables import EpochRow

        header = session.get(EpochRow, opened[1]).header
    assert header["end_block_hash"] == scene.chain.hash(END + LENGTH)


def test_a_watcher_that_slept_notes_what_it_missed(scene: Scene, opened: list[int]) -> None:
    beat()
    scene.node.mine(4 * LENGTH)
    assert beat() == "announced"
    assert [(epoch.number, epoch.stage) for epoch in epochs()] == [
        (NUMBER, Stage.ANNOUNCED),
        (NUMBER + 1, Stage.MISSED),
        (NUMBER + 2, Stage.MISSED),
        (NUMBER + 3, Stage.MISSED),
        (NUMBER + 4, Stage.ANNOUNCED),
    ]
    assert "no validator watched" in (epochs()[1].error or "")
    assert len(opened) == 2


def test_a_first_start_misses_nothing(scene: Scene, opened: list[int]) -> None:
    scene.node.mine(3 * LENGTH)
    beat()
    assert [epoch.stage for epoch in epochs()] == [Stage.ANNOUNCED]


def test_a_restart_announces_nothing_again(scene: Scene, opened: list[int]) -> None:
    import app.live

    beat()
    for connection in app.live._chains.values():
        connection.close()
    app.live._chains.clear()
    assert beat() == "known"
    assert len(opened) == 1


def test_a_silent_chain_costs_a_beat_and_no_epoch(
    scene: Scene, opened: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHAIN_TIMEOUT", "PT0.3S")
    get_settings.cache_clear()
    scene.node.silent = True
    assert beat() == "chain unavailable"
    assert epochs() == []
    scene.node.silent = False
    monkeypatch.setenv("CHAIN_TIMEOUT", "PT5S")
    get_settings.cache_clear()
    import app.live

    for connection in app.live._chains.values():
        connection.close()
    app.live._chains.clear()
    assert beat() == "announced"


def test_a_node_that_lies_about_its_height_announces_nothing(scene: Scene, opened: list[int]) -> None:
    beat()
    scene.chain.finality_lag = 0
    scene.chain.lie_about_head = END + 50 * LENGTH
    assert beat() == "chain unavailable"
    assert len(epochs()) == 1
    scene.chain.lie_about_head = None
    assert beat() == "known"


def test_nothing_is_watched_unless_asked(scene: Scene, opened: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFLINE", "1")
    get_settings.cache_clear()
    before = len(scene.node.requests)
    assert beat() == "not live"
    assert len(scene.node.requests) == before


def test_the_timetable_watches_only_when_live(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    from beat_schedule import timetable

    def tasks() -> set[str]:
        get_settings.cache_clear()
        return {entry["task"] for entry in timetable(get_settings()).values()}

    assert "workers.watch.watch_epoch" in tasks()
    monkeypatch.setenv("LIVE", "0")
    assert "workers.watch.watch_epoch" not in tasks()
