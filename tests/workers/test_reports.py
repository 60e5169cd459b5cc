"""Reports to other hosts: sent with their key, again where that may help, and never in the weights' way."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from app.settings import get_settings
from app.store.database import get_store
from app.store.deliveries import Deliveries, Destination
from app.store.records import Stage
from app.task import transaction
from tests.chain import internet
from tests.workers.live_scene import Scene, delivered, live_scene
from workers import reports
from workers.reports import deliver_report
from workers.upkeep import reconcile
from workers.weights import submit_weights


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[internet.Receiver]:
    with internet.Receiver() as receiver:
        monkeypatch.setenv("SUBMIT_RESULTS_URL", f"{receiver.url}/results")
        monkeypatch.setenv("SUBMIT_RESULTS_KEY", "secret")
        yield receiver


@pytest.fixture
def scene(receiver: internet.Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    monkeypatch.setattr(reports, "_LONGEST_PAUSE", timedelta(0))
    with live_scene(tmp_path, monkeypatch) as scene:
        yield scene


def state(epoch: int) -> tuple[str, str | None] | None:
    with get_store().reading() as session:
        return Deliveries(session).state(epoch, Destination.RESULTS)


def test_results_go_out_with_the_key_after_the_weights(scene: Scene, receiver: internet.Receiver) -> None:
    epoch = scene.closed_epoch()
    delivered(submit_weights, epoch)
    ((path, headers, body),) = receiver.posts
    assert path == "/results"
    assert headers["Authorization"] == "Bearer secret"
    assert body["validator"] == {"hotkey": scene.hotkey, "netuid": 68, "network": scene.node.url}
    assert body["weights_submission"]["state"] == "set"
    assert body["result"]["schema"] == 1
    assert state(epoch) == ("sent", None)
    # a second message says nothing twice
    delivered(deliver_report, epoch, "results")
    assert len(receiver.posts) == 1


def test_a_receiver_that_recovers_gets_its_report(
    scene: Scene, receiver: internet.Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver.faults["/results"] = internet.first(3, internet.status(503))
    epoch = scene.closed_epoch()
    monkeypatch.setattr("app.task.Step.deliver", lambda _: None)
    delivered(submit_weights, epoch)
    delivered(deliver_report, epoch, "results")
    assert len(receiver.posts) == 4
    assert state(epoch) == ("sent", None)


@pytest.mark.parametrize(("code", "posts"), [(500, 8), (429, 8), (401, 1), (302, 1)])
def test_a_receiver_that_refuses_touches_no_weights(
    scene: Scene, receiver: internet.Receiver, monkeypatch: pytest.MonkeyPatch, code: int, posts: int
) -> None:
    receiver.faults["/results"] = internet.status(code)
    epoch = scene.closed_epoch()
    monkeypatch.setattr("app.task.Step.deliver", lambda _: None)
    delivered(submit_weights, epoch)
    assert scene.stage(epoch) is Stage.DONE
    assert scene.chain.weights_of(68, 7) == {0: 65535, 3: 32768, 5: 32768}
    delivered(deliver_report, epoch, "results")
    assert len(receiver.posts) == posts
    assert state(epoch) == ("failed", f"status {code}")


def test_a_report_whose_message_is_lost_is_sent_by_the_reconciler(
    scene: Scene, receiver: internet.Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wiped broker, killed worker, full disk: the report was written down with the epoch's end."""
    epoch = scene.closed_epoch()
    with monkeypatch.context() as patch:
        patch.setattr("app.task.Step.deliver", lambda _: None)
        delivered(submit_weights, epoch)
    assert scene.stage(epoch) is Stage.DONE
    # the weights' message comes back, and finds nothing to do
    delivered(submit_weights, epoch)
    reconcile.delay()
    assert receiver.posts == []
    monkeypatch.setenv("RECONCILE_AFTER", "0.001")
    for cluster, posts in (("another", 0), ("tests", 1)):
        monkeypatch.setenv("CLUSTER_NAME", cluster)
        get_settings.cache_clear()
        reconcile.delay()
        assert len(receiver.posts) == posts
    assert state(epoch) == ("sent", None)


def test_an_epoch_that_cannot_be_scored_is_reported_to_monitoring(
    scene: Scene, receiver: internet.Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MONITORING_URL", f"{receiver.url}/state")
    get_settings.cache_clear()
    epoch = scene.closed_epoch()
    with transaction() as step:
        reports.end_failed(step, epoch, "no weights")
    ((path, _, body),) = receiver.posts
    assert (path, body["stage"], body["error"]) == ("/state", "failed", "no weights")


def test_nothing_is_sent_unless_configured(
    scene: Scene, receiver: internet.Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SUBMIT_RESULTS_URL")
    get_settings.cache_clear()
    delivered(submit_weights, scene.closed_epoch())
    assert receiver.posts == []


def test_missed_epochs_are_reported_to_monitoring(
    scene: Scene, receiver: internet.Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    from workers.watch import watch_epoch

    monkeypatch.setenv("MONITORING_URL", f"{receiver.url}/state")
    get_settings.cache_clear()
    monkeypatch.setattr("workers.epochs.open_epoch.apply_async", lambda *_, **__: None)
    watch_epoch.delay()
    scene.node.mine(3 * 361)
    watch_epoch.delay()
    states = [body for path, _, body in receiver.posts if path == "/state"]
    assert [body["stage"] for body in states] == ["missed", "missed"]
    assert "no validator watched" in states[0]["error"]
    assert [path for path, _, _ in receiver.posts] == ["/state", "/state"]
