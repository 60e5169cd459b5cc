"""Queue depths and live workers: what a page may ask without ever waiting long or failing."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from app.cluster.embedded import EmbeddedCluster
from app.domain import QueueName
from app.observability import broker as queues
from app.settings import Settings, get_settings


@pytest.fixture
def broker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[redis.Redis]:
    """A real Redis, which the settings name."""
    cluster = EmbeddedCluster(Settings(data_dir=tmp_path / "redis", _env_file=None), flower=False, name="depths")
    cluster.logs.mkdir(parents=True)
    cluster._launch("redis", cluster.redis_command())
    cluster._await_redis()
    monkeypatch.setenv("BROKER_URL", cluster.broker_url)
    get_settings.cache_clear()
    client = redis.Redis.from_url(cluster.broker_url)
    yield client
    client.close()
    queues._client.cache_clear()
    cluster.stop()


def depths() -> queues._Watched[dict[QueueName, queues.QueueDepth]]:
    return queues._Watched(queues._read_depths, 1.0)


def test_depths_count_every_priority_and_what_workers_hold(broker: redis.Redis) -> None:
    broker.rpush("default:cpu", "a", "b")
    broker.rpush("default:cpu\x06\x169", "c")
    broker.rpush("default:gpu", "d")
    broker.rpush("another:gpu", "of another cluster")
    broker.hset("default:unacked", "tag", json.dumps([{"body": "e"}, "", "gpu"]))
    found = depths().value(1.0)
    assert found == {
        QueueName.CHAIN: queues.QueueDepth(0, 0),
        QueueName.CPU: queues.QueueDepth(3, 0),
        QueueName.GPU: queues.QueueDepth(1, 1),
    }


def test_what_celery_sends_is_counted_under_its_queue(broker: redis.Redis) -> None:
    from celery import Celery

    from app.celery import configuration

    app = Celery("sender", set_as_current=False)
    app.config_from_object(configuration(get_settings()))
    app.send_task("workers.scoring.score_psichic", (1, 2), queue="gpu")
    app.send_task("workers.epochs.close_epoch", (1,), queue="cpu", priority=9)
    app.close()
    found = depths().value(1.0)
    assert found is not None
    assert [found[name].ready for name in QueueName] == [0, 1, 1]


def test_nobody_answers_where_no_worker_runs(broker: redis.Redis) -> None:
    watched = queues._Watched(queues._ask_workers, 5.0)
    deadline = time.monotonic() + 20
    while (found := watched.value(1.0)) is None and time.monotonic() < deadline:
        pass
    assert found == ()


@pytest.mark.parametrize("kind", ["closed", "silent"])
def test_a_broker_that_is_away_is_unknown_within_a_second(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        if kind == "silent":
            door.listen()
        monkeypatch.setenv("BROKER_URL", f"redis://127.0.0.1:{door.getsockname()[1]}/0")
        get_settings.cache_clear()
        for read in (queues._read_depths, queues._ask_workers):
            watched = queues._Watched(read, 1.0)
            began = time.monotonic()
            assert watched.value(30.0) is None
            assert time.monotonic() - began < 1.5
            deadline = time.monotonic() + 10
            while watched._asking() and time.monotonic() < deadline:
                time.sleep(0.05)
            assert not watched._asking(), "the thread ends"
        queues._client.cache_clear()


def test_an_old_answer_is_given_at_once_while_the_next_is_fetched() -> None:
    answers = iter([1, 2])

    def slow() -> int:
        time.sleep(0.3)
        return next(answers)

    watched = queues._Watched(slow, 0.0)
    assert watched.value(1.0) == 1
    began = time.monotonic()
    assert watched.value(1.0) == 1
    assert time.monotonic() - began < 0.2
    time.sleep(0.5)
    assert watched._found == 2


def test_workers_are_counted_by_the_queues_they_serve() -> None:
    workers = (queues.LiveWorker("cpu@a", ("cpu",)), queues.LiveWorker("celery@b", ("chain", "cpu")))
    assert queues.workers_by_queue(workers) == {QueueName.CHAIN: 1, QueueName.CPU: 2, QueueName.GPU: 0}


def test_nobody_waits_longer_than_a_second_for_a_broker_that_takes_its_time() -> None:
    done = threading.Event()

    def slow() -> int:
        done.wait(10)
        return 1

    watched = queues._Watched(slow, 1.0)
    began = time.monotonic()
    assert watched.value(30.0) is None
    assert time.monotonic() - began < 2
    done.set()


@pytest.mark.parametrize("found", [(), (queues.LiveWorker("all@late", ("chain", "cpu", "gpu")),)])
def test_workers_that_answer_late_are_asked_a_second_time(
    found: tuple[queues.LiveWorker, ...], broker: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = iter([(), found])
    monkeypatch.setattr(queues, "_answered", lambda _: next(looks))
    assert queues._ask_workers() == found
    assert next(looks, None) is None
