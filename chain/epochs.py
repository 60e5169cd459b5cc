"""Which epochs of a subnet have closed."""

from __future__ import annotations

from dataclasses import dataclass

from app.domain import ValidatorError
from chain.subtensor import Subtensor


@dataclass(frozen=True, slots=True)
class ClosedEpoch:
    """An epoch by its subnet and its last block; it is ``epoch_length`` (tempo + 1) blocks long."""

    netuid: int
    end_block: int
    epoch_length: int

    @property
    def start_block(self) -> int:
        """The epoch's first block."""
        return self.end_block - self.epoch_length

    @property
    def number(self) -> int:
        """``end // epoch_length - 1``."""
        return self.end_block // self.epoch_length - 1

    def run(self, block_hash: str) -> str:
        """The name under which the store knows the epoch, once.

        Numbers come again on another network and after a change of tempo; ``block_hash``, the end block's (of a missed
        epoch the last watched one's), does not.
        """
        return f"{self.netuid}:{self.end_block}:{block_hash[2:18]}"


def last_closed_epoch(subtensor: Subtensor, netuid: int) -> tuple[ClosedEpoch, int]:
    """The epoch that ended last, and the finalized block that says so.

    An epoch closes at a block that is a multiple of ``tempo + 1``.

    Raises:
        ValidatorError: the chain is younger than one epoch.
    """
    finalized = subtensor.finalized_block()
    length = subtensor.tempo(netuid, finalized) + 1
    if finalized < 2 * length:
        raise ValidatorError(f"{subtensor.network} is at block {finalized}: no epoch of {length} blocks has closed")
    return ClosedEpoch(netuid, finalized // length * length, length), finalized
