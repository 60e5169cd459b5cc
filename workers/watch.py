"""Watching the chain: each closed epoch is announced exactly once (specs/epoch.md §1)."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any, Final

from app.celery import app
from app.domain import EpochHeader
from app.live import process_subtensor
from app.settings import Settings, get_settings
from app.store.database import get_store
from app.store.deliveries import Destination
from app.store.epochs import Epochs
from app.task import ValidatorTask
from chain.sources import SourceUnavailable
from chain.sources.live import LiveEpoch, live_epoch_at
from workers.epoch import open_epoch
from workers.reports import announce_reports, queue_reports

# A validator that was away for longer has more missed epochs than anyone reads.
_MOST_MISSED: Final = 200

# Missed epochs never open: they have no hash to draw a challenge from.
_NO_HASH: Final = "0x0"

log = logging.getLogger("celery_validator.watch")


@app.task(base=ValidatorTask)
def watch_epoch() -> dict[str, Any]:
    """Announce the last closed epoch if the store does not know it, and note those that were slept through."""
    settings = get_settings()
    if settings.offline or not settings.live:
        return {"status": "not live"}
    chain = process_subtensor(settings)
    try:
        epoch, _ = live_epoch_at(chain, settings.netuid)
        with get_store().reading() as session:
            known = Epochs(session).numbers(settings.netuid)
        if epoch.number in known:
            return {"status": "known", "epoch": epoch.number}
        header = EpochHeader(
            netuid=epoch.netuid,
            network=settings.subtensor_network,
            epoch_length=epoch.epoch_length,
            start_block=epoch.start_block,
            end_block=epoch.end_block,
            start_block_hash=chain.block_hash(epoch.start_block),
            end_block_hash=chain.block_hash(epoch.end_block),
        )
    except SourceUnavailable as fault:
        # the next beat asks again, on the next endpoint
        log.warning("%s", fault)
        return {"status": "chain unavailable", "detail": str(fault)}
    epoch_id, missed = announce(epoch, header, known, settings)
    if missed:
        log.warning("epoch(s) %s to %s were missed", missed[0], missed[-1])
    open_epoch.delay(epoch_id)
    return {"status": "announced", "epoch": epoch.number, "missed": len(missed)}


def _scores(settings: Settings) -> str:
    return "recorded" if settings.rehearsal_scores else "model"


def announce(epoch: LiveEpoch, header: EpochHeader, known: Iterable[int], settings: Settings) -> tuple[int, list[int]]:
    """Write the epoch, and the missed ones since the last that is known, in one transaction."""
    earlier = [number for number in known if number < epoch.number]
    missed = list(range(max(earlier) + 1, epoch.number))[-_MOST_MISSED:] if earlier else []
    told: dict[int, list[Destination]] = {}
    with get_store().writing() as session:
        epochs = Epochs(session)
        for number in missed:
            end = (number + 1) * epoch.epoch_length
            gone = LiveEpoch(epoch.netuid, end, epoch.epoch_length)
            gone_header = EpochHeader(
                epoch.netuid, header.network, epoch.epoch_length, gone.start_block, end, _NO_HASH, _NO_HASH
            )
            missed_id = epochs.announce_missed(gone.run, gone_header, str(gone), settings.cluster_name)
            told[missed_id] = announce_reports(session, missed_id, Destination.MONITORING)
        epoch_id = epochs.announce(
            epoch.run,
            header,
            str(epoch),
            _scores(settings),
            settings.cluster_name,
            without_boltz=settings.without_boltz,
        )
    for missed_id, destinations in told.items():
        queue_reports(missed_id, destinations)
    return epoch_id, missed
