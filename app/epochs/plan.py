"""Planning an epoch's scoring: what each model is asked, in batches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from app.domain import ScoringModel
from app.epochs.rules import rules_of
from app.store.records import OpenEpoch, PartState, SubmissionRecord

BATCH_SIZE: Final = 32


def plan_batches(
    epoch: OpenEpoch, submissions: Sequence[SubmissionRecord]
) -> dict[ScoringModel, list[tuple[str, ...]]]:
    """What each model scores of the valid submissions, unique, in first-seen order, in batches of 32."""
    valid = [submission for submission in submissions if submission.state is PartState.VALID]
    left_out = models_left_out(epoch)
    return {
        model: _batched(items)
        for model, items in rules_of(epoch).candidates(epoch, valid).items()
        if model not in left_out
    }


def models_left_out(epoch: OpenEpoch) -> Mapping[ScoringModel, str]:
    """The models that this epoch does not run, each with the reason for the report."""
    # recorded scores cost nothing, and the recorded validator may have had them
    left_out = dict(rules_of(epoch).unneeded_models) if epoch.scores == "model" else {}
    if epoch.without_boltz:
        left_out[ScoringModel.BOLTZ] = "Boltz-2 was not run: the operator said --without-boltz"
    return left_out


def _batched(items: Iterable[str]) -> list[tuple[str, ...]]:
    unique = list(dict.fromkeys(items))
    return [tuple(unique[start : start + BATCH_SIZE]) for start in range(0, len(unique), BATCH_SIZE)]
