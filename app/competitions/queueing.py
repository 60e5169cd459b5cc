"""From the chain's commitments to the queue of models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import Final

from sqlalchemy.orm import Session

from app.clock import now
from app.competitions.profile import profile_of
from app.domain import MODELS_NETUID, Commitment, ModelCommitment, ModelId
from app.settings import Settings
from app.store.competitions import Competitions
from app.store.metagraph import Metagraph
from app.store.model_queue import ModelQueue, Refusal
from app.untrusted import quoted
from chain.model_metadata import BLOCK_SECONDS, UnreadableMetadata, is_old_enough, parse_model_id

_REPOSITORY_CHECKED_EVERY: Final = timedelta(days=1)


def queue_commitments(
    session: Session, settings: Settings, commitments: Sequence[Commitment], block_now: int
) -> dict[str, int]:
    """Queue the models that registered miners have committed by ``block_now``; what is not queued keeps its reason.

    How many are ``new`` (or changed), ``known`` and ``refused``.
    """
    queue, by_hotkey = ModelQueue(session, MODELS_NETUID), {found.hotkey: found for found in commitments}
    running = {record.id for record in Competitions(session).all()}
    counts = Counter(new=0, known=0, refused=0)
    for neuron in Metagraph(session, MODELS_NETUID).read().neurons:
        found = by_hotkey.get(neuron.hotkey)
        if found is None:
            continue
        try:
            model = _model(settings, found, block_now, running)
        except UnreadableMetadata as error:
            queue.refuse(Refusal(found.hotkey, neuron.uid, found.block, found.data, str(error)))
            counts["refused"] += 1
            continue
        committed_at = now() - timedelta(seconds=(block_now - found.block) * BLOCK_SECONDS)
        changed = queue.register(neuron.uid, ModelCommitment(found.hotkey, found.block, model), committed_at)
        counts["new" if changed else "known"] += 1
    return dict(counts)


def remedy_of(reason: str) -> str:
    """What a miner is to change, by the reason that :func:`queue_commitments` kept."""
    if reason.startswith("no competition"):
        return "Commit again with the id of a competition that runs."
    if reason.startswith("the model is"):
        return "Nothing: it is queued by itself once it is old enough."
    return "Commit again as namespace:name:epoch:commit:hash:competition_id, each field as its rule asks."


def unchecked_repositories(session: Session) -> list[str]:
    """The hotkeys whose model's repository is due to be asked for its date."""
    due = now() - _REPOSITORY_CHECKED_EVERY
    return [
        model.hotkey
        for model in ModelQueue(session, MODELS_NETUID).models()
        if model.repository_checked_at is None or model.repository_checked_at < due
    ]


def _model(settings: Settings, found: Commitment, block_now: int, running: Collection[str]) -> ModelId:
    min_age = settings.min_age.total_seconds()
    model = parse_model_id(found.data, open_ended=profile_of(settings).seven_fields)
    if model.competition_id not in running:
        known = ", ".join(sorted(running)) or "none"
        raise UnreadableMetadata(f"no competition {quoted(model.competition_id)} runs; running: {known}")
    if not is_old_enough(found.block, block_now, min_age):
        age = (block_now - found.block) * BLOCK_SECONDS
        raise UnreadableMetadata(f"the model is {age} s old; it is queued once it is older than {min_age:.0f} s")
    return model
