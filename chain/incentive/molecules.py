"""Ranking and weights of the molecule epoch as of October 2025: pure maths over plain data."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal, Protocol

from app.domain import MINUS_INFINITY

UNKNOWN_PUSH: Final = datetime.max.replace(tzinfo=UTC)


class ScoreParameters(Protocol):
    """The numbers that scores and ranks depend on."""

    @property
    def antitarget_weight(self) -> float: ...
    @property
    def entropy_bonus_threshold(self) -> float: ...
    @property
    def entropy_start_weight(self) -> float: ...
    @property
    def entropy_start_epoch(self) -> int: ...
    @property
    def entropy_step_size(self) -> float: ...
    @property
    def molecule_repetition_weight(self) -> float: ...
    @property
    def molecule_repetition_threshold(self) -> float: ...
    @property
    def num_molecules_boltz(self) -> int: ...
    @property
    def sample_selection(self) -> Literal["first", "random"]: ...


class WeightParameters(Protocol):
    """The numbers that the weight vector depends on."""

    @property
    def boltz_weight(self) -> float: ...
    @property
    def burn_rate(self) -> float: ...
    @property
    def burn_uid(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Entrant:
    """What ranking knows of one valid submission.

    ``target_scores`` and ``antitarget_scores`` are [molecules][proteins], −inf where a pair has no score.
    ``boltz`` holds the metric of each scored candidate; ``entropy_boltz`` is None where it is not defined.
    """

    uid: int
    block: int
    push_time: str
    names: tuple[str, ...]
    target_scores: tuple[tuple[float, ...], ...]
    antitarget_scores: tuple[tuple[float, ...], ...]
    entropy: float | None
    boltz: tuple[float, ...] = ()
    entropy_boltz: float | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    """One submission's scores (−inf where a part is missing) and ranks (1 is the winner, None without a score)."""

    uid: int
    molecule_scores: tuple[float, ...]
    psichic_score: float
    boltz_score: float
    psichic_rank: int | None
    boltz_rank: int | None


@dataclass(frozen=True, slots=True)
class Ranking:
    """Standings, UIDs ascending, and the winner of each model (None where nobody has a score)."""

    standings: tuple[Standing, ...]
    psichic_winner: int | None
    boltz_winner: int | None


def entropy_weight(epoch: int, rules: ScoreParameters) -> float:
    """``max(0, start_weight + (epoch − start_epoch) · step)``."""
    return max(0.0, rules.entropy_start_weight + (epoch - rules.entropy_start_epoch) * rules.entropy_step_size)


def boltz_candidates(uid: int, molecules: int, end_block_hash: str, rules: ScoreParameters) -> tuple[int, ...]:
    """Indices of the molecules that Boltz-2 scores: the first k, or k drawn by the end block's hash and UID."""
    k = min(rules.num_molecules_boltz, molecules)
    if rules.sample_selection == "first":
        return tuple(range(k))
    seed = int(end_block_hash.removeprefix("0x"), 16) + uid
    return tuple(random.Random(seed).sample(range(molecules), k))


def molecule_score(targets: Sequence[float], antitargets: Sequence[float], antitarget_weight: float) -> float:
    """``mean(targets) − antitarget_weight · mean(antitargets)``; −inf if any part is not finite."""
    if not targets or not all(math.isfinite(score) for score in (*targets, *antitargets)):
        return MINUS_INFINITY
    selective = sum(antitargets) / len(antitargets) if antitargets else 0.0
    return sum(targets) / len(targets) - antitarget_weight * selective


def repetition_adjusted(score: float, count: int, rules: ScoreParameters) -> float:
    """A molecule's score after the penalty for names that several UIDs submitted; −inf stays −inf."""
    weight = rules.molecule_repetition_weight
    if weight == 0 or score == MINUS_INFINITY:
        return score
    factor = weight * count
    adjusted = score / factor if score > rules.molecule_repetition_threshold else score * factor
    # a weight next to zero overflows; an infinite score would win everything
    return adjusted if math.isfinite(adjusted) else MINUS_INFINITY


def rank(entrants: Sequence[Entrant], epoch: int, limits: ScoreParameters, *, zero_is_missing: bool = False) -> Ranking:
    """Score and rank all valid submissions of an epoch, whatever their order.

    ``zero_is_missing``: a PSICHIC score of exactly 0.0 counts as −inf.
    """
    entrants = sorted(entrants, key=lambda entrant: entrant.uid)
    occurrences = Counter(name for entrant in entrants for name in entrant.names)
    weight = entropy_weight(epoch, limits)
    by_molecule = [_molecule_scores(entrant, occurrences, limits, zero_is_missing) for entrant in entrants]
    psichic = {
        entrant.uid: _with_entropy(_sum(scores), entrant.entropy, weight, limits.entropy_bonus_threshold)
        for entrant, scores in zip(entrants, by_molecule, strict=True)
    }
    boltz = {entrant.uid: _boltz_score(entrant, weight, limits) for entrant in entrants}
    psichic_order, boltz_order = _order(entrants, psichic), _order(entrants, boltz)
    standings = tuple(
        Standing(
            uid=entrant.uid,
            molecule_scores=scores,
            psichic_score=psichic[entrant.uid],
            boltz_score=boltz[entrant.uid],
            psichic_rank=_place(entrant.uid, psichic_order),
            boltz_rank=_place(entrant.uid, boltz_order),
        )
        for entrant, scores in zip(entrants, by_molecule, strict=True)
    )
    return Ranking(
        standings,
        psichic_order[0] if psichic_order else None,
        boltz_order[0] if boltz_order else None,
    )


