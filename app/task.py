"""The base of every task: its claim, its transaction, what is sent after the commit, retries, log lines, metrics."""

from __future__ import annotations

import errno
import inspect
import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, Final
from uuid import uuid4

from celery import Celery, Task, chord
from celery.exceptions import Ignore, Reject, Retry
from celery.utils.time import get_exponential_backoff_interval
from kombu.exceptions import OperationalError
from sqlalchemy.exc import (
    DataError,
    DBAPIError,
    IntegrityError,
    NotSupportedError,
    ProgrammingError,
    SQLAlchemyError,
)
from sqlalchemy.orm import Session

from app.clock import now
from app.domain import ValidatorError
from app.observability.logs import logged_with
from app.observability.metrics import TaskOutcome, TaskRun, task_run
from app.observability.task_arguments import STAGES, short_name, subject, written
from app.settings import get_settings
from app.store.claims import ClaimLost, Claims, Piece, Refused, Work
from app.store.database import get_store
from app.store.epochs import Epochs
from app.store.records import WorkedOn
from app.untrusted import shown, visible

# A store or broker that restarts is back within a minute; backoff with jitter spreads the returning tasks.
_STORE_RETRIES: Final = 8
_LONGEST_BACKOFF: Final = 60

# How long a task that finds its piece taken waits before it asks again.
_BUSY_COUNTDOWN: Final = timedelta(seconds=5)

# A piece that ended in an exception this often is given up. Restarts and outages, a full disk among them, do not count.
MOST_FAILURES: Final = 5

# What a store that answers does not take, now or later.
_REFUSED_BY_STORE: Final = (DataError, IntegrityError, NotSupportedError, ProgrammingError)

# What the machine lacks for a while: a full disk, no more open files, no memory.
_LACKING: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM})

# The clock's own tasks, mostly idle: their beginning and end are worth a line only to those who look for it.
_TICKS: Final = frozenset({"watch_epoch", "reconcile", "score_next_models", "follow_scoring", "release_stale"})

log = logging.getLogger("celery_validator.task")


class Step:
    """One transaction and what follows it: work written in the transaction, its messages sent after the commit."""

    def __init__(self, session: Session, app: Celery) -> None:
        self.session = session
        self.claims = Claims(session)
        self._app = app
        self._messages: list[Any] = []

    def send(self, task: str, *args: Any) -> None:
        """Have a piece of work done once, by the task of this name."""
        self._add(Work(task, args))

    def send_epoch(self, task: str, epoch_id: int, *args: Any) -> None:
        """Have a piece of an epoch's work done once; it goes with the epoch."""
        self._add(Work(task, (epoch_id, *args), epoch_id))

    def chord(self, epoch_id: int, header: Sequence[tuple[Any, ...]], body: str) -> None:
        """Have all pieces of ``header`` (task name and what follows the epoch's id) done, then the task ``body``."""
        group = f"{body}({epoch_id})"
        parts = [Work(task, (epoch_id, *args), epoch_id, part_of=group) for task, *args in header]
        last = Work(body, (epoch_id,), epoch_id, waits_for=group)
        # the follower first: it holds the time at which its group last moved
        self.claims.add([last, *parts], get_settings().cluster_name)
        self._messages.append(self._chord(parts, last))

    def follow(self, piece: Piece) -> None:
        """Send what waits for a piece's group if this was its last part; the chord may say so too."""
        if piece.part_of is not None and (last := self.claims.ready(piece.part_of)) is not None:
            self._messages.append(self._signature(last))

    def ask(self, task: str, expires: timedelta, *args: Any) -> None:
        """Send a task that is no piece of work: where its message is lost, the next one does."""
        options = {"ignore_result": True, "expires": expires.total_seconds()}
        self._messages.append(self._app.signature(task, args=args, immutable=True, options=options))

    def reconcile(self, alive: Mapping[str, datetime]) -> tuple[int, int]:
        """Send again what stands still in this cluster, whatever it is: a lost message, a dead process's claim.

        ``alive``: see :meth:`Claims.void`. How many claims were voided and how many pieces are sent.
        """
        settings = get_settings()
        beating = [name for name, task in self._app.tasks.items() if getattr(task, "beats", False)]
        voided = self.claims.void(settings.cluster_name, alive, beating)
        standing = self.claims.standing(settings.cluster_name, settings.reconcile_after)
        self._resend(standing)
        if standing:
            log.warning("%d piece(s) of work stood still and are sent again (%d claims voided)", len(standing), voided)
        return voided, len(standing)

    def _resend(self, standing: Sequence[Work]) -> None:
        # the parts of a group as the chord that they were
        parts: dict[str, list[Work]] = {}
        last: dict[str, Work] = {}
        for work in standing:
            if work.part_of is not None:
                parts.setdefault(work.part_of, []).append(work)
            elif work.waits_for is None:
                self._messages.append(self._signature(work))
            else:
                last[work.waits_for] = work
        for group, works in parts.items():
            follower = last.pop(group, None) or self.claims.follower(group)
            self._messages.append(self._chord(works, follower) if follower else [*map(self._signature, works)])
        self._messages += [self._signature(work) for group, work in last.items() if not self.claims.has_parts(group)]

    def deliver(self) -> None:
        """Send the messages. What the broker does not take now, the reconciler sends later."""
        for message in self._messages:
            try:
                for one in message if isinstance(message, list) else [message]:
                    one.apply_async()
            except (OperationalError, ConnectionError) as error:
                log.warning("the broker did not take %s: %s; it is sent later", message, error)

    def _add(self, work: Work) -> None:
        self.claims.add([work], get_settings().cluster_name)
        self._messages.append(self._signature(work))

    def _signature(self, work: Work) -> Any:
        return self._app.signature(work.task, args=work.args, immutable=True, options={"ignore_result": True})

    def _chord(self, parts: Sequence[Work], last: Work) -> Any:
        if not parts:
            return self._signature(last)
        return chord([self._signature(part) for part in parts], body=self._signature(last), app=self._app)


