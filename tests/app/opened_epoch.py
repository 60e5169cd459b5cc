"""An epoch that was announced and opened with three submissions, nothing examined yet."""

from __future__ import annotations

from app.domain import Challenge, Commitment, EpochHeader
from app.store.database import Store
from app.store.epochs import Epochs


def opened(store: Store, number: int, run: str, *, publishes: bool) -> int:
    """Its id."""
    header = EpochHeader(68, "finney", 361, number * 361, (number + 1) * 361, "0x1", "0x2")
    with store.writing() as session:
        epochs = Epochs(session)
        epoch_id = epochs.announce(run, header, "model", "default", publishes=publishes)
        epochs.open(
            epoch_id,
            header=header,
            neurons=(),
            rules="",
            rules_sha256="",
            challenge=Challenge(("P1",), ("P2",), (1,)),
            proteins=(),
            commitments=[(uid, Commitment(f"hotkey{uid}", 1, "a/b/c/d.txt")) for uid in range(3)],
            warnings=(),
        )
    return epoch_id
