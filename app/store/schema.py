"""Brings the store's schema up to date on start, once, however many processes start together."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import inspect, text
from sqlalchemy.exc import SQLAlchemyError

from app.store.database import Store, StoreError

if TYPE_CHECKING:
    from alembic.config import Config

_MIGRATIONS: Final = Path(__file__).parent / "migrations"

# Any constant will do for PostgreSQL's advisory lock, so long as nobody else's differs.
_ADVISORY_LOCK: Final = 6821_2021


def _config() -> Config:
    # alembic is imported where a migration is missing: it costs a command a quarter of a second
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    return config


def current_revision(store: Store) -> str | None:
    """The revision the store is at; None for an empty database."""
    with store.engine.connect() as connection:
        if not inspect(connection).has_table("alembic_version"):
            return None
        return connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()


def head_revision() -> str:
    """The revision this version of the code needs: the number that the newest migration's file begins with."""
    return max(path.name.partition("_")[0] for path in (_MIGRATIONS / "versions").glob("[0-9]*.py"))


def migrate(store: Store) -> None:
    """Apply the missing migrations.

    Raises:
        StoreError: the store does not answer, or was written by a newer version.
    """
    store.check()
    head = head_revision()
    if current_revision(store) == head:
        return
    from alembic import command
    from alembic.util.exc import CommandError
    from filelock import FileLock

    database = store.engine.url.database
    lock: AbstractContextManager[object] = (
        FileLock(f"{database}.lock") if store.is_sqlite and database else nullcontext()
    )
    config = _config()
    try:
        with lock, store.engine.begin() as connection:
            if not store.is_sqlite:
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except CommandError as error:
        raise StoreError(
            f"the store {store.shown_url} has a schema this version does not know ({error}); upgrade celery-validator"
        ) from None
    except SQLAlchemyError as error:
        raise StoreError(f"the store {store.shown_url} could not be brought to revision {head}: {error}") from error
