"""Which revision a hotkey committed, and when: the scoring API's contract says neither."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from app.clock import now
from app.domain import MODELS_NETUID, ModelId, ValidatorError
from app.store.database import Store
from app.store.evaluations import EvaluationInputs
from app.store.model_queue import ModelQueue
from chain.model_chain import ModelChain
from chain.model_metadata import BLOCK_SECONDS, UnreadableMetadata, is_readable, parse_model_id


class CommitmentUnknown(ValidatorError):
    """This node cannot find out now what was committed."""


class NotCommitted(ValidatorError):
    """The hotkey has committed nothing, or something else than what is to be evaluated."""


class CommitmentSuperseded(ValidatorError):
    """The miner has committed the same repository again since, or for another competition than the caller names.

    Nobody's score: the version that was asked for is no longer anybody's, or never was.
    """


@dataclass(frozen=True, slots=True)
class CommittedModel:
    """A model as committed, and the instant of its block."""

    model: ModelId
    committed_at: datetime


@dataclass(frozen=True, slots=True)
class CommitmentLookup:
    """Looks in the node's own store, then on the chain. ``open_chain`` is None where the chain must not be asked.

    ``open_ended`` as in :func:`chain.model_metadata.parse_model_id`.
    """

    store: Store
    open_chain: Callable[[], ModelChain] | None
    open_ended: bool = False

    def find(self, inputs: EvaluationInputs) -> CommittedModel:
        """The committed model that was asked for.

        Raises:
            NotCommitted: it is not what the hotkey has committed.
            CommitmentSuperseded: the hotkey has committed the repository again.
            CommitmentUnknown: neither the store nor the chain can tell now, or only another profile's rules read it.
        """
        return self.in_store(inputs) or self._on_chain(inputs)

    def in_store(self, inputs: EvaluationInputs) -> CommittedModel | None:
        """What this node's store knows of it; None where it does not."""
        with self.store.reading() as session:
            versions = ModelQueue(session, MODELS_NETUID).versions(inputs.hotkey)
        if versions is None:
            return None
        committed_at, (current, *others) = versions
        for commitment in (current, *others):
            model = commitment.model
            if (model.repository, model.competition_id, commitment.block) == (
                inputs.hf_repo_id,
                inputs.competition_id,
                inputs.block,
            ):
                return CommittedModel(model, committed_at - _blocks(current.block - commitment.block))
        return None

    def _on_chain(self, inputs: EvaluationInputs) -> CommittedModel:
        if self.open_chain is None:
            raise CommitmentUnknown(unknown_offline(inputs))
        try:
            chain = self.open_chain()
            head = chain.current_block()
            commitments = chain.commitments(MODELS_NETUID)
        except ValidatorError as error:
            raise CommitmentUnknown(f"the chain does not say what {inputs.hotkey} committed: {error}") from None
        if head < inputs.block:
            raise CommitmentUnknown(f"the chain's endpoint is at block {head}, before the commitment's {inputs.block}")
        found = next((commitment for commitment in commitments if commitment.hotkey == inputs.hotkey), None)
        if found is None:
            raise NotCommitted(f"{inputs.hotkey} has no commitment on subnet {MODELS_NETUID}")
        try:
            model = parse_model_id(found.data, open_ended=self.open_ended)
        except UnreadableMetadata as error:
            if is_readable(found.data, open_ended=not self.open_ended):
                raise CommitmentUnknown(
                    f"by this node's COMPETITION_PROFILE what {inputs.hotkey} has committed is no model: {error}; "
                    "by another profile it is one, so that the caller's may differ"
                ) from None
            raise NotCommitted(f"what {inputs.hotkey} has committed is no model: {error}") from None
        if model.repository != inputs.hf_repo_id:
            raise NotCommitted(
                f"{inputs.hotkey} has committed {model.repository} at block {found.block}, not {inputs.hf_repo_id}"
            )
        if model.competition_id != inputs.competition_id:
            raise CommitmentSuperseded(
                f"{inputs.hotkey} has committed {model.repository} for competition {model.competition_id}, "
                f"not for {inputs.competition_id}"
            )
        if found.block != inputs.block:
            raise CommitmentSuperseded(
                f"{inputs.hotkey} has committed {model.repository} again at block {found.block}; "
                f"the version of block {inputs.block} is no longer evaluated"
            )
        return CommittedModel(model, now() - _blocks(head - found.block))


def unknown_offline(inputs: EvaluationInputs) -> str:
    """Why a model that is not in the store cannot be evaluated where the chain must not be asked."""
    return (
        f"which revision of {inputs.hf_repo_id} {inputs.hotkey} committed at block {inputs.block} is not in this "
        "node's store, and OFFLINE forbids asking the chain; unset it, or share the validator's DATABASE_URL"
    )


def _blocks(count: int) -> timedelta:
    return timedelta(seconds=count * BLOCK_SECONDS)
