"""Which model is scored next: pure, so that the order can be read and tested."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum
from typing import Final

WINNER_RESCORED_AFTER: Final = timedelta(days=7)
RESCORED_AFTER: Final = timedelta(days=5)
ENOUGH_SCORES: Final = 5
HOPELESS_AFTER: Final = 10


class Priority(IntEnum):
    """The queue's tiers, most urgent first."""

    NEW = 1
    NEVER_SCORED = 2
    LONG_AGO = 3
    HOPELESS = 4
    DUE = 5
    REST = 6


@dataclass(frozen=True, slots=True)
class Candidate:
    """What the queue knows of a model that may be taken. Scores are those of its current version."""

    hotkey: str
    is_new: bool
    scores: int = 0
    non_zero_scores: int = 0
    best_score: float | None = None
    last_scored_at: datetime | None = None


def priority(model: Candidate, now: datetime) -> Priority:
    """The tier of one model.

    A model with more than 10 scores, all zero, the last within 5 days stands below those whose turn comes after a
    week, although it never had a score above zero: it would else be scored for ever.
    """
    since = None if model.last_scored_at is None else now - model.last_scored_at
    if model.is_new:
        return Priority.NEW
    if model.non_zero_scores == 0:
        recently = since is not None and since <= RESCORED_AFTER
        return Priority.HOPELESS if model.scores > HOPELESS_AFTER and recently else Priority.NEVER_SCORED
    if since is None or since > WINNER_RESCORED_AFTER:
        return Priority.LONG_AGO
    if since > RESCORED_AFTER or model.scores < ENOUGH_SCORES:
        return Priority.DUE
    return Priority.REST


def queue_order(models: Sequence[Candidate], now: datetime, chance: random.Random) -> list[str]:
    """Hotkeys, next first. Within a tier chance decides, but the best score of the third tier goes first."""
    ranked: list[tuple[int, float, float, str]] = []
    long_ago = [m.best_score or 0.0 for m in models if priority(m, now) is Priority.LONG_AGO]
    top = max(long_ago, default=0.0)
    for model in sorted(models, key=lambda m: m.hotkey):
        tier = priority(model, now)
        is_top = tier is Priority.LONG_AGO and (model.best_score or 0.0) == top
        ranked.append((tier, 0 if is_top else 1, chance.random(), model.hotkey))
    return [hotkey for *_, hotkey in sorted(ranked)]
