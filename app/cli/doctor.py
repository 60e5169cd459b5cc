"""``python -m app doctor``: is everything here, and if not, what to do."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Annotated, Final
from urllib.parse import urlsplit

import typer
from rich.markup import escape
from rich.table import Table

from app.cli.terminal import Console
from app.domain import MODELS_NETUID, MOLECULES_NETUID
from app.settings import Settings, get_settings

_PACKAGES = ("celery", "redis", "bittensor", "rdkit", "torch", "boltz", "pydantic", "flower", "sqlalchemy")
_PYTHON = (3, 11)
_GIB: Final = 2**30
_CHECK_WIDTH: Final = 22


class Health(StrEnum):
    """How a check ended. Only ``missing`` makes the doctor exit 1."""

    OK = "ok"
    OPTIONAL = "optional"
    MISSING = "missing"


# One read of the chain on one endpoint, whatever CHAIN_TIMEOUT allows a worker.
_CHAIN_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor's table."""

    what: str
    health: Health
    found: str
    advice: str = ""


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="As JSON: each check, its state, what was found, advice.")] = (
        False
    ),
) -> None:
    """Check Python, packages, Redis, store, GPU, weights and wallet, and say what to do about what is missing."""
    settings = get_settings()
    findings = [finding for check in CHECKS for finding in check(settings)]
    missing = [finding for finding in findings if finding.health is Health.MISSING]
    if as_json:
        keys = {"what": "check", "health": "state", "found": "found", "advice": "advice"}
        rows = [{keys[key]: value for key, value in asdict(finding).items()} for finding in findings]
        typer.echo(json.dumps({"fit": not missing, "checks": rows}))
    else:
        print_findings(findings, Console())
    if missing:
        raise typer.Exit(1)


def print_findings(findings: Sequence[Finding], console: Console) -> None:
    """A line a check, and what to do on a line of its own: readable at 80 columns."""
    colour = {Health.OK: "green", Health.OPTIONAL: "yellow", Health.MISSING: "red"}
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold", max_width=_CHECK_WIDTH)
    table.add_column(overflow="fold")
    for finding in findings:
        text = escape(finding.found)
        if finding.advice:
            text += f"\n[{colour[finding.health]}]→[/] {escape(finding.advice)}"
        table.add_row(f"[{colour[finding.health]}]{finding.health.value}[/]", escape(finding.what), text)
    console.print(table)
    counts = ", ".join(
        f"{sum(finding.health is health for finding in findings)} {health.value}"
        for health in (Health.OK, Health.OPTIONAL, Health.MISSING)
    )
    console.print(f"[bold]{counts}[/]")


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


def _rules(settings: Settings) -> Iterator[Finding]:
    """The rules that a live epoch would be judged by, and whether RDKit counts as they do."""
    if settings.netuid != MOLECULES_NETUID:
        return
    from app.domain import ValidatorError
    from app.epochs.rules import parse_rules, rdkit_difference

    path = settings.rules_file
    try:
        rules = parse_rules(path.read_text(encoding="utf-8") if path else "")
    except (ValidatorError, OSError, UnicodeDecodeError) as error:
        yield Finding("rules", Health.MISSING, f"RULES_FILE {path}: {error}", "correct it: no live epoch can be opened")
        return
    yield Finding("rules", Health.OK, f"era {rules.era}, {f'from {path}' if path else 'built in'}")
    difference = rdkit_difference(rules)
    yield Finding(
        "RDKit of the rules",
        Health.OK if difference is None else Health.MISSING,
        difference or rules.rdkit,
        "" if difference is None else f"run 'pip install rdkit=={rules.rdkit}', or 'make install'",
    )


def _redis(settings: Settings) -> Iterator[Finding]:
    import redis

    from app.cluster.embedded import running_cluster
    from app.observability.broker import redis_client
    from app.settings.broker import broker_address

    running = running_cluster(settings.data_dir.expanduser())
    address = broker_address(running["BROKER_URL"]) if running else settings.broker
    try:
        with redis_client(address, 2.0) as client:
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


def _nanobodies(settings: Settings) -> Iterator[Finding]:
    from chem.nanobodies.tools import local_tools

    missing = local_tools(settings.igblast_home, settings.tnp_command).missing()
    if not missing:
        yield Finding("nanobody track", Health.OK, "every step of its validation can be run")
    for error in missing:
        yield Finding(f"nanobody track: {error.step}", Health.OPTIONAL, "cannot be run here", error.reason)


def _gpu(settings: Settings) -> Iterator[Finding]:
    from gpu.devices import visible_gpus

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


def _weights_file(settings: Settings) -> Iterator[Finding]:
    """Test mode: the file that takes the place of the chain."""
    from app.domain import ValidatorError
    from app.weights import require_weights_file

    if settings.weights_file is None:
        return
    try:
        require_weights_file(settings)
    except ValidatorError as error:
        yield Finding("weights file", Health.MISSING, str(error).partition("; ")[0], str(error).partition("; ")[2])
    else:
        yield Finding("weights file", Health.OK, f"{settings.weights_file}: weights do not go to the chain")


