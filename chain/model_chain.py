"""What the model competitions need of a chain, and the chain through chain/subtensor.py as that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from app.domain import Commitment, Neuron
from chain.subtensor import Subtensor, load_wallet
from chain.weights import SubmissionState


@dataclass(frozen=True, slots=True)
class ChainMetagraph:
    """A subnet's neurons as of ``block``."""

    block: int
    neurons: tuple[Neuron, ...]


@dataclass(frozen=True, slots=True)
class WeightsReceipt:
    """How a submission of weights ended, in words."""

    accepted: bool
    message: str


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

    def set_weights(self, netuid: int, weights: Mapping[int, float]) -> WeightsReceipt:
        """Submit weights by UID with the validator's hotkey."""
        ...


class SubtensorModelChain:
    """The real chain. The wallet is read when weights are set, and only then."""

    def __init__(self, subtensor: Subtensor, wallet_name: str, wallet_hotkey: str, wallet_path: Path) -> None:
        self._subtensor = subtensor
        self._wallet = (wallet_name, wallet_hotkey, wallet_path)

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

    def set_weights(self, netuid: int, weights: Mapping[int, float]) -> WeightsReceipt:
        """Submit weights by UID with the validator's hotkey.

        Raises:
            WalletError: the hotkey cannot be read.
        """
        outcome = self._subtensor.set_weights(netuid, weights, load_wallet(*self._wallet))
        return WeightsReceipt(outcome.state is SubmissionState.INCLUDED, f"{outcome.state.value}: {outcome.message}")
