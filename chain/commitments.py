"""Which commitments count for an epoch (specs/epoch.md §3)."""

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