@contextmanager
def transaction(app: Celery | None = None) -> Iterator[Step]:
    """One transaction; what it has sent goes out after the commit, and not at all where it fails."""
    if app is None:
        # Celery's current app is whichever was made last in this process
        from app.celery import app as ours

        app = ours
    with get_store().writing() as session:
        step = Step(session, app)
        yield step
    step.deliver()


def _passes(error: Exception) -> bool:
    """Whether an operator who frees the disk, say, is enough for the same attempt to succeed."""
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in _LACKING)


class ValidatorTask(Task):  # type: ignore[misc]
    """Every task of the application (``Celery(task_cls=…)``).

    A task declared with ``piece=True`` does a piece of work that is written down: it is claimed before the body runs,
    and the body ends with :meth:`finishing`. Any task may run twice or die anywhere; the piece is done once.
    """

    abstract = True
    piece = False
    # whether a message waits for a piece that another holds; the reconciler sends a dead one's again in any case
    waits = True
    # what goes wrong is logged and left for the next tick of the clock
    ticks = False
    # a thread renews the claim all the while, so that silence means death, and nothing else does
    beats = False
    # what ends the work of a piece that is given up: step, the piece's arguments, why; by default its epoch fails
    gives_up: Callable[..., None] | None = None
    max_retries = _STORE_RETRIES
    acks_late = True
    reject_on_worker_lost = True

    @property
    def holder(self) -> str:
        """Who claims a part: the worker's node name and this process, so that a dead one is recognised."""
        return f"{self.request.hostname or 'eager'}/{os.getpid()}"

    @property
    def task_id(self) -> str:
        """The running task's id; the same on a redelivery."""
        return str(self.request.id)

    def retry(self, *args: Any, **options: Any) -> Any:
        """Celery's, but ``max_retries=None`` means without end; to Celery it means the task's own, which are few."""
        if "max_retries" in options and options["max_retries"] is None:
            options["max_retries"] = math.inf
        try:
            return super().retry(*args, **options)
        finally:
            # Celery would keep it for the retries of a store that is unavailable
            self.__dict__.pop("override_max_retries", None)

    # -- the piece of work that this run holds --------------------------------------------------------------------

    @property
    def held(self) -> Piece:
        """The claimed piece."""
        piece = getattr(self.request, "piece", None)
        assert isinstance(piece, Piece), f"{self.name} is no piece of work"
        return piece

    @property
    def worked_on(self) -> WorkedOn:
        """Who works on the piece, and since when, for what is shown of it."""
        return WorkedOn(self.holder, self.held.claimed_at)

    @property
    def lease(self) -> timedelta:
        """How long a claim holds without being renewed: longer than the task may run, where nothing renews it."""
        if self.beats:
            return get_settings().evaluation_silence
        limit = self.time_limit or self.app.conf.task_time_limit
        return timedelta(seconds=limit) + timedelta(minutes=1) if limit else get_settings().visibility_timeout

    def reading(self) -> AbstractContextManager[Session]:
        """A session that sees one snapshot and writes nothing."""
        return get_store().reading()

    def transaction(self) -> AbstractContextManager[Step]:
        """A transaction in the middle of the work; see :func:`transaction`."""
        return transaction(self.app)

    @contextmanager
    def finishing(self) -> Iterator[Step]:
        """The transaction that ends the piece: results, end of the claim and what follows, all or nothing."""
        with transaction(self.app) as step:
            step.claims.finish(self.held)
            yield step
            step.follow(self.held)

    def renew(self) -> None:
        """Keep the claim.

        Raises:
            ClaimLost: another task has taken the piece over.
        """
        with get_store().writing() as session:
            if not Claims(session).renew(self.held):
                raise ClaimLost("the work was taken over elsewhere")

    def later(self, pause: timedelta, cause: Exception | None = None, *, uncounted: bool = False) -> Any:
        """Give the piece back and come back after a pause; ``uncounted``: this was no attempt."""
        with get_store().writing() as session:
            Claims(session).give_back(self.held, now() + pause, uncounted=uncounted, comes_back=True)
        raise self.retry(exc=cause, countdown=pause.total_seconds(), max_retries=None)

    def _run_piece(self, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        values = tuple(inspect.signature(self.run).bind(*args, **kwargs).arguments.values())
        # a redelivery does not prove a task dead that beats: redis hands over what a broken connection left
        claim = str(self.request.id or f"direct-{uuid4()}") if not self.beats else str(uuid4())
        by_hand = bool(self.request.called_directly or self.request.is_eager)
        with get_store().writing() as session:
            taken = Claims(session).take(Work(self.name, values), claim, self.holder, self.lease, early=by_hand)
        if taken is Refused.BUSY and self.waits:
            raise self.retry(countdown=_BUSY_COUNTDOWN.total_seconds(), max_retries=None)
        if isinstance(taken, Refused):
            return {"status": taken.value}
        self.request.piece = taken
        try:
            return self.run(*args, **kwargs)
        except ClaimLost as lost:
            log.warning("%s", lost)
            return {"status": Refused.DONE.value}
        except (Retry, ConnectionError):
            # this very task comes back, and holds the claim until then
            raise
        except Exception as error:
            if isinstance(error, DBAPIError) and not isinstance(error, _REFUSED_BY_STORE):
                # so it does for a store that is unavailable
                raise
            if not self._given_up(taken, values, error):
                raise
            return {"status": "failed"}
        except BaseException:
            with suppress(DBAPIError), get_store().writing() as session:
                Claims(session).give_back(taken, now() + _BUSY_COUNTDOWN)
            raise

    def _given_up(self, piece: Piece, values: Sequence[Any], error: Exception) -> bool:
        """Whether a piece ends with an exception, for nothing is tried for ever; else it is given back."""
        final = isinstance(error, ValidatorError) and piece.epoch_id is not None
        with suppress(DBAPIError), self.transaction() as step:
            if _passes(error):
                step.claims.give_back(piece, now() + _BUSY_COUNTDOWN)
                return False
            failures = step.claims.failed(piece)
            if not failures:
                # another has it
                return final
            if not final and failures < MOST_FAILURES:
                step.claims.give_back(piece, now() + _BUSY_COUNTDOWN)
                return False
            if final:
                log.error("%s", error)
                why = visible(str(error)[:500])
            else:
                log.error("given up after %d failures", failures, exc_info=error)
                why = f"{short_name(self.name)} failed {failures} times: {shown(error, 300)}; the log has the traceback"
            if self.gives_up is not None:
                step.claims.finish(piece)
                self.gives_up(step, *values, why)
            elif piece.epoch_id is None:
                step.claims.finish(piece)
            else:
                step.claims.drop_epoch(piece.epoch_id)
                step.send_epoch("workers.epochs.fail_epoch", piece.epoch_id, why)
            return True
        return False

    def _run(self, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        try:
            return self._run_piece(args, kwargs) if self.piece else self.run(*args, **kwargs)
        except (DBAPIError, ConnectionError) as error:
            pause = get_exponential_backoff_interval(
                factor=1, retries=self.request.retries, maximum=_LONGEST_BACKOFF, full_jitter=True
            )
            raise self.retry(exc=error, countdown=pause) from error
        except ValidatorError as error:
            if not self.ticks:
                raise
            log.error("%s", error)
            return {"status": "failed", "error": str(error)[:500]}

    def apply_async(self, args: Any = None, kwargs: Any = None, *rest: Any, **options: Any) -> Any:
        """Send the task; Flower shows ``epoch=21455 uid=17`` and ``stage=examining`` for its arguments."""
        fields = subject(self.run, args or (), kwargs or {}, epoch_number)
        options.setdefault("argsrepr", written(fields))
        options.setdefault("kwargsrepr", " ".join(f"{name}={value}" for name, value in self._place(fields).items()))
        return super().apply_async(args, kwargs, *rest, **options)

    def _place(self, fields: dict[str, object]) -> dict[str, object]:
        stage = STAGES.get(short_name(self.name))
        found = {"stage": stage, "epoch_id": fields.get("epoch_id")}
        return {name: value for name, value in found.items() if value is not None}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the task, measured, with a line at its beginning and its end; every line between carries its subject."""
        if self.request.called_directly:
            self.push_request(args=args, kwargs=kwargs)
            try:
                return self._run(args, kwargs)
            finally:
                self.pop_request()
        name = short_name(self.name)
        fields = {"task": name, **subject(self.run, args, kwargs, epoch_number), "task_id": self.request.id}
        with logged_with(fields, whole_process=True), task_run(name) as run:
            log.log(self._level, "started")
            try:
                result = self._run(args, kwargs)
            except Retry as retry:
                run.outcome = TaskOutcome.RETRIED
                level = logging.WARNING if retry.exc else self._level
                log.log(level, "put off after %.1f s: %s", run.seconds, _put_off(retry))
                raise
            except (Ignore, Reject):
                run.outcome = TaskOutcome.SUCCEEDED
                raise
            except BaseException as error:
                log.error("failed after %.1f s: %s: %s", run.seconds, type(error).__name__, error, exc_info=True)
                raise
            run.outcome = TaskOutcome.SUCCEEDED
            self._log_end(run, result)
            return result

    @property
    def _level(self) -> int:
        return logging.DEBUG if short_name(self.name) in _TICKS else logging.INFO

    def _log_end(self, run: TaskRun, result: Any) -> None:
        status = result.get("status") if isinstance(result, dict) else None
        log.log(self._level, "finished in %.1f s%s", run.seconds, f": {status}" if status else "")


def epoch_number(epoch_id: int) -> int | None:
    """The epoch's number on its subnet; None where the store does not say."""
    try:
        return _epoch_number(get_settings().store_url, epoch_id)
    # a name for people is not worth a task
    except (SQLAlchemyError, ValidatorError):
        return None


@lru_cache(maxsize=256)
def _epoch_number(_store: str, epoch_id: int) -> int:
    with get_store().reading() as session:
        return Epochs(session).summary(epoch_id).number


def _put_off(retry: Retry) -> str:
    when = f"{retry.when:.0f} s" if isinstance(retry.when, int | float) else str(retry.when)
    cause = f": {type(retry.exc).__name__}: {retry.exc}" if retry.exc else ""
    return f"tried again in {when}{cause}"
