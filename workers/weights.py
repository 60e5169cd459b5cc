"""The epoch's weights: into the recording's result, or onto the chain."""

from __future__ import annotations

from typing import Any

from app.celery import app
from app.store.database import get_store
from app.store.epochs import Epochs
from app.task import ValidatorTask


@app.task(base=ValidatorTask)
def submit_weights(epoch_id: int) -> dict[str, Any]:
    """Submit the closed epoch's vector, once. A replay's goes into its result and nowhere else."""
    with get_store().writing() as session:
        epochs = Epochs(session)
        weights = epochs.summary(epoch_id).weights
        state = "recorded" if weights is not None else "none"
        epochs.record_weights(epoch_id, state, "replay: written to the result, not to the chain", tries=0)
    return {"epoch": epoch_id, "status": state}
