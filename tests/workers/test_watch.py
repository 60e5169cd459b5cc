"""Every closed epoch once: restarts, double beats, reorganisations, and a watcher that slept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import workers.epochs
from app.domain import EpochHeader
from app.settings import get_settings
from app.store.database import get_store
from app.store.epochs import Epochs
from app.store.records import EpochSummary, Stage
from tests.chain.fake_subtensor import FakeChain, FakeNode
from tests.workers.live_scene import END, LENGTH, Scene, close_chains, live_scene
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
    monkeypatch.setattr(workers.epochs.open_epoch, "apply_async", lambda args, *_, **__: sent.append(args[0]))
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
    assert (epoch.number, epoch.stage) == (NUMBER, Stage.ANNOUNCED)
    assert epoch.run == f"68:{END}:{(scene.chain.hash(END) or '')[2:18]}"
    assert epoch.publishes


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
        from app.store.tables.epochs import EpochRow

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
    beat()
    close_chains()
    assert beat() == "known"
    assert len(opened) == 1


def _with_tempo(scene: Scene, tempo: int) -> None:
    scene.chain.put_subnet(replace(scene.chain.subnets[68], tempo=tempo), scene.chain.head)


@pytest.mark.parametrize("length", [100, 722])
def test_a_change_of_tempo_invents_no_missed_epochs(scene: Scene, opened: list[int], length: int) -> None:
    beat()
    _with_tempo(scene, length - 1)
    # the boundaries of the new tempo that lie before the epoch that was judged are past
    assert beat() == "known"
    scene.node.mine(-(END + 5) % length + length + 1)
    assert beat() == "announced"
    assert beat() == "known"
    assert Stage.MISSED not in {epoch.stage for epoch in epochs()}
    scene.node.mine(2 * length)
    beat()
    assert [epoch.stage for epoch in epochs()].count(Stage.MISSED) == 1


def test_a_number_that_comes_again_after_a_change_of_tempo_is_a_new_epoch(scene: Scene, opened: list[int]) -> None:
    longer = 19 * LENGTH
    # an epoch of the old tempo had the number that the next one of the new tempo will have
    number = END // longer
    with get_store().writing() as session:
        old = EpochHeader(68, scene.node.url, LENGTH, number * LENGTH, (number + 1) * LENGTH, "0x1", "0x2")
        Epochs(session).announce("old", old, "model", "tests", publishes=True)
    beat()
    _with_tempo(scene, longer - 1)
    assert beat() == "known"
    scene.node.mine(longer)
    assert beat() == "announced"
    assert [epoch.number for epoch in epochs()] == [number, number, NUMBER]
    with get_store().reading() as session:
        assert Epochs(session).live(68, number) == opened[-1]


def test_one_store_on_two_networks_mixes_no_epochs(
    scene: Scene, opened: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    # nobody is silent here, however slow this machine is at the moment
    monkeypatch.setenv("CHAIN_TIMEOUT", "PT20S")
    get_settings.cache_clear()
    beat()
    later = FakeChain(END + 30 * LENGTH + 5)
    later.put_subnet(scene.chain.subnets[68])
    for number in range(60):
        later.pin_hash(END + number * LENGTH, f"0x{number:064x}")

    def on(network: str) -> str:
        monkeypatch.setenv("SUBTENSOR_NETWORK", network)
        get_settings.cache_clear()
        return beat()

    with FakeNode(later) as other:
        assert on(other.url) == "announced"
        assert [epoch.stage for epoch in epochs()] == [Stage.ANNOUNCED] * 2
        # back on the first: what it missed since, and nothing of the other's
        scene.node.mine(2 * LENGTH)
        assert on(scene.node.url) == "announced"
        assert [(epoch.number, epoch.stage) for epoch in epochs()] == [
            (NUMBER, Stage.ANNOUNCED),
            (NUMBER + 1, Stage.MISSED),
            (NUMBER + 2, Stage.ANNOUNCED),
            (NUMBER + 30, Stage.ANNOUNCED),
        ]
        # the very epoch that the other network had long ago is this one's own
        other.mine(2 * LENGTH)
        assert on(other.url) == "announced"
        scene.node.mine(28 * LENGTH)
        assert on(scene.node.url) == "announced"
        assert [epoch.number for epoch in epochs()].count(NUMBER + 30) == 2
        close_chains()


def test_another_name_of_the_same_chain_makes_nothing_new(
    scene: Scene, opened: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    beat()
    monkeypatch.setenv("SUBTENSOR_NETWORK", scene.node.url.replace("127.0.0.1", "localhost"))
    get_settings.cache_clear()
    assert beat() == "known"
    scene.node.mine(2 * LENGTH)
    assert beat() == "announced"
    assert [epoch.stage for epoch in epochs()] == [Stage.ANNOUNCED, Stage.MISSED, Stage.ANNOUNCED]


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
    close_chains()
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
