"""Which commitments count for an epoch."""

from __future__ import annotations

from collections.abc import Iterable

from app.domain import Commitment, EpochHeader, Neuron


def in_window(
    commitments: Iterable[Commitment], header: EpochHeader, no_submission_blocks: int, neurons: Iterable[Neuron]
) -> list[tuple[int, Commitment]]:
    """The commitments that count, with the UID of their hotkey at block ``end``, UIDs ascending.

    A commitment counts if ``start < block < end - no_submission_blocks`` and its hotkey is in the metagraph.
    """
    uid_of = {neuron.hotkey: neuron.uid for neuron in neurons}
    last = header.end_block - no_submission_blocks
    counted = [
        (uid_of[commitment.hotkey], commitment)
        for commitment in commitments
        if commitment.hotkey in uid_of and header.start_block < commitment.block < last
    ]
    return sorted(counted, key=lambda pair: pair[0])


def may_tie(counted: Iterable[tuple[int, Commitment]]) -> frozenset[str]:
    """What was committed at a block at which another hotkey committed too.

    Equal scores are ordered by block, then by push time; so of all others the push time decides nothing.
    """
    by_block: dict[int, list[str]] = {}
    for _, commitment in counted:
        by_block.setdefault(commitment.block, []).append(commitment.data)
    return frozenset(data for together in by_block.values() if len(together) > 1 for data in together)
