"""Stores that are up to date from the start: migrating an empty one takes half a second, copying one a hundredth."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import lru_cache
from pathlib import Path

import psycopg
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.store.database import Store
from app.store.schema import migrate
from app.store.tables.work import WorkRow


def migrated(store: Store) -> Store:
    """The store, brought up to date; where it is SQLite and not there yet, as a copy of one that is."""
    path = store.engine.url.database
    if store.is_sqlite and path is not None and not Path(path).exists():
        shutil.copyfile(_sqlite_template(), path)
    migrate(store)
    return store


def outstanding(session: Session, epoch_id: int) -> list[str]:
    """The tasks of an epoch that are not finished, in the order in which they were planned."""
    return list(session.scalars(select(WorkRow.task).where(WorkRow.epoch_id == epoch_id).order_by(WorkRow.id)))


@lru_cache(maxsize=1)
def _sqlite_template() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="celery-validator-store-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    store = Store(f"sqlite:///{folder / 'store.sqlite'}")
    migrate(store)
    store.close()
    return folder / "store.sqlite"


def replace_by_migrated(maintenance: str, name: str) -> None:
    """Make a PostgreSQL database, which nobody uses yet, a copy of one that is up to date."""
    template = _postgresql_template(maintenance)
    with psycopg.connect(maintenance, autocommit=True) as connection:
        connection.execute(f'DROP DATABASE "{name}"'.encode())
        connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"'.encode())


@lru_cache(maxsize=1)
def _postgresql_template(maintenance: str) -> str:
    with psycopg.connect(maintenance, autocommit=True) as connection:
        connection.execute(b"CREATE DATABASE migrated")
    store = Store(maintenance.replace("/postgres?", "/migrated?"))
    migrate(store)
    store.close()
    return "migrated"
