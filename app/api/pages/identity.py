"""Which validator a page belongs to: what stands in the header of every page."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from sqlalchemy.exc import SQLAlchemyError

from app import __version__
from app.domain import ValidatorError
from app.settings import Settings, get_settings
from app.store.database import get_store
from app.store.services import WatchedBlock, last_block
from app.store.weight_submissions import LastWeights, WeightSubmissions
from app.weights import last_verdict

# A hotkey file is a few hundred bytes.
_LARGEST_HOTKEY_FILE = 10_000

log = logging.getLogger("celery_validator.api")


@dataclass(frozen=True, slots=True)
class Identity:
    """The validator that serves a page. None: not known, and shown as unknown."""

    netuid: int
    network: str
    version: str = __version__
    hotkey: str | None = None
    uid: int | None = None
    stake: float | None = None
    permit: bool | None = None
    block: WatchedBlock | None = None
    weights: LastWeights | None = None
    sets_weights: bool = True


def identity() -> Identity:
    """Read who this validator is, from the store and the hotkey's file; never raises and never asks the chain."""
    settings = get_settings()
    hotkey = _hotkey_in_file(settings)
    try:
        with get_store().reading() as session:
            read = last_verdict(session, settings.netuid)
            block = last_block(session, settings.netuid)
            weights = WeightSubmissions(session).last(settings.netuid)
    except (SQLAlchemyError, ValidatorError, OSError) as error:
        log.warning("the store does not say who this validator is: %s", error)
        return nobody(settings, hotkey)
    known = replace(nobody(settings, hotkey), block=block, weights=weights)
    if read is None:
        return known
    found = read.verdict.parameters
    if block is None or block.number < found.block:
        known = replace(known, block=WatchedBlock(found.block, read.read_at))
    if hotkey is not None and hotkey != found.hotkey:
        # the wallet was changed since: nothing of what was read is of this hotkey
        return known
    return replace(known, hotkey=found.hotkey, uid=found.uid, stake=found.stake, permit=found.permit)


def nobody(settings: Settings | None = None, hotkey: str | None = None) -> Identity:
    """What is known without asking: the settings."""
    found = settings or get_settings()
    # of an endpoint its host, without a login
    network = urlsplit(found.subtensor_network).hostname or found.subtensor_network
    if found.offline:
        network = "no network (offline)"
    return Identity(found.netuid, network, hotkey=hotkey, sets_weights=found.sets_weights)


def _hotkey_in_file(settings: Settings) -> str | None:
    """The address in the hotkey's file, which it names in the clear; None where there is none to read."""
    path = Path(settings.wallet_path).expanduser() / settings.wallet_name / "hotkeys" / settings.wallet_hotkey
    try:
        with path.open("rb") as stream:
            address = json.loads(stream.read(_LARGEST_HOTKEY_FILE)).get("ss58Address")
    except (OSError, ValueError, AttributeError):
        return None
    return address if isinstance(address, str) else None
