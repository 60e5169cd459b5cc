"""Dense ranks over all competing designs."""

from __future__ import annotations

import random

from app.domain import BOLTZGEN_METRICS
from chem.nanobodies.ranking import METRIC_NAMES, Components, RankSummary, rank_designs

GOOD = dict(zip(METRIC_NAMES, (0.8, 0.9, 0.7, 3.0, 5.0, 6, 2, 800.0, 20, 3), strict=True))
OTHER = dict(zip(METRIC_NAMES, (0.7, 0.9, 0.8, 2.0, 4.0, 6, 1, 900.0, 30, 2), strict=True))
THIRD = dict(zip(METRIC_NAMES, (0.8, 0.85, 0.7, 3.0, 5.0, 4, 2, 700.0, 20, 3), strict=True))
TARGET = "P05231"


def competing(**designs: dict[str, float | None]) -> Components:
    return {uid: {sequence: {TARGET: metrics}} for uid, (sequence, metrics) in enumerate(designs.items(), start=1)}


def test_every_metric_that_is_kept_is_ranked() -> None:
    assert METRIC_NAMES == BOLTZGEN_METRICS


def test_ranks_are_dense_and_summed_by_category() -> None:
    found = rank_designs(competing(AAA=GOOD, CCC=OTHER, DDD=THIRD), [TARGET])
    assert {sequence: ranks.overall for (sequence, _), ranks in found.items()} == {
        "AAA": RankSummary(15, 2),
        "CCC": RankSummary(13, 2),
        "DDD": RankSummary(18, 3),
    }
    assert found["DDD", TARGET].categories == {
        "confidence": RankSummary(9, 2),
        "physical_interaction": RankSummary(6, 3),
        "developability": RankSummary(3, 2),
    }


def test_a_missing_metric_is_an_advantage_unless_the_quirk_is_off() -> None:
    components = competing(AAA=GOOD, CCC={**GOOD, "design_ptm": None}, DDD={**GOOD, "design_ptm": float("nan")})
    assert [ranks.overall.rank_sum for ranks in rank_designs(components, [TARGET]).values()] == [10, 9, 9]
    corrected = rank_designs(components, [TARGET], missing_adds_zero=False)
    assert [ranks.overall.rank_sum for ranks in corrected.values()] == [10, 11, 11]


def test_a_design_without_metrics_has_no_rank() -> None:
    found = rank_designs(competing(AAA=GOOD, CCC={}), [TARGET])
    assert found["CCC", TARGET].overall == RankSummary(0, None)


def test_one_sequence_of_two_uids_is_one_row_with_the_firsts_metrics() -> None:
    components: Components = {4: {"AAA": {TARGET: GOOD}}, 9: {"AAA": {TARGET: OTHER}, "CCC": {TARGET: OTHER}}}
    found = rank_designs(components, [TARGET])
    assert set(found) == {("AAA", TARGET), ("CCC", TARGET)}
    assert found == rank_designs({4: {"AAA": {TARGET: GOOD}}, 9: {"CCC": {TARGET: OTHER}}}, [TARGET])


def test_all_targets_share_one_table() -> None:
    components: Components = {1: {"AAA": {TARGET: GOOD, "Q9UQM7": OTHER}}}
    found = rank_designs(components, [TARGET, "Q9UQM7"])
    assert found["AAA", TARGET].overall.rank_sum == 15
    assert found["AAA", "Q9UQM7"].overall.rank_sum == 13


def test_the_order_of_competitors_does_not_matter() -> None:
    designs = {"AAA": GOOD, "CCC": OTHER, "DDD": THIRD, "EEE": {**GOOD, "interaction_pae": None}}
    expected = rank_designs(competing(**designs), [TARGET])
    shuffled = list(designs.items())
    random.Random(3).shuffle(shuffled)
    assert rank_designs(competing(**dict(shuffled)), [TARGET]) == expected
