"""Kombu's Redis transports, so that no connection waits for ever and an error reply of Redis is waited out.

``register`` puts them in the place of kombu's own for every connection of the process: workers, beat, clients, Flower.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

from kombu import transport
from kombu.transport import redis as kombu_redis
from kombu.utils.objects import cached_property
from redis.exceptions import ResponseError

from app.cluster import watchdog

# One connection, and one answer, may take this long (s). Both must stay below the watchdog's limit for connecting.
CONNECT_SECONDS: Final = 5.0
ANSWER_SECONDS: Final = 10.0

# A connection that was silent for this long (s) is asked whether it lives.
HEALTH_SECONDS: Final = 10


class _BoundedListening:
    """A channel whose subscription is never read without a time limit.

    Kombu reads it when the socket has data, and redis-py then waits without a limit for the rest of the message,
    whatever ``socket_timeout`` says: a connection that freezes at that moment would block the worker for good.
    """

    socket_timeout: float | None

    @cached_property
    def subclient(self) -> Any:
        """The subscription that remote control arrives on."""
        client = super().subclient  # type: ignore[misc]
        client.parse_response = partial(client.parse_response, block=False, timeout=self.socket_timeout)
        return client


class _FreeingQoS(kombu_redis.QoS):
    """Counts a finished message out even where Redis refuses to hear of it.

    Kombu logs the refusal, keeps the connection and goes on counting the message, and a worker that may prefetch one
    message never takes another. Redis delivers the message again later, and its task finds the work done.

    A message is noted, and crossed off, in one write of two commands without a transaction. If Redis crashes between
    the two, restoring skips the incomplete note, and the reconciler sends what was lost.
    """

    @contextmanager
    def pipe_or_acquire(self, pipe: Any = None, client: Any = None) -> Iterator[Any]:
        """A pipeline: the one that is given, or one of its own."""
        if pipe:
            yield pipe
        else:
            with self.channel.conn_or_acquire(client) as connected:
                yield connected.pipeline(transaction=False)

    def ack(self, delivery_tag: str) -> None:
        """Acknowledge a message."""
        try:
            super().ack(delivery_tag)  # type: ignore[no-untyped-call]
        finally:
            self._quick_ack(delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Refuse a message."""
        try:
            super().reject(delivery_tag, requeue=requeue)  # type: ignore[no-untyped-call]
        finally:
            self._quick_ack(delivery_tag)


class Channel(_BoundedListening, kombu_redis.Channel):  # type: ignore[misc]
    """A channel to one Redis server."""

    QoS = _FreeingQoS


class SentinelChannel(_BoundedListening, kombu_redis.SentinelChannel):  # type: ignore[misc]
    """A channel to the master that Sentinel names."""

    QoS = _FreeingQoS


class _PatientTransport:
    """Treats an error reply (OOM, READONLY after a failover, MISCONF, UNBLOCKED) as a lost connection.

    Celery and kombu connect again after one, with growing pauses and without end; any other error ends the worker.
    """

    def establish_connection(self) -> Any:
        """Connect."""
        watchdog.feed(watchdog.CONNECTING)
        return super().establish_connection()  # type: ignore[misc]


class Transport(_PatientTransport, kombu_redis.Transport):
    """``redis://`` and ``rediss://``."""

    Channel = Channel
    connection_errors = (*kombu_redis.Transport.connection_errors, ResponseError)


class SentinelTransport(_PatientTransport, kombu_redis.SentinelTransport):
    """``sentinel://``."""

    Channel = SentinelChannel
    connection_errors = (*kombu_redis.SentinelTransport.connection_errors, ResponseError)


def register() -> None:
    """Use these transports in this process. To be called before its first connection."""
    transport.TRANSPORT_ALIASES.update(
        redis=f"{__name__}:Transport", rediss=f"{__name__}:Transport", sentinel=f"{__name__}:SentinelTransport"
    )