def _molecule_scores(
    entrant: Entrant, occurrences: Mapping[str, int], limits: ScoreParameters, zero_is_missing: bool
) -> tuple[float, ...]:
    def known(scores: Sequence[float]) -> list[float]:
        return [MINUS_INFINITY if zero_is_missing and score == 0.0 else score for score in scores]

    return tuple(
        repetition_adjusted(
            molecule_score(known(targets), known(antitargets), limits.antitarget_weight), occurrences[name], limits
        )
        for name, targets, antitargets in zip(
            entrant.names, entrant.target_scores, entrant.antitarget_scores, strict=True
        )
    )


def _sum(scores: Sequence[float]) -> float:
    return sum(scores) if scores else MINUS_INFINITY


def _with_entropy(score: float, entropy: float | None, weight: float, threshold: float) -> float:
    if math.isfinite(score) and score > threshold and entropy is not None:
        return score * (1 + weight * entropy)
    return score


def _boltz_score(entrant: Entrant, weight: float, rules: ScoreParameters) -> float:
    scored = [value for value in entrant.boltz if math.isfinite(value)]
    if not scored:
        return MINUS_INFINITY
    mean = sum(scored) / len(scored)
    if rules.num_molecules_boltz > 1 and entrant.entropy_boltz is not None and entrant.entropy_boltz > 0:
        return _with_entropy(mean, entrant.entropy_boltz, weight, rules.entropy_bonus_threshold)
    return mean


def _order(entrants: Sequence[Entrant], scores: Mapping[int, float]) -> list[int]:
    """UIDs with a score, best first: score rounded to 4 decimals, then earliest block, push time, lowest UID."""
    ranked = [entrant for entrant in entrants if math.isfinite(scores[entrant.uid])]
    ranked.sort(
        key=lambda entrant: (
            -round(scores[entrant.uid], 4),
            entrant.block,
            pushed(entrant.push_time),
            entrant.uid,
        )
    )
    return [entrant.uid for entrant in ranked]


def pushed(push_time: str) -> datetime:
    """The instant of a push; unknown or unreadable sorts last."""
    try:
        instant = datetime.fromisoformat(push_time)
    except ValueError:
        return UNKNOWN_PUSH
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)


def _place(uid: int, order: Sequence[int]) -> int | None:
    return order.index(uid) + 1 if uid in order else None


@dataclass(frozen=True, slots=True)
class WeightVector:
    """Non-zero weights by UID, summing to 1; or None with the reason that nothing may be submitted."""

    weights: Mapping[int, float] | None
    reason: str | None = None


def weight_vector(
    psichic_winner: int | None,
    boltz_winner: int | None,
    metagraph_uids: Sequence[int],
    competition: WeightParameters,
    *,
    uid_zero_never_wins: bool = False,
) -> WeightVector:
    """The epoch's weights over the metagraph. ``uid_zero_never_wins``: UID 0 counts as no winner."""
    winners = [psichic_winner, boltz_winner]
    if uid_zero_never_wins:
        winners = [None if winner == 0 else winner for winner in winners]
    psichic, boltz = winners
    if psichic is None and boltz is None:
        return WeightVector(None, "no submission has a score, so there is no winner and no weights are set")
    known = set(metagraph_uids)
    if missing := sorted({uid for uid in (psichic, boltz) if uid is not None} - known):
        return WeightVector(None, f"winner UID {missing[0]} is not in the metagraph; no weights are set")
    if competition.burn_rate > 0 and competition.burn_uid not in known:
        return WeightVector(None, f"burn_uid {competition.burn_uid} is not in the metagraph; no weights are set")
    rest = 1.0 - competition.burn_rate
    shares: dict[int, float] = {}

    def add(uid: int, share: float) -> None:
        shares[uid] = shares.get(uid, 0.0) + share

    add(competition.burn_uid, competition.burn_rate)
    if psichic is None or boltz is None or psichic == boltz:
        add(next(uid for uid in (psichic, boltz) if uid is not None), rest)
    else:
        add(psichic, rest * (1.0 - competition.boltz_weight))
        add(boltz, rest * competition.boltz_weight)
    return WeightVector({uid: share for uid, share in sorted(shares.items()) if share != 0.0})
