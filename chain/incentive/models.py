"""Scores, pools and weights of the model competitions: pure maths."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeGuard

from app.domain import ReportedScore, ValidatorError
from app.untrusted import shown

PENALTY_SCORE: Final = 0.001
UNKNOWN_REPUTATION: Final = 0.5

_LATEST_SCORES: Final = 10
_RECENT_ZEROS: Final = 3
_FILTERED_FROM: Final = 3
_FEWEST_LEFT: Final = 2
_DEVIATION: Final = 0.10


class IncentiveError(ValidatorError):
    """What was given to the incentive contradicts itself."""


# -- one model's score from many validators ---------------------------------------------------------------------------


class CountedReport(NamedTuple):
    """A reported score that counts, its validator's stake, and its share of the mean (0 where no stake counts)."""

    report: ReportedScore
    stake: float
    share: float


@dataclass(frozen=True, slots=True)
class ModelScore:
    """A model's stake-weighted score, None where no stake stands behind it, and the reports it is made of."""

    score: float | None
    reports: tuple[CountedReport, ...]


def stake_weighted_score(reports: Sequence[ReportedScore], stakes: Mapping[str, float]) -> ModelScore:
    """One model's score from its validators' reports, newest first ('One model's score from many validators').

    ``stakes`` holds the metagraph's hotkeys; a validator that is not in it does not count.
    """
    known = [report for report in reports[:_LATEST_SCORES] if report.scorer in stakes]
    counted = within_median(without_stray_zeros(known))
    total = math.fsum(stakes[report.scorer] for report in counted)
    if total <= 0:
        return ModelScore(None, tuple(CountedReport(report, stakes[report.scorer], 0.0) for report in counted))
    shares = tuple(CountedReport(report, stakes[report.scorer], stakes[report.scorer] / total) for report in counted)
    return ModelScore(math.fsum(item.report.score * item.share for item in shares), shares)


def latest_score(reports: Sequence[ReportedScore], stakes: Mapping[str, float]) -> ModelScore:
    """One model's score as the latest report above 0, newest first, by a validator in the metagraph; else 0.

    None without any report.
    """
    known = [report for report in reports if report.scorer in stakes]
    if not known:
        return ModelScore(None, ())
    counted = next((report for report in known if report.score > 0), known[0])
    return ModelScore(counted.score, (CountedReport(counted, stakes[counted.scorer], 1.0),))


def without_stray_zeros(reports: Sequence[ReportedScore]) -> list[ReportedScore]:
    """Drop zeros, unless all scores are zero or the latest three are: then the model really fails."""
    recent = [report.score for report in reports[:_RECENT_ZEROS]]
    if len(recent) == _RECENT_ZEROS and not any(recent):
        return list(reports)
    return [report for report in reports if report.score != 0] or list(reports)


