"""Neurons, models and scores for the tests of the model competitions."""

from __future__ import annotations

from datetime import timedelta

from bittensor_core import Keypair
from sqlalchemy import update

from app.clock import now
from app.domain import ModelCommitment, ModelId, Neuron
from app.store.competitions import Competitions
from app.store.database import Store
from app.store.metagraph import Metagraph
from app.store.model_queue import ModelQueue, PostedScore
from app.store.tables.competitions import ModelRow, ModelScoreRow

NETUID = 21
VALIDATOR = Keypair.create_from_uri("//Validator")
SECOND = Keypair.create_from_uri("//Second")


def miner(uid: int) -> str:
    """A miner's hotkey, spelled as the chain spells hotkeys."""
    return str(Keypair.create_from_uri(f"//Miner{uid}").ss58_address)


def neurons(miners: int) -> list[Neuron]:
    """Two validators with permit and stake at UID 0 and 1, then miners."""
    return [
        Neuron(0, VALIDATOR.ss58_address, "cold", 30_000.0, True),
        Neuron(1, SECOND.ss58_address, "cold", 90_000.0, True),
        *(Neuron(uid, miner(uid), "cold", 10.0, False) for uid in range(2, 2 + miners)),
    ]


def model(uid: int, competition: str = "voicebench", digest: str | None = None) -> ModelCommitment:
    """A miner's committed model."""
    identity = ModelId("maker", f"model{uid}", "1", f"c0ffee{uid}", digest or f"hash{uid}", competition)
    return ModelCommitment(miner(uid), 100 + uid, identity)


def fill(store: Store, miners: int, competition: str = "voicebench") -> None:
    """A synced metagraph, one competition, and one queued model per miner."""
    with store.writing() as session:
        Metagraph(session, NETUID).sync(1000, neurons(miners))
        Competitions(session).add(competition, 1.0, "test")
        for uid in range(2, 2 + miners):
            ModelQueue(session, NETUID).register(uid, model(uid, competition), now() - timedelta(days=1))


def scored(store: Store, uid: int, *scores: float, days_ago: float = 0.0, by: str = VALIDATOR.ss58_address) -> None:
    """Scores of a miner's model, oldest first, all that many days ago."""
    with store.writing() as session:
        queue = ModelQueue(session, NETUID)
        for score in scores:
            session.execute(
                update(ModelRow)
                .where(ModelRow.hotkey == miner(uid))
                .values(is_being_scored_by=by, taken_at=now(), taken_model=ModelRow.model, taken_block=ModelRow.block)
            )
            assert queue.post(miner(uid), uid, by, PostedScore(score))
            latest = session.query(ModelScoreRow).order_by(ModelScoreRow.id.desc()).first()
            assert latest is not None
            latest.scored_at = now() - timedelta(days=days_ago)
