"""What the model competitions need of a chain, and the chain through chain/subtensor.py as that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from app.domain import Commitment, Neuron
from chain.subtensor import Subtensor


@dataclass(frozen=True, slots=True)
class ChainMetagraph:
    """A subnet's neurons as of ``block``."""

    block: int
    neurons: tuple[Neuron, ...]


class ModelChain(Protocol):
    """A subnet's chain. Every call is bounded in time and raises a ValidatorError where it fails."""

    def current_block(self) -> int:
        """The head's number."""
        ...

    def metagraph(self, netuid: int) -> ChainMetagraph:
        """All neurons at the head."""
        ...

    def commitments(self, netuid: int) -> Sequence[Commitment]:
        """Every hotkey's latest commitment, as text."""
        ...


class SubtensorModelChain:
    """The real chain."""

    def __init__(self, subtensor: Subtensor) -> None:
        self._subtensor = subtensor

    def current_block(self) -> int:
        """The head's number."""
        return self._subtensor.current_block()

    def metagraph(self, netuid: int) -> ChainMetagraph:
        """All neurons at the head."""
        block = self._subtensor.current_block()
        return ChainMetagraph(block, self._subtensor.metagraph(netuid, block))

    def commitments(self, netuid: int) -> Sequence[Commitment]:
        """Every hotkey's latest commitment, as text."""
        return self._subtensor.commitments(netuid, self._subtensor.current_block())
