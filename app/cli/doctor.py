"""``python -m app doctor``: is everything here, and if not, what to do."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from app.settings import Settings, get_settings

_PACKAGES = ("celery", "redis", "bittensor", "rdkit", "torch", "boltz", "pydantic", "flower", "sqlalchemy")
_PYTHON = (3, 11)


class Health(StrEnum):
    """How a check ended. Only ``missing`` makes the doctor exit 1."""

    OK = "ok"
    OPTIONAL = "optional"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor's table."""

    what: str
    health: Health
    found: str
    advice: str = ""


def doctor() -> None:
    """Check Python, packages, Redis, store, GPU, weights and wallet, and say what to do about what is missing."""
    settings = get_settings()
    table = Table(title="celery-validator doctor", title_justify="left")
    for name in ("check", "state", "found", "what to do"):
        table.add_column(name, overflow="fold")
    colour = {Health.OK: "green", Health.OPTIONAL: "yellow", Health.MISSING: "red"}
    findings = [finding for check in CHECKS for finding in check(settings)]
    for finding in findings:
        state = f"[{colour[finding.health]}]{finding.health.value}[/]"
        table.add_row(finding.what, state, escape(finding.found), escape(finding.advice))
    Console().print(table)
    if any(finding.health is Health.MISSING for finding in findings):
        raise typer.Exit(1)


def _python(_: Settings) -> Iterator[Finding]:
    right = sys.version_info[:2] >= _PYTHON
    yield Finding(
        "Python",
        Health.OK if right else Health.MISSING,
        platform.python_version(),
        "" if right else "install Python 3.11 or later",
    )


def _packages(_: Settings) -> Iterator[Finding]:
    for name in _PACKAGES:
        try:
            yield Finding(f"package {name}", Health.OK, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield Finding(f"package {name}", Health.MISSING, "not installed", "run 'make install'")


def _redis(settings: Settings) -> Iterator[Finding]:
    import redis

    from app.embedded import running_broker

    url = running_broker(settings.data_dir.expanduser()) or settings.redis_url
    try:
        with redis.Redis.from_url(url, socket_timeout=2, socket_connect_timeout=2) as client:
            version = client.info("server")["redis_version"]
            policy = client.config_get("maxmemory-policy").get("maxmemory-policy")
    except redis.RedisError as error:
        advice = "nothing, for 'up' and 'replay' bring their own; for a cluster start Redis and set BROKER_URL"
        yield Finding("Redis", Health.OPTIONAL, str(error), advice)
        return
    evicts = policy not in {None, "noeviction"}
    yield Finding(
        "Redis",
        Health.OPTIONAL if evicts else Health.OK,
        f"{version}, maxmemory-policy {policy}",
        "set 'maxmemory-policy noeviction': Redis may otherwise drop tasks" if evicts else "",
    )


def _store(settings: Settings) -> Iterator[Finding]:
    from app.domain import ValidatorError
    from app.store.database import get_store
    from app.store.schema import current_revision, head_revision

    try:
        store = get_store()
        store.check()
        current, head = current_revision(store), head_revision()
    except ValidatorError as error:
        yield Finding("store", Health.MISSING, str(error), "correct DATABASE_URL, or unset it for SQLite in DATA_DIR")
        return
    advice = "" if current == head else "nothing: it is migrated when a worker or 'up' starts"
    yield Finding("store", Health.OK, f"{store.shown_url} at revision {current} of {head}", advice)


def _gpu(settings: Settings) -> Iterator[Finding]:
    from app.celery import visible_gpus

    gpus = visible_gpus()
    if gpus:
        yield Finding("GPU", Health.OK, f"{len(gpus)} visible: {', '.join(gpus)}")
    else:
        yield Finding(
            "GPU", Health.OPTIONAL, "none visible", "models run on the CPU; a live epoch needs an NVIDIA card"
        )


def _weights(settings: Settings) -> Iterator[Finding]:
    wanted = {
        "PSICHIC weights": (settings.psichic_weights, "psichic", "PSICHIC_WEIGHTS"),
        "ESM-2 weights": (settings.esm_checkpoint, "esm2", "ESM_CHECKPOINT"),
        "Boltz-2 weights": (settings.boltz_cache, "boltz2", "BOLTZ_CACHE"),
    }
    for what, (path, name, variable) in wanted.items():
        if path is not None and path.expanduser().exists():
            yield Finding(what, Health.OK, str(path))
        else:
            found = "not set" if path is None else f"{path} does not exist"
            advice = f"python -m app checkpoints fetch {name}, then set {variable}; recorded replays need none"
            yield Finding(what, Health.OPTIONAL, found, advice)


def _wallet(settings: Settings) -> Iterator[Finding]:
    path = settings.wallet_path.expanduser() / settings.wallet_name / "hotkeys" / settings.wallet_hotkey
    if path.is_file():
        yield Finding("wallet", Health.OK, str(path))
    else:
        advice = "set WALLET_NAME, WALLET_HOTKEY, WALLET_PATH; only a live validator needs one"
        yield Finding("wallet", Health.OPTIONAL, f"no hotkey at {path}", advice)


CHECKS: tuple[Callable[[Settings], Iterator[Finding]], ...] = (
    _python,
    _packages,
    _redis,
    _store,
    _gpu,
    _weights,
    _wallet,
)
