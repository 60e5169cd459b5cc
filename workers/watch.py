"""Watching the chain: each closed epoch is announced exactly once."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any, Final

from app.celery import app
from app.domain import EpochHeader
from app.epochs.capture import process_subtensor
from app.observability.metrics import EpochOutcome, epoch_ended
from app.settings import Settings, get_settings
from app.store.deliveries import Destination
from app.store.epochs import FIRST_STEP, Epochs
from app.store.services import keep_block
from app.task import ValidatorTask, transaction
from chain.epochs import ClosedEpoch, last_closed_epoch
from chain.sources import SourceUnavailable
from chain.subtensor import Subtensor
from workers.reports import announce_reports

# A validator that was down for longer has more missed epochs than anyone reads.
_MOST_MISSED: Final = 200

# Missed epochs never open: they have no hash to draw a challenge from.
_NO_HASH: Final = "0x0"

log = logging.getLogger("celery_validator.watch")


@app.task(bind=True, send_events=False)
def watch_epoch(self: ValidatorTask) -> dict[str, Any]:
    """Announce the last closed epoch if the store does not know it, and note those that were slept through."""
    settings = get_settings()
    if settings.offline or not settings.live:
        return {"status": "not live"}
    try:
        return _watched(self, process_subtensor(settings), settings)
    except SourceUnavailable as fault:
        # the next beat asks again, on the next endpoint
        log.warning("%s", fault)
        return {"status": "chain unavailable", "detail": str(fault)}


def _watched(task: ValidatorTask, chain: Subtensor, settings: Settings) -> dict[str, Any]:
    epoch, finalized = last_closed_epoch(chain, settings.netuid)
    with task.transaction() as step:
        keep_block(step.session, settings.netuid, finalized)
        headers = Epochs(step.session).newest_headers(settings.netuid, finalized)
    last = _last_watched(chain, settings, headers)
    if last is not None and epoch.end_block <= last.end_block:
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
    return {"status": "announced", "epoch": epoch.number, "missed": len(announce(epoch, header, last, settings))}


def _scores(settings: Settings) -> str:
    return "recorded" if settings.rehearsal_scores else "model"


def _last_watched(chain: Subtensor, settings: Settings, headers: Iterable[EpochHeader]) -> EpochHeader | None:
    """The epoch of this chain that was announced last; the store may know epochs of other networks too.

    A chain is known by its hashes, so that an endpoint's other name makes no other network of it.
    """
    for header in headers:
        try:
            here = chain.block_hash(header.end_block) == header.end_block_hash
        except SourceUnavailable:
            # a node that does not know so old a block
            here = header.network == settings.subtensor_network
        if here:
            return header
    return None


def _slept_through(epoch: ClosedEpoch, last: EpochHeader | None) -> list[ClosedEpoch]:
    """The epochs between the last that was watched and this one; ascending."""
    if last is None:
        return []
    if last.epoch_length != epoch.epoch_length:
        # when the tempo changed nobody here knows, so neither which epochs there were
        if epoch.start_block > last.end_block:
            log.warning("blocks %d to %d were not watched", last.end_block, epoch.start_block)
        return []
    ends = range(last.end_block + epoch.epoch_length, epoch.end_block, epoch.epoch_length)
    return [ClosedEpoch(epoch.netuid, end, epoch.epoch_length) for end in ends[-_MOST_MISSED:]]


def announce(epoch: ClosedEpoch, header: EpochHeader, last: EpochHeader | None, settings: Settings) -> list[int]:
    """Write the epoch, and those missed since the last that was watched, in one transaction.

    Returns the missed ones' numbers.
    """
    missed = _slept_through(epoch, last)
    with transaction() as step:
        epochs = Epochs(step.session)
        for gone in missed:
            gone_header = EpochHeader(
                gone.netuid, header.network, gone.epoch_length, gone.start_block, gone.end_block, _NO_HASH, _NO_HASH
            )
            run = gone.run(last.end_block_hash if last else _NO_HASH)
            missed_id = epochs.announce_missed(run, gone_header, settings.cluster_name)
            announce_reports(step, missed_id, Destination.MONITORING)
        epoch_id = epochs.announce(
            epoch.run(header.end_block_hash),
            header,
            _scores(settings),
            settings.cluster_name,
            publishes=True,
            without_boltz=settings.without_boltz,
        )
        step.send_epoch(FIRST_STEP, epoch_id)
    if missed:
        epoch_ended(EpochOutcome.MISSED, {}, len(missed))
        log.warning("epoch(s) %s to %s were missed", missed[0].number, missed[-1].number)
    return [gone.number for gone in missed]
