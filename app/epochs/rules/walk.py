"""One track of one submission through its checks, in their order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

from app.domain import Rejection

I = TypeVar("I")  # noqa: E741  (an item on its way)


class Effect(StrEnum):
    """What an item's refusal means: for the items after it (STOP), or for itself alone (SKIP)."""

    STOP = "stop"
    SKIP = "skip"


class Policy(StrEnum):
    """What a stop means for the items accepted before it: lost with it, or kept."""

    ALL_OR_NOTHING = "all_or_nothing"
    PREFIX = "prefix"


@dataclass(frozen=True, slots=True)
class Check(Generic[I]):
    """Looks at one item: None where it passes. It may note on the item what later checks read."""

    of: Callable[[I], Rejection | None]
    effect: Effect = Effect.STOP


@dataclass(frozen=True, slots=True)
class TrackChecks(Generic[I]):
    """A track's checks: of all items before, of each item in turn, of all accepted items after."""

    before: tuple[Callable[[Sequence[I]], Rejection | None], ...]
    each: tuple[Check[I], ...]
    after: tuple[Callable[[Sequence[I]], Rejection | None], ...]
    policy: Policy


@dataclass(frozen=True, slots=True)
class Walked(Generic[I]):
    """The accepted items, or the rejection of the whole track; and what was said of single items, by index."""

    accepted: tuple[I, ...]
    rejection: Rejection | None
    refused: dict[int, Rejection]
    stopped_at: int | None = None


def walk(items: Sequence[I], checks: TrackChecks[I]) -> Walked[I]:
    """Judge the items of one track; the first rule that is broken decides."""
    for look in checks.before:
        if (refusal := look(items)) is not None:
            return Walked((), refusal, {})
    accepted: list[I] = []
    refused: dict[int, Rejection] = {}
    stopped_at = None
    for index, item in enumerate(items):
        found = _first_refusal(item, checks.each)
        if found is None:
            accepted.append(item)
            continue
        refused[index], effect = found
        if effect is Effect.STOP:
            if checks.policy is Policy.ALL_OR_NOTHING:
                return Walked((), refused[index], refused, index)
            stopped_at = index
            break
    for look in checks.after:
        if (refusal := look(accepted)) is not None:
            return Walked((), refusal, refused, stopped_at)
    return Walked(tuple(accepted), None, refused, stopped_at)


def _first_refusal(item: I, checks: Sequence[Check[I]]) -> tuple[Rejection, Effect] | None:
    for check in checks:
        if (refusal := check.of(item)) is not None:
            return refusal, check.effect
    return None
