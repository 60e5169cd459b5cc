"""What surrounds a command (Redis, store, folders, ports): a sentence that names the setting where it is at fault."""

from __future__ import annotations

import errno
import re
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from app.domain import ValidatorError
from app.settings import Settings, SettingsError, get_settings
from app.untrusted import shown

# To connect to a Redis (s); a command says within seconds that none is there.
_CONNECT_SECONDS: Final = 3.0

# What SQLite and PostgreSQL say of a table or column that a migration makes.
_NOT_MIGRATED: Final = re.compile(r"no such (table|column)|(relation|column) .* does not exist")


def said_of(error: BaseException) -> str | None:
    """The sentence for a fault of the surroundings; None for a fault of this program."""
    try:
        settings = get_settings()
    except SettingsError:
        # the command needs none
        settings = Settings.model_construct()
    for found in _chain(error):
        if isinstance(found, OSError) and (sentence := _of_system(found, settings)):
            return sentence
        kind = {f"{base.__module__.partition('.')[0]}.{base.__name__}" for base in type(found).__mro__}
        if kind & {"redis.RedisError", "kombu.OperationalError"}:
            return _redis(settings, found)
        if "sqlalchemy.SQLAlchemyError" in kind:
            return _store(found)
    return None


def require_redis(settings: Settings) -> None:
    """Raise a ValidatorError unless BROKER_URL answers."""
    import redis

    from app.observability.broker import redis_client

    try:
        with redis_client(settings.broker, _CONNECT_SECONDS) as client:
            client.ping()
    except (redis.RedisError, OSError, ValueError) as error:
        raise ValidatorError(_redis(settings, error)) from None


def require_port(setting: str, host: str, port: int) -> None:
    """Raise a ValidatorError where somebody listens on the port already, or the address is not this machine's."""
    from app.cluster.embedded import port_taken

    if port_taken(host, port):
        raise ValidatorError(
            f"{setting}: nothing can listen on {host}:{port}, for it is in use or not an address of this machine; "
            f"stop what listens there, or set {setting} to another port"
        )


def require_folder(settings: Settings) -> None:
    """Raise a ValidatorError unless DATA_DIR can be made and written to."""
    folder = settings.data_dir.expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise ValidatorError(_folder(folder, error)) from None


def _chain(error: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in found:
        found.append(link)
        link = link.__cause__ or link.__context__
    return found


def _of_system(error: OSError, settings: Settings) -> str | None:
    if error.errno == errno.EADDRINUSE:
        return f"a port is in use ({shown(str(error), 160)}); set API_PORT, FLOWER_PORT or METRICS_PORT to another"
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return f"the disk is full ({shown(str(error), 160)}); free some space, or set DATA_DIR to another disk"
    folder = settings.data_dir.expanduser().resolve()
    if error.filename is not None and Path(str(error.filename)).resolve().is_relative_to(folder):
        return _folder(folder, error)
    if (
        error.errno in {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENOENT}
        and error.filename
    ):
        return (
            f"{shown(str(error.filename), 200)} cannot be used: {error.strerror}; correct the path or its permissions"
        )
    return None


def _folder(folder: Path, error: OSError) -> str:
    return (
        f"DATA_DIR: {shown(str(folder), 200)} cannot be used ({error.strerror or type(error).__name__}); "
        "set DATA_DIR to a folder that this user may write to"
    )


def _redis(settings: Settings, error: BaseException) -> str:
    # without the login
    place = ", ".join(
        f"{part.scheme}://{part.netloc.rpartition('@')[2]}"
        for part in map(urlsplit, settings.broker_url.get_secret_value().split(";"))
    )
    return (
        f"BROKER_URL: the Redis at {shown(place, 200)} cannot be used ({shown(str(error), 160)}); "
        "start it, or set BROKER_URL (or --cluster) to one that runs"
    )


def _store(error: BaseException) -> str:
    cause = str(getattr(error, "orig", None) or error).splitlines()[0]
    if _NOT_MIGRATED.search(cause):
        return f"DATABASE_URL: the store is not up to date ({shown(cause, 200)}); run: python -m app migrate"
    return f"DATABASE_URL: the store cannot be used ({shown(cause, 200)}); correct DATABASE_URL, or start the database"