def _wallet(settings: Settings) -> Iterator[Finding]:
    path = settings.wallet_path.expanduser() / settings.wallet_name / "hotkeys" / settings.wallet_hotkey
    if path.is_file():
        yield Finding("wallet", Health.OK, str(path))
    else:
        advice = "set WALLET_NAME, WALLET_HOTKEY, WALLET_PATH; only a live validator needs one"
        yield Finding("wallet", Health.OPTIONAL, f"no hotkey at {path}", advice)


def _github(settings: Settings) -> Iterator[Finding]:
    """The calls that GitHub allows, as the last epoch left them; it is not asked now."""
    if settings.netuid != MOLECULES_NETUID:
        return
    from sqlalchemy.exc import SQLAlchemyError

    from app.domain import ValidatorError
    from app.epochs.allowance import last_quota
    from app.store.database import get_store
    from chain.github import QuotaBook

    has_token = settings.github_token is not None
    quota = QuotaBook(has_token=has_token).now()
    # the store may not be there yet, or not migrated; its own line says so
    with suppress(ValidatorError, SQLAlchemyError), get_store().reading() as session:
        known = last_quota(session)
        if known is not None and known.quota.has_token == has_token:
            quota = known.quota
    allowance = f"{quota.remaining} of {quota.limit} calls an hour left"
    yield Finding(
        "GitHub",
        Health.OK if has_token else Health.OPTIONAL,
        f"{'GITHUB_TOKEN is set' if has_token else 'no GITHUB_TOKEN'}: {allowance}",
        "" if has_token else "set GITHUB_TOKEN (any, without rights): push times that decide no tie stay unknown",
    )


def _chain_weights(settings: Settings) -> Iterator[Finding]:
    """Whether the chain would take this validator's weights; asked where there is a hotkey to ask for."""
    hotkey = settings.wallet_path.expanduser() / settings.wallet_name / "hotkeys" / settings.wallet_hotkey
    if settings.offline or not hotkey.is_file():
        return
    from app.domain import ValidatorError
    from app.weights import weights_verdict
    from chain.subtensor import Subtensor

    what = f"weights on subnet {settings.netuid}"
    seconds = min(_CHAIN_SECONDS, settings.chain_timeout.total_seconds())
    chain = Subtensor(settings.subtensor_network, settings.subtensor_fallbacks, settings.subtensor_archives, seconds)
    try:
        found = weights_verdict(settings, chain)
    except ValidatorError as error:
        yield Finding(what, Health.OPTIONAL, f"unknown: {error}", "the chain must answer before a live epoch ends")
        return
    finally:
        chain.close()
    yield Finding("weight parameters", Health.OK, f"{found.parameters.summary} (block {found.parameters.block})")
    health = Health.MISSING if found.objections else Health.OK if found.accepted else Health.OPTIONAL
    advice = "" if found.accepted else "without this no weights reach the chain; replays need none of it"
    yield Finding(what, health, found.sentence, advice)


def _evaluation(settings: Settings) -> Iterator[Finding]:
    """What it takes to evaluate models on this machine; asked where that is to be done."""
    if settings.netuid != MODELS_NETUID or settings.run_api:
        return
    yield _docker(settings)
    yield _disk(settings)
    judge = settings.judge_url is not None and settings.judge_model is not None
    yield Finding(
        "judge of answers",
        Health.OK if judge else Health.MISSING,
        f"{settings.judge_model} at {urlsplit(settings.judge_url or '').hostname}" if judge else "not set",
        ""
        if judge
        else "set JUDGE_URL, JUDGE_MODEL and JUDGE_KEY: an OpenAI-compatible API; voicebench and v2v need it",
    )


def _docker(settings: Settings) -> Finding:
    from app.domain import ValidatorError
    from gpu.evaluation.docker_engine import engine, speaking

    try:
        with engine(settings.docker_host, timeout=5.0) as client, speaking("asking for its version"):
            version = str(client.version().get("Version", "?"))
    except ValidatorError as error:
        advice = "install Docker, let this user talk to it (group docker), or set DOCKER_HOST; --run-api needs none"
        return Finding("Docker", Health.MISSING, str(error).split(". ")[0], advice)
    return Finding("Docker", Health.OK, f"Engine {version}")


def _disk(settings: Settings) -> Finding:
    data = settings.data_dir.expanduser().resolve()
    # it is made on first use
    place = next(folder for folder in (data, *data.parents) if folder.is_dir())
    free, wanted = shutil.disk_usage(place).free, int(settings.model_size_limit) + int(settings.disk_reserve)
    enough = free >= wanted
    return Finding(
        "disk for models",
        Health.OK if enough else Health.MISSING,
        f"{free / _GIB:.0f} GiB free in {place}, {wanted / _GIB:.0f} GiB wanted",
        "" if enough else "make room, set DATA_DIR to a larger disk, or lower MODEL_SIZE_LIMIT and DISK_RESERVE",
    )


CHECKS: tuple[Callable[[Settings], Iterator[Finding]], ...] = (
    _python,
    _packages,
    _rules,
    _redis,
    _store,
    _gpu,
    _weights,
    _nanobodies,
    _wallet,
    _weights_file,
    _github,
    _chain_weights,
    _evaluation,
)
