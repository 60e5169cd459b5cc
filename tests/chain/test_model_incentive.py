"""The models' incentive: worked examples by hand for every branch, and laws."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain import ReportedScore
from chain.incentive.models import (
    PENALTY_SCORE,
    Competition,
    IncentiveError,
    IncentiveRules,
    duplicates,
    form_pools,
    incentive,
    reputation_after,
    softmax,
    stake_weighted_score,
    within_median,
    without_stray_zeros,
)

HOTKEYS = {uid: f"hk{uid}" for uid in (0, 1, 2, 3, 4, 111)}


def reports(*scores: float) -> list[ReportedScore]:
    return [ReportedScore(f"v{index}", score) for index, score in enumerate(scores)]


def values(found: list[ReportedScore]) -> list[float]:
    return [report.score for report in found]


# -- one model's score ------------------------------------------------------------------------------------------------


def test_the_score_is_the_stake_weighted_mean() -> None:
    found = stake_weighted_score(reports(0.4, 0.8), {"v0": 30_000.0, "v1": 10_000.0})
    assert found.score == pytest.approx(0.5)
    assert [item.share for item in found.reports] == [0.75, 0.25]


def test_validators_outside_the_metagraph_do_not_count() -> None:
    assert stake_weighted_score(reports(0.4, 0.8), {"v0": 1.0}).score == 0.4
    assert stake_weighted_score(reports(0.4, 0.8), {}).score is None


def test_no_stake_gives_no_score() -> None:
    assert stake_weighted_score(reports(0.4), {"v0": 0.0}).score is None
    assert stake_weighted_score([], {"v0": 1.0}).score is None


def test_only_the_latest_ten_count() -> None:
    scores = [ReportedScore("v", 0.5)] * 10 + [ReportedScore("v", 0.9)] * 5
    assert stake_weighted_score(scores, {"v": 1.0}).score == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("scores", "kept"),
    [
        ([0.0, 0.0], [0.0, 0.0]),
        ([0.0, 0.0, 0.0, 0.5], [0.0, 0.0, 0.0, 0.5]),
        ([0.0, 0.0, 0.5], [0.5]),
        ([0.5, 0.0, 0.0, 0.0], [0.5]),
        ([0.0, 0.5], [0.5]),
        ([0.0, PENALTY_SCORE], [PENALTY_SCORE]),
    ],
)
def test_zeros_count_only_where_all_or_the_latest_three_are_zero(scores: list[float], kept: list[float]) -> None:
    assert values(without_stray_zeros(reports(*scores))) == kept


@pytest.mark.parametrize(
    ("scores", "kept"),
    [
        # fewer than three to judge: all stay
        ([0.1, 0.9], [0.1, 0.9]),
        ([0.1, 0.9, PENALTY_SCORE], [0.1, 0.9, PENALTY_SCORE]),
        # median 0.5, band 0.45 to 0.55, ends included
        ([0.5, 0.45, 0.55, 0.56, 0.44], [0.5, 0.45, 0.55]),
        # upper median of four: 0.6, band 0.54 to 0.66
        ([0.4, 0.5, 0.6, 0.65], [0.6, 0.65]),
        # one left near the median: all stay
        ([0.1, 0.5, 0.9], [0.1, 0.5, 0.9]),
        # penalties stay beside the filtered
        ([0.5, PENALTY_SCORE, 0.51, 0.9], [0.5, PENALTY_SCORE, 0.51]),
        # zeros that were kept leave only where three others agree
        ([0.0, 0.0, 0.0, 0.5, 0.5], [0.0, 0.0, 0.0, 0.5, 0.5]),
        ([0.0, 0.0, 0.0, 0.5, 0.5, 0.5], [0.5, 0.5, 0.5]),
    ],
)
def test_scores_far_from_the_upper_median_go(scores: list[float], kept: list[float]) -> None:
    assert values(within_median(reports(*scores))) == pytest.approx(kept)


def test_the_older_block_keeps_a_hash_and_of_one_block_the_lower_uid() -> None:
    copy, own = frozenset({"h"}), frozenset({"other"})
    assert duplicates([(5, 100, copy), (3, 200, copy), (7, 50, own)]) == {3}
    assert duplicates([(5, 100, copy), (3, 100, copy)]) == {5}
    assert duplicates([(1, 10, frozenset()), (2, 20, frozenset())]) == set()


def test_reputation_moves_by_half_a_percent() -> None:
    assert reputation_after(0.5, 0.9, 0.5) == pytest.approx(0.5025)
    assert reputation_after(0.5, 0.5, 0.5) == pytest.approx(0.4975)
    assert reputation_after(0.5, None, 0.5) == 0.5


# -- the pools --------------------------------------------------------------------------------------------------------


def test_pools_take_the_best_and_lower_uids_first() -> None:
    scores = {9: 0.6, 4: 0.7, 2: 0.6, 7: 0.9, 1: 0.5, 3: 0.0, 8: -0.2}
    pools = form_pools(scores, 0.5, IncentiveRules())
    assert pools.above == (7, 4, 2)
    # the fourth above the baseline plays below; a score at the baseline is not above it; no score, no place
    assert pools.below == (9, 1)


def test_the_pool_below_has_ten_places() -> None:
    pools = form_pools(dict.fromkeys(range(15), 0.3), 0.5, IncentiveRules())
    assert pools.above == ()
    assert pools.below == tuple(range(10))


def test_weights_by_hand() -> None:
    found = incentive(HOTKEYS, [Competition("a", 1.0, 0.5, {0: 0.61, 1: 0.60, 2: 0.4, 3: 0.3})], {"hk3": 0.9})
    first, second = math.e / (math.e + 1), 1 / (math.e + 1)
    low, high = math.exp(0.7 * 0.5 + 0.3 * 0.4), math.exp(0.7 * 0.9 + 0.3 * 0.3)
    assert found.weights == pytest.approx(
        {
            0: 0.75 * first,
            1: 0.75 * second,
            2: 0.25 * low / (low + high),
            3: 0.25 * high / (low + high),
            4: 0.0,
            111: 0.0,
        }
    )
    assert found.warnings == ()


def test_nobody_above_burns_three_quarters() -> None:
    found = incentive(HOTKEYS, [Competition("a", 1.0, 0.5, {0: 0.4})], {})
    assert {uid: w for uid, w in found.weights.items() if w} == pytest.approx({0: 0.25, 111: 0.75})


def test_nobody_below_leaves_the_share_out() -> None:
    found = incentive(HOTKEYS, [Competition("a", 1.0, 0.5, {0: 0.9})], {})
    assert {uid: w for uid, w in found.weights.items() if w} == pytest.approx({0: 1.0})


def test_nobody_at_all_burns_everything() -> None:
    found = incentive(HOTKEYS, [Competition("a", 1.0, 0.5, {})], {})
    assert {uid: w for uid, w in found.weights.items() if w} == pytest.approx({111: 1.0})


def test_a_burn_uid_that_also_plays_gets_both() -> None:
    found = incentive(HOTKEYS, [Competition("a", 1.0, 0.5, {111: 0.4, 0: 0.4})], {})
    assert {uid: w for uid, w in found.weights.items() if w} == pytest.approx({111: 0.875, 0: 0.125})


def test_a_burn_uid_outside_the_metagraph_is_left_out_with_a_warning() -> None:
    found = incentive({0: "a", 1: "b"}, [Competition("a", 1.0, 0.5, {0: 0.4})], {})
    assert found.weights == pytest.approx({0: 1.0, 1: 0.0})
    assert any("burn UID 111" in warning for warning in found.warnings)
    empty = incentive({0: "a"}, [Competition("a", 1.0, 0.5, {})], {})
    assert empty.weights == {}


def test_a_competition_without_baseline_sets_nothing_and_says_so() -> None:
    competitions = [Competition("a", 0.6, None, {0: 0.9}), Competition("b", 0.4, 0.5, {1: 0.9})]
    found = incentive(HOTKEYS, competitions, {})
    assert {uid: w for uid, w in found.weights.items() if w} == pytest.approx({1: 1.0})
    assert any("competition a has no baseline" in warning for warning in found.warnings)
    assert incentive(HOTKEYS, competitions[:1], {}).weights == {}


def test_a_baseline_of_zero_is_a_baseline() -> None:
    found = incentive(HOTKEYS, [Competition("a", 1.0, 0.0, {0: 0.1})], {})
    assert found.weights[0] == pytest.approx(1.0)


def test_competitions_add_up_by_percentage() -> None:
    competitions = [Competition("a", 0.7, 0.5, {0: 0.9}), Competition("b", 0.3, 0.5, {1: 0.9})]
    found = incentive(HOTKEYS, competitions, {})
    assert {uid: w for uid, w in found.weights.items() if w} == pytest.approx({0: 0.7, 1: 0.3})
    # one vector each, normalised before its percentage: a missing pool does not make a competition smaller
    competitions = [Competition("a", 0.7, 0.5, {0: 0.9, 2: 0.2}), Competition("b", 0.3, 0.5, {1: 0.9})]
    found = incentive(HOTKEYS, competitions, {})
    assert {uid: w for uid, w in found.weights.items() if w} == pytest.approx({0: 0.525, 2: 0.175, 1: 0.3})


def test_scores_that_are_no_numbers_count_as_zero() -> None:
    found = incentive(HOTKEYS, [Competition("a", 1.0, 0.5, {0: math.nan, 1: math.inf, 2: 0.9})], {"hk2": math.nan})
    assert {uid: w for uid, w in found.weights.items() if w} == pytest.approx({2: 1.0})
    assert len(found.warnings) == 2


# -- the EMA ----------------------------------------------------------------------------------------------------------


def test_the_ema_follows_hotkeys() -> None:
    competition = Competition("a", 1.0, 0.5, {0: 0.9})
    previous = {"hk0": 0.2, "hk1": 0.3, "gone": 0.5}
    found = incentive(HOTKEYS, [competition], {}, previous=previous, alpha=0.9)
    # 0.9·0.2 + 0.1·1 = 0.28 and 0.9·0.3 = 0.27; who is gone takes no part; normalised over 0.55
    assert {uid: w for uid, w in found.weights.items() if w} == pytest.approx({0: 0.28 / 0.55, 1: 0.27 / 0.55})
    assert found.by_hotkey["hk1"] == pytest.approx(0.27 / 0.55)
    assert found.new[0] == 1.0


def test_a_uid_that_changed_hands_starts_from_zero() -> None:
    hotkeys = HOTKEYS | {1: "new owner"}
    found = incentive(hotkeys, [Competition("a", 1.0, 0.5, {0: 0.9})], {}, previous={"hk1": 1.0}, alpha=0.9)
    assert found.weights[1] == 0.0


def test_alpha_zero_turns_the_ema_off_and_nan_counts_as_zero() -> None:
    competition = Competition("a", 1.0, 0.5, {0: 0.9})
    off = incentive(HOTKEYS, [competition], {}, previous={"hk1": 1.0}, alpha=0.0)
    assert off.weights[0] == 1.0
    found = incentive(HOTKEYS, [competition], {}, previous={"hk1": math.nan, "hk0": 0.5}, alpha=0.5)
    assert found.weights[1] == 0.0
    assert found.weights[0] == 1.0


def test_without_new_weights_the_ema_keeps_the_old() -> None:
    found = incentive(HOTKEYS, [], {}, previous={"hk0": 0.5, "hk1": 0.5}, alpha=0.9)
    assert {uid: w for uid, w in found.weights.items() if w} == pytest.approx({0: 0.5, 1: 0.5})


@pytest.mark.parametrize("alpha", [-0.1, 1.1, math.nan])
def test_a_wrong_alpha_is_refused(alpha: float) -> None:
    with pytest.raises(IncentiveError, match="alpha"):
        incentive(HOTKEYS, [], {}, alpha=alpha)


def test_contradictions_are_refused() -> None:
    with pytest.raises(IncentiveError, match="twice"):
        incentive(HOTKEYS, [Competition("a", 1, 0, {}), Competition("a", 1, 0, {})], {})
    with pytest.raises(IncentiveError, match="reward_percentage"):
        incentive(HOTKEYS, [Competition("a", -1, 0, {})], {})
    with pytest.raises(IncentiveError, match="two UIDs"):
        incentive({0: "a", 1: "a"}, [], {})


# -- laws -------------------------------------------------------------------------------------------------------------

finite = st.floats(allow_nan=False, allow_infinity=False)
tables = st.dictionaries(st.integers(0, 200), finite, max_size=30)


@settings(max_examples=150, deadline=None)
@given(
    scores=tables,
    other=tables,
    baseline=finite,
    percentages=st.tuples(st.floats(0, 1e300), st.floats(0, 1e300)),
    previous=st.dictionaries(st.integers(0, 200), st.floats(0, 1e308), max_size=10),
    alpha=st.floats(0, 1),
    burn_uid=st.sampled_from([0, 111, 999]),
)
def test_weights_are_finite_and_sum_to_one(
    scores: dict[int, float],
    other: dict[int, float],
    baseline: float,
    percentages: tuple[float, float],
    previous: dict[int, float],
    alpha: float,
    burn_uid: int,
) -> None:
    hotkeys = {uid: f"hk{uid}" for uid in range(0, 201, 2)}
    found = incentive(
        hotkeys,
        [Competition("a", percentages[0], baseline, scores), Competition("b", percentages[1], 0.5, other)],
        {},
        previous={f"hk{uid}": weight for uid, weight in previous.items()},
        alpha=alpha,
        rules=IncentiveRules(burn_uid=burn_uid),
    )
    assert all(math.isfinite(weight) and weight >= 0 for weight in found.weights.values())
    assert not found.weights or math.fsum(found.weights.values()) == pytest.approx(1.0)
    assert not found.weights or set(found.weights) == set(hotkeys)


@settings(max_examples=50, deadline=None)
@given(scores=tables, seed=st.integers(0, 1000))
def test_the_order_of_uids_and_competitions_does_not_matter(scores: dict[int, float], seed: int) -> None:
    chance = random.Random(seed)
    uids = list(range(201))
    shuffled = chance.sample(uids, len(uids))
    competitions = [Competition("a", 0.3, 0.5, scores), Competition("b", 0.7, -1.0, dict(reversed(scores.items())))]
    straight = incentive({uid: f"hk{uid}" for uid in uids}, competitions, {"hk3": 0.9})
    mixed = incentive({uid: f"hk{uid}" for uid in shuffled}, competitions[::-1], {"hk3": 0.9})
    assert straight.weights == mixed.weights
    assert straight.pools == mixed.pools


def test_softmax_does_not_overflow() -> None:
    assert softmax([1e6, 1e6 - 0.01], 0.01) == pytest.approx([math.e / (math.e + 1), 1 / (math.e + 1)], rel=1e-6)
    assert softmax([1e308, -1e308], 0.01) == [1.0, 0.0]
    assert softmax([]) == []


@pytest.mark.parametrize("seed", range(20))
def test_agrees_with_a_plain_array_calculation(seed: int) -> None:
    """The same rules once more, over dense arrays as the subnet computes them."""
    chance = np.random.default_rng(seed)
    scores = np.round(chance.random(256) * (chance.random(256) < 0.5), 2)
    reputation = chance.random(256)
    baseline = float(chance.choice([0.3, 0.9, 2.0]))
    order = np.argsort(-scores, kind="stable")
    above = [uid for uid in order if scores[uid] > baseline][:3]
    below = [uid for uid in order if uid not in above and scores[uid] > 0][:10]
    expected = np.zeros(256)
    if above:
        power = np.exp((scores[above] - scores[above].max()) / 0.01)
        expected[above] += 0.75 * power / power.sum()
    else:
        expected[111] += 0.75
    power = np.exp(0.7 * reputation[below] + 0.3 * scores[below])
    expected[below] += 0.25 * power / power.sum()
    found = incentive(
        {uid: f"hk{uid}" for uid in range(256)},
        [Competition("a", 1.0, baseline, dict(enumerate(scores.tolist())))],
        {f"hk{uid}": value for uid, value in enumerate(reputation.tolist())},
    )
    assert [found.weights[uid] for uid in range(256)] == pytest.approx(expected.tolist(), abs=1e-12)


@pytest.mark.parametrize(
    "score",
    [
        None,
        "0.9",
        "",
        [0.9],
        {},
        b"1",
        True,
        float("nan"),
        float("inf"),
        10**400,
        complex(1, 1),
        pytest.param(-(10**5000), id="huge"),
    ],
)
def test_a_score_that_is_no_number_counts_as_zero_and_is_named(score: object) -> None:
    scores: dict[int, Any] = {0: score, 1: 0.5}
    found = incentive(HOTKEYS, [Competition("v", 1.0, 0.4, scores)], {"hk1": score})  # type: ignore[dict-item]
    clean = incentive(HOTKEYS, [Competition("v", 1.0, 0.4, {1: 0.5})], {})
    assert found.weights == clean.weights
    assert len(found.warnings) == 1
    assert "the score of UID 0 is" in found.warnings[0]
    assert len(found.warnings[0]) < 200


@pytest.mark.parametrize("baseline", ["0.4", None, [], 10**400])
def test_a_baseline_that_is_no_number_is_none(baseline: Any) -> None:
    found = incentive(HOTKEYS, [Competition("v", 1.0, baseline, {1: 0.5})], {})
    assert found.weights == {}
    assert "has no baseline" in found.warnings[0]
