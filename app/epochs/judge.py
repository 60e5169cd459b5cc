"""Judging an epoch: all scores are there; rank the submissions, find the winners, build the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.epochs.plan import models_left_out
from app.epochs.rules import rules_of
from app.epochs.scores import EpochScores
from app.store.records import OpenEpoch, PartState, SubmissionRecord, Verdict


@dataclass(frozen=True, slots=True)
class Outcome:
    """An epoch's end: what is written for each valid submission, the winners and the weights."""

    verdicts: tuple[Verdict, ...]
    winners: Mapping[str, int | None]
    weights: Mapping[int, float] | None
    warnings: tuple[str, ...]
    unjudged: Mapping[str, str]


def judge(
    epoch: OpenEpoch,
    submissions: Sequence[SubmissionRecord],
    scores: EpochScores,
    shared: Mapping[str, Any] | None = None,
) -> Outcome:
    """Rank the valid submissions and build the weight vector; ``shared`` is what other validators' exchange gave."""
    rules = rules_of(epoch)
    valid = [submission for submission in submissions if submission.state is PartState.VALID]
    notes = rules.share(valid, scores, shared)
    found = rules.combine(epoch, valid, scores)
    vector = rules.weights(found.winners, [neuron.uid for neuron in epoch.neurons], found.unjudged)
    warnings = [*scores.warnings(), *models_left_out(epoch).values(), *notes, *found.warnings]
    if vector.reason:
        warnings.append(vector.reason)
    return Outcome(found.verdicts, found.winners, vector.weights, tuple(warnings), found.unjudged)
