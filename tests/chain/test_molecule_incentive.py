"""Ranking and weights, by hand and by law."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain import Commitment, EpochHeader, Neuron
from app.epochs.rules.october_2025 import October2025, Parameters
from app.epochs.rules.rule_set import ChallengeError
from chain.commitments import in_window
from chain.incentive import molecules as incentive
from chain.incentive.molecules import (
    Entrant,
    Ranking,
    WeightVector,
    boltz_candidates,
    entropy_weight,
    molecule_score,
    repetition_adjusted,
)

INF = -math.inf


def rules(quirks: list[str] | None = None, competition: dict[str, Any] | None = None, **molecule: Any) -> Parameters:
    return Parameters.model_validate(
        {"quirks": quirks or [], "competition": competition or {}, "molecule_validation": molecule}
    )


def rank(field: list[Entrant], epoch: int, given: Parameters) -> Ranking:
    return incentive.rank(field, epoch, given.molecule_validation, zero_is_missing=given.has_quirk("zero_is_missing"))


def weight_vector(psichic: int | None, boltz: int | None, uids: Sequence[int], given: Parameters) -> WeightVector:
    return October2025(given).weights({"psichic": psichic, "boltz": boltz}, uids, {})


def entrant(uid: int, targets: list[float], **more: Any) -> Entrant:
    given = {"block": 100, "push_time": "", "entropy": None, "boltz": (), "entropy_boltz": None} | more
    names = given.pop("names", tuple(f"m{uid}.{n}" for n in range(len(targets))))
    antitargets = given.pop("antitargets", [0.0] * len(targets))
    return Entrant(
        uid=uid,
        names=names,
        target_scores=tuple((score,) for score in targets),
        antitarget_scores=tuple((score,) for score in antitargets),
        **given,
    )


def test_the_documents_examples() -> None:
    assert molecule_score([8.5], [4.2], 0.9) == pytest.approx(4.72)
    assert molecule_score([8.5, 7.2], [4.2, 3.8, 3.5], 0.9) == pytest.approx(4.4)
    # 100 molecules of 4.5, entropy 0.85, weight 0.3
    ranking = rank([entrant(1, [4.5] * 100, entropy=0.85)], 18703, rules())
    assert ranking.standings[0].psichic_score == pytest.approx(564.75)
    assert entropy_weight(18703 + 140, rules().molecule_validation) == pytest.approx(1.3, abs=1e-6)
    assert entropy_weight(0, rules().molecule_validation) == 0.0


@pytest.mark.parametrize("bad", [INF, math.nan, math.inf])
def test_a_part_without_a_score_makes_the_molecule_and_the_uid_minus_infinity(bad: float) -> None:
    assert molecule_score([1.0, bad], [0.0], 0.9) == INF
    assert molecule_score([1.0], [bad], 0.9) == INF
    ranking = rank([entrant(1, [5.0, bad], entropy=0.5, boltz=(0.7,))], 18800, rules())
    standing = ranking.standings[0]
    assert (standing.psichic_score, standing.boltz_score) == (INF, 0.7)
    assert (ranking.psichic_winner, ranking.boltz_winner) == (None, 1)
    assert (standing.psichic_rank, standing.boltz_rank) == (None, 1)


def test_the_entropy_bonus_needs_a_score_above_the_threshold() -> None:
    limits = {
        "entropy_bonus_threshold": 10,
        "entropy_start_epoch": 0,
        "entropy_step_size": 0,
        "entropy_start_weight": 1,
    }
    ranking = rank(
        [entrant(1, [10.0], entropy=0.5), entrant(2, [11.0], entropy=0.5), entrant(3, [11.0])], 5, rules(**limits)
    )
    assert [standing.psichic_score for standing in ranking.standings] == [10.0, 16.5, 11.0]


def test_repetition() -> None:
    limits = rules(molecule_repetition_weight=2, molecule_repetition_threshold=1).molecule_validation
    assert repetition_adjusted(6.0, 3, limits) == 1.0
    assert repetition_adjusted(0.5, 3, limits) == 3.0
    assert repetition_adjusted(1.0, 3, limits) == 6.0, "the threshold itself is not above it"
    assert repetition_adjusted(INF, 3, limits) == INF
    assert repetition_adjusted(6.0, 3, rules().molecule_validation) == 6.0
    shared = [entrant(1, [6.0, 4.0], names=("a", "b")), entrant(2, [6.0], names=("a",))]
    ranking = rank(shared, 0, rules(molecule_repetition_weight=1))
    assert ranking.standings[0].molecule_scores == (3.0, 4.0)
    assert ranking.standings[1].molecule_scores == (3.0,)


def test_boltz_mean_and_bonus() -> None:
    k2 = rules(num_molecules_boltz=2, entropy_start_epoch=0, entropy_step_size=0, entropy_start_weight=1)
    both = entrant(1, [1.0, 1.0], boltz=(0.2, 0.6), entropy_boltz=0.5)
    assert rank([both], 1, k2).standings[0].boltz_score == pytest.approx(0.6)
    one = entrant(1, [1.0, 1.0], boltz=(0.6,), entropy_boltz=0.0)
    assert rank([one], 1, k2).standings[0].boltz_score == 0.6
    k1 = rules(entropy_start_epoch=0, entropy_step_size=0, entropy_start_weight=1)
    assert rank([both], 1, k1).standings[0].boltz_score == pytest.approx(0.4), "no bonus for a single candidate"
    assert rank([entrant(1, [1.0])], 1, k1).standings[0].boltz_score == INF


def test_ties_go_to_the_earliest_block_then_push_then_uid() -> None:
    late, early = "2025-10-28T14:21:17Z", "2025-10-28T14:21:16Z"
    field = [
        entrant(4, [5.00001], block=100, push_time=late),
        entrant(3, [5.00002], block=100, push_time=early),
        entrant(9, [5.00004], block=100, push_time=early),
        entrant(1, [5.00003], block=100, push_time=""),
        entrant(2, [5.00003], block=101, push_time=early),
        entrant(0, [4.9999], block=1, push_time=early),
    ]
    ranking = rank(field, 0, rules())
    order = sorted((s.psichic_rank or 0, s.uid) for s in ranking.standings)
    assert [uid for _, uid in order] == [3, 9, 4, 1, 2, 0]
    assert ranking.psichic_winner == 3


def test_quirks() -> None:
    zero = [entrant(1, [5.0, 0.0]), entrant(2, [1.0, 1.0], antitargets=[1.0, 1.0])]
    assert rank(zero, 0, rules()).psichic_winner == 1
    # antitargets of exactly zero are missing too under the quirk, so only UID 2 keeps a score
    assert rank(zero, 0, rules(["zero_is_missing"])).psichic_winner == 2
    assert weight_vector(0, 3, [0, 3], rules()).weights == {0: 0.75, 3: 0.25}
    assert weight_vector(0, 3, [0, 3], rules(["uid_zero_never_wins"])).weights == {0: 0.5, 3: 0.5}
    assert weight_vector(0, 0, [0, 3], rules(["uid_zero_never_wins"])).weights is None
    assert weight_vector(0, 0, [0, 3], rules()).weights == {0: 1.0}


def test_weights() -> None:
    assert weight_vector(3, 7, range(10), rules()).weights == {0: 0.5, 3: 0.25, 7: 0.25}
    assert weight_vector(3, 3, range(10), rules()).weights == {0: 0.5, 3: 0.5}
    assert weight_vector(3, None, range(10), rules()).weights == {0: 0.5, 3: 0.5}
    assert weight_vector(None, 7, range(10), rules()).weights == {0: 0.5, 7: 0.5}
    assert weight_vector(3, 7, range(10), rules(competition={"boltz_weight": 0.0})).weights == {0: 0.5, 3: 0.5}
    assert weight_vector(3, 7, range(10), rules(competition={"burn_rate": 0.0})).weights == {3: 0.5, 7: 0.5}
    nothing = weight_vector(None, None, range(10), rules())
    assert nothing.weights is None
    assert nothing.reason


def test_no_weights_for_a_winner_or_a_burn_uid_that_is_gone() -> None:
    assert "UID 7" in (weight_vector(3, 7, [0, 3], rules()).reason or "")
    assert "burn_uid 0" in (weight_vector(3, 7, [3, 7], rules()).reason or "")


uids = st.integers(0, 255)


@given(
    st.none() | uids,
    st.none() | uids,
    st.floats(0, 1),
    st.floats(0, 1),
    st.lists(st.sampled_from(["uid_zero_never_wins"]), max_size=1),
)
def test_weights_sum_to_one_or_are_none(
    psichic: int | None, boltz: int | None, burn: float, share: float, quirks: list[str]
) -> None:
    competition = {"burn_rate": burn, "boltz_weight": share}
    vector = weight_vector(psichic, boltz, range(256), rules(quirks, competition))
    if vector.weights is None:
        assert vector.reason
    else:
        assert sum(vector.weights.values()) == pytest.approx(1.0)
        assert all(weight > 0 for weight in vector.weights.values())


score = st.floats(-100, 100) | st.just(INF)


@st.composite
def fields(draw: st.DrawFn) -> list[Entrant]:
    chosen = draw(st.lists(uids, unique=True, max_size=6))
    return [
        entrant(
            uid,
            draw(st.lists(score, min_size=2, max_size=2)),
            block=draw(st.integers(1, 3)),
            push_time=draw(st.sampled_from(["", "2025-10-28T14:21:17Z", "2025-10-28T14:21:18Z", "soon"])),
            entropy=draw(st.none() | st.floats(0, 1)),
            boltz=tuple(draw(st.lists(st.floats(0, 1), max_size=2))),
            names=("a", f"b{uid % 3}"),
        )
        for uid in chosen
    ]


@given(fields(), st.randoms(use_true_random=False), st.floats(0, 3))
def test_the_order_of_uids_does_not_matter(field: list[Entrant], shuffler: random.Random, weight: float) -> None:
    regime = rules(molecule_repetition_weight=weight)
    straight = rank(field, 18800, regime)
    shuffled = list(field)
    shuffler.shuffle(shuffled)
    assert rank(shuffled, 18800, regime) == straight
    ranks = sorted(s.psichic_rank for s in straight.standings if s.psichic_rank is not None)
    assert ranks == list(range(1, len(ranks) + 1))


def test_candidates() -> None:
    assert boltz_candidates(7, 100, "0x10", rules().molecule_validation) == (0,)
    drawn = rules(num_molecules_boltz=5, sample_selection="random").molecule_validation
    assert boltz_candidates(7, 100, "0x10", drawn) == tuple(random.Random(16 + 7).sample(range(100), 5))
    assert boltz_candidates(7, 3, "0x10", drawn) == tuple(random.Random(23).sample(range(3), 3))


def test_the_challenge_is_drawn_from_the_start_block() -> None:
    pool = [f"P{n}" for n in range(50)]
    challenge = October2025(rules()).challenge("0xff", pool, 5)
    assert challenge.antitargets == tuple(pool[n] for n in random.Random(255).sample(range(50), k=8))
    assert challenge.targets == ("O15379",)
    assert challenge.allowed_reactions == (4, 5)
    with pytest.raises(ChallengeError, match="has 3 entries"):
        October2025(rules()).challenge("0xff", pool[:3], 5)
    drawn = Parameters.model_validate({"reaction_filtering": {"random_valid_reaction": True}})
    assert October2025(drawn).challenge("0x6", pool, 5).allowed_reactions == ("savi",)
    assert October2025(drawn).challenge("0x8", pool, 5).allowed_reactions == (2,)


def test_the_window_is_open_at_both_ends() -> None:
    header = EpochHeader(68, "n", 100, 100, 200, "0x1", "0x2")
    neurons = [Neuron(uid, f"h{uid}", "c", 1.0, False) for uid in range(5)]
    blocks = {4: 100, 3: 101, 2: 189, 1: 190, 0: 150}
    commitments = [Commitment(f"h{uid}", block, "x") for uid, block in blocks.items()]
    commitments.append(Commitment("h99", 150, "x"))
    assert [uid for uid, _ in in_window(commitments, header, 10, neurons)] == [0, 2, 3]
    assert header.epoch == 1
