"""The metagraph as last synced: who may call, who mines, and with what stake."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import delete, func, insert, select
from sqlalchemy.orm import Session

from app.clock import now
from app.domain import Neuron
from app.store.tables.base import LARGEST_ID
from app.store.tables.competitions import NeuronRow


@dataclass(frozen=True, slots=True)
class SyncedMetagraph:
    """A subnet's neurons, UIDs ascending, as of ``block``. Empty, with ``block`` None, before the first sync."""

    netuid: int
    block: int | None
    synced_at: datetime | None
    neurons: tuple[Neuron, ...]

    @property
    def hotkeys(self) -> dict[int, str]:
        """Hotkey by UID."""
        return {neuron.uid: neuron.hotkey for neuron in self.neurons}

    @property
    def stakes(self) -> dict[str, float]:
        """Stake (alpha) by hotkey."""
        return {neuron.hotkey: neuron.stake for neuron in self.neurons}


class Metagraph:
    """Reads and writes a subnet's metagraph inside one session; the caller owns the transaction."""

    def __init__(self, session: Session, netuid: int) -> None:
        self._session = session
        self._netuid = netuid

    def sync(self, block: int, neurons: Sequence[Neuron]) -> None:
        """Make the store's rows these neurons, one per UID."""
        at = now()
        self._session.execute(delete(NeuronRow).where(NeuronRow.netuid == self._netuid))
        rows = [
            {
                "netuid": self._netuid,
                "uid": neuron.uid,
                "hotkey": neuron.hotkey,
                "coldkey": neuron.coldkey,
                "stake": neuron.stake,
                "validator_permit": neuron.validator_permit,
                "block": block,
                "synced_at": at,
            }
            for neuron in neurons
        ]
        if rows:
            self._session.execute(insert(NeuronRow), rows)

    def find(self, text: str, limit: int) -> list[tuple[int, str]]:
        """UID and hotkey of the neurons with this UID, or whose hotkey begins so."""
        if text.isascii() and text.isdigit():
            wanted = NeuronRow.uid == min(int(text[:12]), LARGEST_ID)
        else:
            wanted = func.substr(NeuronRow.hotkey, 1, len(text)) == text
        found = select(NeuronRow.uid, NeuronRow.hotkey).where(NeuronRow.netuid == self._netuid, wanted)
        return [(uid, hotkey) for uid, hotkey in self._session.execute(found.order_by(NeuronRow.uid).limit(limit))]

    def read(self) -> SyncedMetagraph:
        """All neurons, UIDs ascending."""
        of_subnet = NeuronRow.netuid == self._netuid
        synced = self._session.execute(select(NeuronRow.block, NeuronRow.synced_at).where(of_subnet).limit(1)).first()
        rows = self._session.execute(
            select(NeuronRow.uid, NeuronRow.hotkey, NeuronRow.coldkey, NeuronRow.stake, NeuronRow.validator_permit)
            .where(of_subnet)
            .order_by(NeuronRow.uid)
        )
        return SyncedMetagraph(
            self._netuid,
            None if synced is None else synced.block,
            None if synced is None else synced.synced_at,
            tuple(_neuron(row) for row in rows),
        )

    def neuron_of(self, hotkey: str) -> Neuron | None:
        """The neuron of a hotkey; None where it is not registered."""
        row = self._session.execute(
            select(NeuronRow).where(NeuronRow.netuid == self._netuid, NeuronRow.hotkey == hotkey).limit(1)
        ).scalar_one_or_none()
        return None if row is None else _neuron(row)


def _neuron(row: Any) -> Neuron:
    return Neuron(row.uid, row.hotkey, row.coldkey, row.stake, row.validator_permit)
