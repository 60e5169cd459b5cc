"""Scores, ranks and weights of two tracks, molecules and nanobodies, as of August 2026: pure maths over plain data."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from chain.incentive.molecules import WeightVector, pushed

Mode = Literal["max", "min"]
Strategy = Literal["heavy_atom_normalization", "average"]

MOLECULE: Final = "molecule"
NANOBODY: Final = "nanobody"

# Who receives what nobody won.
_BURN_UID: Final = 0

_PAYOUT_DECIMALS: Final = 8


def worst(mode: Mode) -> float:
    """What stands for a missing score: the far end of the scale."""
    return -math.inf if mode == "max" else math.inf


def binding_score(
    metrics: Mapping[str, float], wanted: Sequence[str], strategy: Strategy, heavy_atoms: int, mode: Mode
) -> float:
    """One molecule's score against one target, from Boltz-2's metrics.

    One metric is itself. Of two, ``heavy_atom_normalization`` is ``(first − second) / heavy atoms``; ``average`` is the
    arithmetic mean of all. A missing metric, and a molecule without heavy atoms, is the worst score.
    """
    values = [metrics[name] for name in wanted if name in metrics]
    if len(values) < len(wanted) or not all(math.isfinite(value) for value in values):
        return worst(mode)
    if len(values) == 1:
        return values[0]
    if strategy == "average":
        return sum(values) / len(values)
    return (values[0] - values[1]) / heavy_atoms if heavy_atoms else worst(mode)


def in_global_order(own: Mapping[int, Sequence[str]]) -> dict[int, list[str]]:
    """Each UID's distinct items, in the order in which the epoch saw them first (UIDs ascending)."""
    everything = dict.fromkeys(item for uid in sorted(own) for item in own[uid])
    wanted = {uid: set(items) for uid, items in own.items()}
    return {uid: [item for item in everything if item in items] for uid, items in wanted.items()}


@dataclass(frozen=True, slots=True)
class Contender:
    """One UID in one track.

    ``scores`` is [targets][items]; None is an item without a score. ``tie_keys`` decide between equal scores, the
    smaller first, before block and push time do.
    """

    uid: int
    block: float
    push_time: str
    scores: Sequence[Sequence[float | None]]
    tie_keys: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Place:
    """A UID's score and rank in one track. A score of None: it has fewer items than are counted."""

    score: float | None
    item_scores: tuple[float, ...]
    rank: int | None


def rank_track(
    contenders: Sequence[Contender], counted: int, mode: Mode, *, zero_is_missing: bool = True
) -> dict[int, Place]:
    """Score and rank one track, whatever the order of its contenders.

    An item's score is its mean over the targets, the worst where any is missing; a UID's is the sum over its first
    ``counted`` items. Quirk ``zero_is_missing``: a score of exactly zero is missing.
    """
    places = {one.uid: _scored(one, counted, mode, zero_is_missing) for one in contenders}
    finite = [one for one in contenders if (score := places[one.uid].score) is not None and math.isfinite(score)]
    sign = -1.0 if mode == "max" else 1.0

    def order(one: Contender) -> tuple[float, tuple[float, ...], float, datetime, int]:
        return sign * (places[one.uid].score or 0.0), one.tie_keys, one.block, pushed(one.push_time), one.uid

    for rank, one in enumerate(sorted(finite, key=order), start=1):
        place = places[one.uid]
        places[one.uid] = Place(place.score, place.item_scores, rank)
    return places


def _scored(one: Contender, counted: int, mode: Mode, zero_is_missing: bool) -> Place:
    missing = worst(mode)

    def known(score: float | None) -> float:
        return missing if score is None or not math.isfinite(score) or (zero_is_missing and score == 0) else score

    items = []
    for of_targets in zip(*one.scores, strict=False):
        values = [known(score) for score in of_targets]
        items.append(missing if missing in values else sum(values) / len(values))
    if len(items) < counted:
        return Place(None, tuple(items), None)
    return Place(sum(items[:counted]), tuple(items), None)


def winner(places: Mapping[int, Place]) -> int | None:
    """The UID of rank 1; None where nobody has a finite score."""
    return next((uid for uid, place in places.items() if place.rank == 1), None)


def track_weights(
    winners: Mapping[str, int | None],
    metagraph_uids: Collection[int],
    nanobody_weight: float,
    override_uid: int | None,
    unjudged: Mapping[str, str],
) -> WeightVector:
    """The epoch's weights: all on ``override_uid`` where there is one, else each winner's share.

    A share that nobody won goes to UID 0, so that there are weights also without a winner.
    """
    if gone := sorted(uid for uid in winners.values() if uid is not None and uid not in metagraph_uids):
        return WeightVector(None, f"winner UID {gone[0]} is not in the metagraph; no weights are set")
    if override_uid is not None:
        if override_uid == 0 or override_uid not in metagraph_uids:
            return WeightVector(None, f"override_uid {override_uid} is no UID to pay; no weights are set")
        return WeightVector({override_uid: 1.0})
    if unjudged:
        tracks = ", ".join(sorted(unjudged))
        return WeightVector(None, f"this validator could not judge the track(s) {tracks}; no weights are set")
    if _BURN_UID not in metagraph_uids:
        return WeightVector(None, f"UID {_BURN_UID} is not in the metagraph; no weights are set")
    shares: dict[int, float] = {}
    for track, share in ((MOLECULE, 1.0 - nanobody_weight), (NANOBODY, nanobody_weight)):
        uid = winners.get(track)
        receiver = _BURN_UID if uid is None else uid
        shares[receiver] = shares.get(receiver, 0.0) + share
    return WeightVector({uid: share for uid, share in sorted(shares.items()) if share != 0.0})


def payouts(winners: Mapping[str, int | None], nanobody_weight: float) -> list[tuple[str, int, float]]:
    """What the subnet's owner pays the winners off the chain: track, UID, share of the epoch's incentive."""
    shares = ((MOLECULE, 1.0 - nanobody_weight), (NANOBODY, nanobody_weight))
    return [
        (track, uid, round(share, _PAYOUT_DECIMALS))
        for track, share in shares
        if (uid := winners.get(track)) is not None
    ]
