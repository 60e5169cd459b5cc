"""The store's engine and its transactions: SQLite in WAL mode, or PostgreSQL."""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from sqlalchemy import (
    ColumnElement,
    Connection,
    CursorResult,
    Engine,
    create_engine,
    delete,
    event,
    make_url,
    select,
    tuple_,
)
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.orm import InstrumentedAttribute, Session

from app.domain import ValidatorError
from app.settings import get_settings

# A writer waits this long (ms) for another's transaction; ours last milliseconds, a bulk insert a second.
_SQLITE_BUSY_MS = 60_000


# PostgreSQL over a network that goes silent: a connection is given up within half a minute, by what it sent (in ms) and
# did not see acknowledged, or while it waits, by probes (s); libpq alone would wait for two hours. No value here bounds
# a statement. A Unix socket ignores all but the first.
_POSTGRESQL = {
    "connect_timeout": 4,
    "tcp_user_timeout": 25_000,
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
}


class StoreError(ValidatorError):
    """The store cannot be opened or brought up to date."""


class Store:
    """The store behind one URL. All work goes through :meth:`reading` and :meth:`writing`."""

    def __init__(self, url: str) -> None:
        try:
            parsed = make_url(url)
        except ArgumentError:
            raise StoreError("DATABASE_URL is not a database address; see README") from None
        self.is_sqlite = parsed.get_backend_name() == "sqlite"
        # what DATABASE_URL says itself counts
        options = {} if self.is_sqlite else {k: v for k, v in _POSTGRESQL.items() if k not in parsed.query}
        try:
            if self.is_sqlite and parsed.database:
                Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
            self.engine: Engine = create_engine(parsed, pool_pre_ping=not self.is_sqlite, connect_args=options)
        except OSError as error:
            raise StoreError(
                f"the folder of the store {parsed.database} cannot be made: {error.strerror}; "
                "set DATA_DIR (or DATABASE_URL) to a place that this user may write to"
            ) from None
        except (SQLAlchemyError, ImportError) as error:
            raise StoreError(f"DATABASE_URL names a database that cannot be used here: {error}") from None
        if self.is_sqlite:
            event.listen(self.engine, "connect", _configure_sqlite)
            event.listen(self.engine, "begin", _begin_sqlite)

    @property
    def shown_url(self) -> str:
        """The address without its password."""
        return self.engine.url.render_as_string(hide_password=True)

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A session that sees one snapshot and writes nothing."""
        with self.engine.connect().execution_options(read_only=True) as connection:
            with Session(connection, expire_on_commit=False) as session:
                yield session
            connection.rollback()

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """One transaction: all there when the block ends, not at all when it raises."""
        with self.engine.begin() as connection, Session(connection, expire_on_commit=False) as session:
            yield session
            session.flush()

    def check(self) -> None:
        """Raise StoreError, naming the address and the cause, unless the store answers."""
        try:
            with self.engine.connect() as connection:
                connection.exec_driver_sql("SELECT 1")
        except SQLAlchemyError as error:
            cause = str(getattr(error, "orig", error)).splitlines()[0]
            raise StoreError(
                f"the store {self.shown_url} does not answer: {cause}; check DATABASE_URL and DATA_DIR"
            ) from None

    def close(self) -> None:
        """Give all connections back."""
        self.engine.dispose()


def _configure_sqlite(connection: Any, _record: object) -> None:
    # the driver's own transaction handling would begin late and deferred; ours begins in _begin_sqlite
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={_SQLITE_BUSY_MS}")
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    # a writer takes the lock at once: a reader that turns writer half-way cannot wait and would fail
    read_only = connection.get_execution_options().get("read_only", False)
    connection.exec_driver_sql("BEGIN DEFERRED" if read_only else "BEGIN IMMEDIATE")


_stores: dict[str, Store] = {}


def get_store() -> Store:
    """The store of this process's settings; made on first use, never shared across a fork."""
    url = get_settings().store_url
    if url not in _stores:
        _stores[url] = Store(url)
    return _stores[url]


def close_stores() -> None:
    """Give back every connection that this process opened."""
    for store in _stores.values():
        store.close()
    _stores.clear()


def _forget_stores() -> None:
    # a fork's copies of connections belong to the process that opened them
    for store in _stores.values():
        store.engine.dispose(close=False)
    _stores.clear()


os.register_at_fork(after_in_child=_forget_stores)
# the last process that closes a SQLite store takes its journal away
atexit.register(close_stores)


def insert_ignoring(session: Session, table: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows; one that is already there (by unique key) stays as it is. The same call on both databases."""
    if not rows:
        return
    from sqlalchemy.dialects import postgresql, sqlite

    dialect = session.get_bind().dialect.name
    statement = (postgresql if dialect == "postgresql" else sqlite).insert(table).on_conflict_do_nothing()
    session.execute(statement, list(rows))


def delete_slice(
    session: Session, key: Sequence[InstrumentedAttribute[Any]], where: ColumnElement[bool], at_most: int
) -> int:
    """Delete up to ``at_most`` rows, found by their key columns, of which ``where`` is true; how many went."""
    old = select(*key).where(where).limit(at_most)
    statement = delete(key[0].class_).where(tuple_(*key).in_(old)).execution_options(synchronize_session=False)
    return cast(CursorResult[Any], session.execute(statement)).rowcount
