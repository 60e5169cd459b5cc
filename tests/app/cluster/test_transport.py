"""No connection to the broker waits for ever, and an error reply is a reason to connect again."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import redis
from celery import chord
from kombu import Connection, Consumer, Exchange, Message, Producer, Queue

from app.celery import Application, app, configuration
from app.cluster import transport
from app.cluster.embedded import EmbeddedCluster
from app.settings import Settings
from tests.cluster.proxy import Proxy

SECONDS = 1.0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedCluster]:
    """A real Redis."""
    cluster = EmbeddedCluster(Settings(data_dir=tmp_path / "redis", _env_file=None), flower=False, name="transport")
    cluster.logs.mkdir(parents=True)
    cluster._launch("redis", cluster.redis_command())
    cluster._await_redis()
    yield cluster
    cluster.stop()


def test_every_connection_of_the_process_has_limits() -> None:
    with app.connection_for_read("redis://127.0.0.1:1/0") as connection:
        assert type(connection.transport) is transport.Transport
        assert connection.transport_options["socket_timeout"] == transport.ANSWER_SECONDS
        assert connection.transport_options["socket_connect_timeout"] == transport.CONNECT_SECONDS
    with app.connection_for_read("sentinel://127.0.0.1:1") as connection:
        assert type(connection.transport) is transport.SentinelTransport
    assert app.conf.redis_socket_timeout == transport.ANSWER_SECONDS
    assert app.conf.redbeat_redis_options["socket_timeout"] == transport.ANSWER_SECONDS


def test_a_message_that_freezes_halfway_blocks_its_listener_for_a_moment_only(server: EmbeddedCluster) -> None:
    proxy = Proxy(server.port)
    frozen = server.broker_url.replace(f":{server.port}/", f":{proxy.port}/")
    options = {"socket_timeout": SECONDS, "socket_connect_timeout": SECONDS, "global_keyprefix": "c:"}
    exchange = Exchange("control", type="fanout")
    heard: list[str] = []
    with Connection(server.broker_url, transport_options=options) as far, far.channel() as sender:
        near = Connection(frozen, transport_options=options)
        queue = Queue("listener", exchange, auto_delete=True)
        consumer = Consumer(near.channel(), [queue], callbacks=[lambda body, _: heard.append(body)], no_ack=True)
        consumer.consume()
        producer = Producer(sender, exchange)
        while not heard:
            producer.publish("whole")
            with suppress(TimeoutError):
                near.drain_events(timeout=0.2)
        proxy.freeze_after(20)
        producer.publish("x" * 1000)
        lost = threading.Event()

        def listen() -> None:
            with suppress(near.connection_errors):
                while True:
                    with suppress(TimeoutError):
                        near.drain_events(timeout=0.2)
            lost.set()

        threading.Thread(target=listen, daemon=True).start()
        assert lost.wait(8 * SECONDS)
        proxy.close()


@pytest.mark.parametrize("fault", ["oom", "readonly"])
def test_an_error_reply_is_a_lost_connection(server: EmbeddedCluster, fault: str) -> None:
    with redis.Redis.from_url(server.broker_url) as client:
        if fault == "oom":
            client.config_set("maxmemory", 1)
        else:
            client.execute_command("REPLICAOF", "127.0.0.1", "1")
        with Connection(server.broker_url) as connection, connection.channel() as channel:
            with pytest.raises(connection.connection_errors) as caught:
                Producer(channel).publish("x", routing_key="cpu")
            assert isinstance(caught.value, redis.ResponseError)


@pytest.mark.parametrize("answer", ["ack", "reject", "requeue"])
def test_a_message_whose_acknowledgement_is_refused_leaves_room_for_the_next(
    server: EmbeddedCluster, answer: str
) -> None:
    """A worker that prefetches one message goes on once Redis takes writes again."""
    taken: list[Message] = []
    with Connection(server.broker_url) as connection, redis.Redis.from_url(server.broker_url) as client:
        queue = Queue("work", Exchange("work"), routing_key="work")
        consumer = Consumer(connection, [queue], callbacks=[lambda _, message: taken.append(message)])
        consumer.qos(prefetch_count=1)
        consumer.consume()
        producer = Producer(connection, queue.exchange, routing_key="work")
        for body in ("first", "second"):
            producer.publish(body)
        connection.drain_events(timeout=5)
        client.config_set("min-replicas-to-write", "1")
        with pytest.raises(redis.ResponseError, match="NOREPLICAS"):
            taken[0].ack() if answer == "ack" else taken[0].reject(requeue=answer == "requeue")
        client.config_set("min-replicas-to-write", "0")
        connection.drain_events(timeout=5)
    assert [message.payload for message in taken] == ["first", "second"]


def test_a_full_redis_takes_what_frees_memory(server: EmbeddedCluster) -> None:
    taken: list[Message] = []
    with Connection(server.broker_url) as connection, redis.Redis.from_url(server.broker_url) as client:
        queue = Queue("work", Exchange("work"), routing_key="work")
        consumer = Consumer(connection, [queue], callbacks=[lambda _, message: taken.append(message)])
        consumer.consume()
        Producer(connection, queue.exchange, routing_key="work").publish("first")
        connection.drain_events(timeout=5)
        client.config_set("maxmemory", "1")
        taken[0].ack()
        client.config_set("maxmemory", "0")
        assert client.exists("unacked", "unacked_index") == 0


def test_a_chord_is_counted_and_waited_for_by_nobody(server: EmbeddedCluster) -> None:
    settings = Settings(broker_url=server.broker_url, result_backend=server.broker_url, _env_file=None)
    own = Application("own", set_as_current=False, task_cls="app.task:ValidatorTask")
    own.config_from_object(configuration(settings))
    part = own.signature("workers.submissions.examine_submission", args=(1, 2), immutable=True)
    chord([part, part, part], body=own.signature("workers.epochs.plan_scoring", args=(1,)), app=own).apply_async()
    client = redis.Redis.from_url(server.broker_url)
    assert client.llen(f"{settings.key_prefix}cpu") == 3
    assert client.pubsub_channels() == [], "the sender would keep a subscription for every part"
    own.close()