def within_median(reports: Sequence[ReportedScore]) -> list[ReportedScore]:
    """Keep the scores within ±10 % of their upper median, and penalty scores.

    Only scores above the penalty are judged: with fewer than 3 of them, or fewer than 2 left, all stay.
    """
    judged = [report for report in reports if report.score > PENALTY_SCORE]
    if len(judged) < _FILTERED_FROM:
        return list(reports)
    median = sorted(report.score for report in judged)[len(judged) // 2]
    low, high = median - _DEVIATION * median, median + _DEVIATION * median
    near = {id(report) for report in judged if low <= report.score <= high}
    if len(near) < _FEWEST_LEFT:
        return list(reports)
    return [report for report in reports if id(report) in near or report.score == PENALTY_SCORE]


def duplicates(models: Sequence[tuple[int, int, frozenset[str]]]) -> set[int]:
    """UIDs whose model another committed before, within one competition ('Model metadata').

    ``models`` are (UID, commitment block, the model's known hashes). The older block keeps a hash; of one block the
    lower UID.
    """
    owner: set[str] = set()
    copies: set[int] = set()
    for uid, _, hashes in sorted(models, key=lambda model: (model[1], model[0])):
        if hashes & owner:
            copies.add(uid)
        owner |= hashes
    return copies


# -- reputation -------------------------------------------------------------------------------------------------------

REPUTATION_STEP: Final = 0.005


def reputation_after(reputation: float, score: float | None, baseline: float) -> float:
    """One daily step: ``r ← (1 − a)·r + a·[score > baseline]``; without a score unchanged ('Reputation')."""
    if score is None:
        return reputation
    return (1 - REPUTATION_STEP) * reputation + REPUTATION_STEP * (score > baseline)


# -- the two pools ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class IncentiveRules:
    """The numbers of the two-pool incentive ('Two-pool baseline incentive')."""

    players_above: int = 3
    players_below: int = 10
    above_share: float = 0.75
    below_share: float = 0.25
    temperature: float = 0.01
    reputation_weight: float = 0.7
    burn_uid: int = 111


@dataclass(frozen=True, slots=True)
class Competition:
    """A competition as the incentive sees it. ``scores`` by UID; ``baseline`` None where none was set."""

    id: str
    reward_percentage: float
    baseline: float | None
    scores: Mapping[int, float]


@dataclass(frozen=True, slots=True)
class Pools:
    """UIDs of both pools, best first."""

    above: tuple[int, ...] = ()
    below: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Share:
    """Why a UID gets something of a competition: its pool (above, below, burn) and its part of the new vector."""

    uid: int
    competition: str
    pool: str
    score: float | None
    reputation: float | None
    weight: float


@dataclass(frozen=True, slots=True)
class Incentive:
    """The weights by UID over the whole metagraph, summing to 1 (empty where nobody gets any), and how they came.

    ``new`` are the weights before the EMA; ``by_hotkey`` is ``weights`` as the next EMA step wants them.
    """

    weights: Mapping[int, float]
    new: Mapping[int, float]
    by_hotkey: Mapping[str, float]
    pools: Mapping[str, Pools]
    shares: tuple[Share, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(slots=True)
class _Ledger:
    """What adds up while the competitions are gone through. ``largest`` is the unit of their percentages."""

    largest: float
    shares: list[Share] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def softmax(values: Sequence[float], temperature: float = 1.0) -> list[float]:
    """Softmax of ``values / temperature``, shifted by the maximum first, so that nothing overflows."""
    if not values:
        return []
    top = max(values)
    powers = [math.exp((value - top) / temperature) for value in values]
    total = math.fsum(powers)
    return [power / total for power in powers]


def form_pools(scores: Mapping[int, float], baseline: float, rules: IncentiveRules) -> Pools:
    """The best above the baseline, and the best of the rest with a score; equal scores: lower UID first."""
    order = sorted(scores, key=lambda uid: (-scores[uid], uid))
    above = tuple(uid for uid in order if scores[uid] > baseline)[: rules.players_above]
    below = tuple(uid for uid in order if uid not in above and scores[uid] > 0)[: rules.players_below]
    return Pools(above, below)


def incentive(
    hotkeys: Mapping[int, str],
    competitions: Sequence[Competition],
    reputations: Mapping[str, float],
    *,
    previous: Mapping[str, float] | None = None,
    alpha: float = 0.0,
    rules: IncentiveRules | None = None,
) -> Incentive:
    """The subnet's weights: pools per competition, summed by percentage, then the EMA ('Two-pool baseline incentive').

    ``hotkeys`` is the metagraph by UID, ``reputations`` and ``previous`` (the last round's weights) are by hotkey.

    Raises:
        IncentiveError: ``alpha`` outside [0, 1], a percentage that is negative or no number, a competition twice.
    """
    rules = rules or IncentiveRules()
    _check(hotkeys, competitions, alpha)
    ledger = _Ledger(largest=max((competition.reward_percentage for competition in competitions), default=0.0) or 1.0)
    pools: dict[str, Pools] = {}
    for competition in sorted(competitions, key=lambda item: item.id):
        pools[competition.id] = _share_out(competition, hotkeys, reputations, rules, ledger)
    earned: dict[int, list[float]] = {uid: [] for uid in hotkeys}
    for share in ledger.shares:
        earned[share.uid].append(share.weight)
    new = _normalised({uid: math.fsum(earned[uid]) for uid in sorted(hotkeys)})
    if not new:
        ledger.warnings.append("no competition gives anyone a weight")
    before = previous or {}
    weights = _normalised(
        {
            uid: alpha * _number(before.get(hotkeys[uid], 0.0)) + (1 - alpha) * new.get(uid, 0.0)
            for uid in sorted(hotkeys)
        }
    )
    scale = math.fsum(share.weight for share in ledger.shares)
    return Incentive(
        weights=weights,
        new=new,
        by_hotkey={hotkeys[uid]: weight for uid, weight in weights.items()},
        pools=pools,
        shares=tuple(
            Share(s.uid, s.competition, s.pool, s.score, s.reputation, s.weight / scale)
            for s in ledger.shares
            if scale > 0
        ),
        warnings=tuple(ledger.warnings),
    )


def unchanged(hotkeys: Mapping[int, str], previous: Mapping[str, float], why: str) -> Incentive:
    """The last round's weights once more, on the UIDs that its hotkeys have now, and the warning why."""
    weights = _normalised({uid: _number(previous.get(hotkeys[uid], 0.0)) for uid in sorted(hotkeys)})
    return Incentive(
        weights=weights,
        new={},
        by_hotkey={hotkeys[uid]: weight for uid, weight in weights.items()},
        pools={},
        warnings=(f"{why}: the last round's weights are sent again",),
    )


def _share_out(
    competition: Competition,
    hotkeys: Mapping[int, str],
    reputations: Mapping[str, float],
    rules: IncentiveRules,
    ledger: _Ledger,
) -> Pools:
    """Both pools of one competition; adds its shares, percentage included, to the ledger."""
    baseline = competition.baseline
    if not _is_number(baseline):
        ledger.warnings.append(
            f"competition {competition.id} has no baseline, so it sets no weights; "
            f"set one with: python -m app competition set-baseline {competition.id} SCORE"
        )
        return Pools()
    scores = {uid: _score(competition, uid, ledger) for uid in sorted(hotkeys)}
    pools = form_pools(scores, baseline, rules)
    reputation = {uid: _reputation(reputations.get(hotkeys[uid])) for uid in pools.below}
    parts: list[Share] = []

    def add(pool: str, uids: Sequence[int], softmaxed: Sequence[float], whole: float) -> None:
        for uid, part in zip(uids, softmaxed, strict=True):
            known = reputation.get(uid)
            parts.append(Share(uid, competition.id, pool, scores[uid], known, whole * part))

    if pools.above:
        above = softmax([scores[uid] for uid in pools.above], rules.temperature)
        add("above", pools.above, above, rules.above_share)
    elif rules.burn_uid in hotkeys:
        parts.append(Share(rules.burn_uid, competition.id, "burn", None, None, rules.above_share))
    else:
        ledger.warnings.append(
            f"nobody is above the baseline of competition {competition.id}, and burn UID {rules.burn_uid} is not in "
            "the metagraph: its share is left out"
        )
    mixed = [
        rules.reputation_weight * reputation[uid] + (1 - rules.reputation_weight) * scores[uid] for uid in pools.below
    ]
    add("below", pools.below, softmax(mixed), rules.below_share)
    total = math.fsum(share.weight for share in parts)
    part_of_all = competition.reward_percentage / ledger.largest
    ledger.shares += [
        Share(s.uid, s.competition, s.pool, s.score, s.reputation, s.weight / total * part_of_all) for s in parts
    ]
    return pools


def _check(hotkeys: Mapping[int, str], competitions: Sequence[Competition], alpha: float) -> None:
    if not 0 <= alpha <= 1:
        raise IncentiveError(f"alpha is {alpha}; it must lie between 0 (EMA off) and 1")
    seen: set[str] = set()
    for competition in competitions:
        if competition.id in seen:
            raise IncentiveError(f"competition {competition.id!r} is given twice; give each competition once")
        seen.add(competition.id)
        if not (_is_number(competition.reward_percentage) and competition.reward_percentage >= 0):
            raise IncentiveError(
                f"competition {competition.id!r} has reward_percentage {shown(competition.reward_percentage)}; "
                "it must be a number that is not negative"
            )
    if len(set(hotkeys.values())) != len(hotkeys):
        raise IncentiveError("a hotkey stands under two UIDs; the metagraph has each hotkey once")


def _score(competition: Competition, uid: int, ledger: _Ledger) -> float:
    score = competition.scores.get(uid, 0.0)
    if _is_number(score):
        return score
    ledger.warnings.append(f"competition {competition.id}: the score of UID {uid} is {shown(score)}; it counts as 0")
    return 0.0


def _is_number(value: object) -> TypeGuard[float]:
    """Whether a value from outside, whatever its annotation says, is a finite number that a float can hold."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= sys.float_info.max


def _reputation(known: float | None) -> float:
    return known if _is_number(known) else UNKNOWN_REPUTATION


def _number(weight: float) -> float:
    return weight if _is_number(weight) and weight > 0 else 0.0


def _normalised(weights: Mapping[int, float]) -> dict[int, float]:
    """Weights summing to 1; empty where all are 0. Scaled by the largest first, so that no sum overflows."""
    top = max(weights.values(), default=0.0)
    if top <= 0:
        return {}
    scaled = {uid: weight / top for uid, weight in weights.items()}
    total = math.fsum(scaled.values())
    return {uid: weight / total for uid, weight in scaled.items()}
