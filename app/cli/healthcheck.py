"""``python -m app healthcheck SERVICE``: does this container's process do its work, in one look."""

from __future__ import annotations

import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Annotated, Final

import typer

from app.domain import ValidatorError
from app.settings import Settings, get_settings

# How long one look may take (s); container platforms end it a little later.
_PATIENCE: Final = 8.0

# How late (s) beat may be with what is due: it looks every 5 s, and waits for its lock at most a minute.
_LATE: Final = 90.0

# The exit status where the judgement is not known yet: neither success, nor Docker's and the shell's own 1 and 2.
_NOT_KNOWN: Final = 3

_ANY_ADDRESS: Final = {"0.0.0.0", "::", ""}  # noqa: S104  (compared with, not bound)


class Unhealthy(ValidatorError):
    """The process is not there, or does not do its work; the message says what was seen."""


class NotKnown(Unhealthy):
    """Nothing is wrong as far as anyone knows, and not everything is known."""


class Service(StrEnum):
    """What can be asked for its health."""

    CHAIN = "chain"
    CPU = "cpu"
    GPU = "gpu"
    BEAT = "beat"
    API = "api"
    SCORING_API = "scoring-api"
    FLOWER = "flower"
    VALIDATOR = "validator"


def healthcheck(
    service: Annotated[
        Service,
        typer.Argument(help="The service that runs on this machine, or in this container; validator: all of it."),
    ],
) -> None:
    """Exit 0 where the service of this host does its work, else 1 with a sentence; for container health checks.

    'validator' is the home page's judgement of the whole: 0 healthy, 1 trouble, 3 not known yet.
    """
    try:
        CHECKS[service](get_settings())
    except NotKnown as doubt:
        typer.echo(f"{service.value}: not known yet: {doubt}", err=True)
        raise typer.Exit(_NOT_KNOWN) from None
    except Unhealthy as fault:
        typer.echo(f"{service.value}: {fault}", err=True)
        raise typer.Exit(1) from None
    typer.echo(f"{service.value}: healthy")


def _worker(queue: str) -> Callable[[Settings], None]:
    def check(_: Settings) -> None:
        from kombu.exceptions import OperationalError

        from app.celery import app

        node = f"{queue}@{socket.gethostname()}"
        try:
            with app.connection_for_read(connect_timeout=_PATIENCE / 2) as connection:
                connection.ensure_connection(max_retries=0)
                inspect = app.control.inspect([node], timeout=_PATIENCE / 2, connection=connection)
                answers = inspect.active_queues() or {}
        except (OperationalError, OSError) as error:
            raise Unhealthy(f"Redis does not answer: {error}") from None
        if node not in answers:
            raise Unhealthy(f"{node} does not answer")
        if queue not in {found["name"] for found in answers[node]}:
            raise Unhealthy(f"{node} answers, but takes no tasks from its queue")

    return check


def _beat(settings: Settings) -> None:
    """Nothing that is due may wait: true where this cluster's beat ticks, on this machine or another."""
    import redis

    from app.observability.broker import redis_client

    schedule = f"{settings.beat_prefix}:schedule"
    try:
        with redis_client(settings.broker, _PATIENCE) as db:
            first = db.zrange(schedule, 0, 0, withscores=True)
    except redis.RedisError as error:
        raise Unhealthy(f"Redis does not answer: {error}") from None
    if not first:
        raise Unhealthy("there is no timetable in Redis")
    entry, due = first[0]
    late = time.time() - due
    if late > _LATE:
        raise Unhealthy(f"{entry.decode().rsplit(':', 1)[-1]!r} was due {late:.0f} s ago")


def _validator(settings: Settings) -> None:
    """The one judgement that the home page and the metrics have too."""
    from sqlalchemy.exc import SQLAlchemyError

    from app.cli.surroundings import said_of
    from app.judgement import Condition, cluster, gather, judge
    from app.store.database import StoreError, get_store

    asked = cluster()
    try:
        with get_store().reading() as session:
            judged = judge(gather(session, settings, asked))
    except StoreError as error:
        raise Unhealthy(str(error)) from None
    except SQLAlchemyError as error:
        raise Unhealthy(said_of(error) or str(error)) from None
    if judged.condition is Condition.TROUBLE:
        raise Unhealthy(" ".join(judged.reasons(Condition.TROUBLE)))
    if judged.condition is Condition.UNKNOWN:
        raise NotKnown(" ".join(judged.reasons(Condition.UNKNOWN)))


def _page(host: str, port: int, path: str) -> None:
    address = f"http://{'127.0.0.1' if host in _ANY_ADDRESS else host}:{port}{path}"
    # a proxy of the environment is not for this host
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(address, timeout=_PATIENCE):
            return
    except urllib.error.HTTPError as error:
        with error:
            said = error.read(200).decode(errors="replace")
        raise Unhealthy(f"{address} answers {error.code}: {said}") from None
    except OSError as error:
        raise Unhealthy(f"{address} does not answer: {error}") from None


CHECKS: Final[Mapping[Service, Callable[[Settings], None]]] = {
    Service.CHAIN: _worker("chain"),
    Service.CPU: _worker("cpu"),
    Service.GPU: _worker("gpu"),
    Service.BEAT: _beat,
    Service.API: lambda settings: _page(settings.api_host, settings.api_port, "/"),
    Service.SCORING_API: lambda settings: _page(settings.scoring_api_host, settings.scoring_api_port, "/"),
    Service.FLOWER: lambda settings: _page(settings.flower_address, settings.flower_port, "/healthcheck"),
    Service.VALIDATOR: _validator,
}
