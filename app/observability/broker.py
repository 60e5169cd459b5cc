"""What waits on the broker and who works it: depth of each queue, live workers. For pages and metrics; never raises."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Final, Generic, TypeVar

import redis
from kombu.connection import Connection
from kombu.exceptions import KombuError
from kombu.pidbox import Mailbox
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel

from app.domain import QueueName
from app.settings import get_settings
from app.settings.broker import BrokerAddress

T = TypeVar("T")

# How long an answer is good for; older ones are still shown while a new one is fetched.
_DEPTHS_KEPT: Final = 1.0
_WORKERS_KEPT: Final = 5.0

# An answer older than this is no answer any more (s).
_TOO_OLD: Final = 30.0

# The longest that a caller waits (s), whatever the broker does.
LONGEST_WAIT: Final = 1.5

# One call to the broker, and how long workers have for their replies (s).
_SOCKET_SECONDS: Final = 0.5
_REPLY_SECONDS: Final = 0.6

# Kombu's Redis transport: the hash of messages that workers hold, and one list per queue and priority.
_UNACKED: Final = "unacked"
_PRIORITIES: Final = ("", "\x06\x163", "\x06\x166", "\x06\x169")

# More held messages than this are counted, but not told apart by queue.
_MOST_READ: Final = 5_000

# Where Celery sends its questions to all workers.
_CONTROL_EXCHANGE: Final = "celery"

log = logging.getLogger("celery_validator.queues")


@dataclass(frozen=True, slots=True)
class QueueDepth:
    """Messages of one queue: ``ready`` to be taken, and ``unacknowledged``, which workers hold (running or waiting
    for their countdown)."""

    ready: int
    unacknowledged: int


@dataclass(frozen=True, slots=True)
class LiveWorker:
    """A worker that answers: its node name and the queues it consumes."""

    name: str
    queues: tuple[str, ...]


def queue_depths(wait: float = LONGEST_WAIT) -> Mapping[QueueName, QueueDepth] | None:
    """Depth of every queue, at most a second old; None where the broker does not answer within ``wait`` seconds."""
    return _depths.value(wait)


def live_workers(wait: float = LONGEST_WAIT) -> tuple[LiveWorker, ...] | None:
    """The workers that answer, by name; None where the broker does not answer within ``wait`` seconds."""
    return _workers.value(wait)


def broker_fault() -> str | None:
    """Why the broker could not be asked the last time; None where it answered, or is still being asked."""
    return _depths.fault


def workers_by_queue(workers: tuple[LiveWorker, ...]) -> Mapping[QueueName, int]:
    """How many workers consume each queue; zero where nobody does."""
    served = Counter(queue for worker in workers for queue in worker.queues)
    return {name: served[name.value] for name in QueueName}


class _Watched(Generic[T]):
    """A value fetched on a thread of its own, so that no caller waits longer than it wants to."""

    def __init__(self, fetch: Callable[[], T], kept: float) -> None:
        self._fetch = fetch
        self._kept = kept
        self._changed = threading.Condition()
        self._found: T | None = None
        self._found_at = float("-inf")
        self._asked_by: threading.Thread | None = None
        self.fault: str | None = None

    def value(self, wait: float) -> T | None:
        """The newest value; one that is a little old at once, while the next is being fetched."""
        deadline = time.monotonic() + min(wait, LONGEST_WAIT)
        with self._changed:
            if time.monotonic() - self._found_at > self._kept and not self._asking():
                self._asked_by = threading.Thread(target=self._ask, name="broker-watch", daemon=True)
                self._asked_by.start()
            while time.monotonic() - self._found_at > _TOO_OLD and self._asking():
                if not self._changed.wait(deadline - time.monotonic()):
                    return None
            return self._found if time.monotonic() - self._found_at <= _TOO_OLD else None

    def _asking(self) -> bool:
        return self._asked_by is not None

    def _ask(self) -> None:
        found, found_at = None, float("-inf")
        try:
            found, found_at = self._fetch(), time.monotonic()
        except (redis.RedisError, KombuError, OSError, ValueError) as error:
            fault = f"{type(error).__name__}: {error}"
            if self.fault is None:
                log.warning("the broker does not say how it is: %s", fault)
            self.fault = fault
        else:
            self.fault = None
        finally:
            with self._changed:
                # a broker that is unavailable makes the old answer void at once
                self._found, self._found_at = found, found_at
                self._asked_by = None
                self._changed.notify_all()


def redis_client(address: BrokerAddress, seconds: float) -> redis.Redis:
    """A client of the broker that waits for an answer no longer than ``seconds``, and tries once."""
    limits: dict[str, Any] = {
        "socket_timeout": seconds,
        "socket_connect_timeout": seconds,
        "retry": Retry(NoBackoff(), 0),
    }
    if address.master is None:
        return redis.Redis.from_url(address.url, **limits)
    options = {"db": address.database, **limits, **dict(address.login)}
    sentinel = Sentinel(list(address.sentinels), **options)  # type: ignore[no-untyped-call]
    master: redis.Redis = sentinel.master_for(address.master)  # type: ignore[no-untyped-call]
    return master


@lru_cache(maxsize=2)
def _client(address: BrokerAddress) -> redis.Redis:
    return redis_client(address, _SOCKET_SECONDS)


def _read_depths() -> dict[QueueName, QueueDepth]:
    settings = get_settings()
    client, unacked = _client(settings.broker), settings.key_prefix + _UNACKED
    with client.pipeline(transaction=False) as pipe:
        for name in QueueName:
            for suffix in _PRIORITIES:
                pipe.llen(settings.key_prefix + name.value + suffix)
        pipe.hlen(unacked)
        *lengths, held = (int(number) for number in pipe.execute())
    per_queue = len(_PRIORITIES)
    ready = {name: sum(lengths[i * per_queue : (i + 1) * per_queue]) for i, name in enumerate(QueueName)}
    by_queue = Counter(_routing_key(raw) for raw in client.hvals(unacked)) if 0 < held <= _MOST_READ else Counter()
    return {name: QueueDepth(ready[name], by_queue[name.value]) for name in QueueName}


def _routing_key(raw: bytes | str) -> str:
    # [message, exchange, routing key]
    entry = json.loads(raw)
    return str(entry[2]) if isinstance(entry, list) and len(entry) == 3 else ""


def _ask_workers() -> tuple[LiveWorker, ...]:
    settings = get_settings()
    options = {
        **settings.broker.transport_options,
        "global_keyprefix": settings.key_prefix,
        "socket_timeout": _SOCKET_SECONDS,
        "socket_connect_timeout": _SOCKET_SECONDS,
        "max_retries": 0,
    }
    with Connection(settings.broker.url, transport_options=options) as connection:  # type: ignore[no-untyped-call]
        # Celery's own control would publish through the application's pool, which waits for a broker without end
        mailbox = Mailbox(_CONTROL_EXCHANGE, type="fanout", accept=["json"], serializer="json")  # type: ignore[no-untyped-call]
        ask = partial(mailbox(connection).multi_call, "active_queues", timeout=_REPLY_SECONDS)
        workers = _answered(ask())
        # a busy machine answers late: nobody serves a queue only where two looks in a row say so
        if not all(workers_by_queue(workers).values()):
            workers = tuple({worker.name: worker for worker in (*workers, *_answered(ask()))}.values())
    return tuple(sorted(workers, key=lambda worker: worker.name))


def _answered(replies: Iterable[Mapping[str, Any]] | None) -> tuple[LiveWorker, ...]:
    return tuple(
        LiveWorker(node, tuple(sorted(str(queue["name"]) for queue in queues)))
        for reply in replies or ()
        for node, queues in reply.items()
        if isinstance(queues, list)
    )


_depths = _Watched(_read_depths, _DEPTHS_KEPT)
_workers = _Watched(_ask_workers, _WORKERS_KEPT)
