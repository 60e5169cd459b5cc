"""The nativeness formula, part by part, and what is refused by decree."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chem.nanobodies.nativeness import (
    GermlineHit,
    GermlineHits,
    hallmark_residues,
    human_framework,
    nativeness,
    vhh_or_vh,
)
from chem.nanobodies.numbering import Numbering
from tests.chem.nanobodies.examples import PERFECT, REGIONS, V_PART


def score(hit: GermlineHit | None, regions: Numbering | None = REGIONS) -> float:
    return nativeness(regions, GermlineHits(hit, None)).score


def test_a_perfect_germline() -> None:
    # A = 1, C = 1, D = 1; B: frameworks perfect, CDRs too perfect (0.45 / 0.45 from 0.55)
    assert score(PERFECT) == pytest.approx(0.25 + 0.30 * (0.8 + 0.2 * 0.65) + 0.20 + 0.25)


def test_the_germline_part() -> None:
    # the alignment ends early: coverage stays that of what is aligned
    worse = replace(PERFECT, identity=0.80, query_end=PERFECT.query_end - 10)
    coverage = (len(V_PART) - 10) / len(V_PART)
    lost = 0.7 * (1 - (0.80 - 0.70) / 0.25) + 0.3 * (1 - (coverage - 0.80) / 0.20)
    assert score(PERFECT) - score(worse) == pytest.approx(0.25 * lost)


def test_the_mutation_part_tells_frameworks_from_cdrs() -> None:
    germline = list(V_PART)
    for place in range(10):  # ten mutations in framework 1
        germline[place] = "X"
    frameworks = len(V_PART) - 16
    mutated = replace(PERFECT, germline_alignment="".join(germline))
    framework_score = ((frameworks - 10) / frameworks - 0.80) / 0.20
    assert score(PERFECT) - score(mutated) == pytest.approx(0.30 * 0.8 * (1 - framework_score))
    cdr = V_PART.replace("GRTFSSYA", "XXXXXXXX")
    # half of the CDR residues differ: 0.05 from 0.55
    expected = 0.30 * 0.2 * (0.35 - 0.35 * 0.05 / 0.45)
    assert score(replace(PERFECT, germline_alignment=cdr)) - score(PERFECT) == pytest.approx(expected)


def test_regions_are_counted_from_the_alignments_first_residue() -> None:
    """Quirk: an alignment that starts late shifts the regions, so that a mutation of CDR1 counts as one of FR1."""
    late = replace(
        PERFECT,
        query_start=9,
        query_alignment=V_PART[8:],
        germline_alignment=V_PART[8:].replace("GRTFSSYA", "XXXXXXXX"),
    )
    frameworks, in_framework_1 = len(V_PART) - 8 - 16, 8
    framework_score = max(0.0, ((frameworks - in_framework_1) / frameworks - 0.80) / 0.20)
    expected = 0.25 + 0.30 * (0.8 * framework_score + 0.2 * 0.65) + 0.20 + 0.25
    assert score(late) == pytest.approx(expected)
    # off: the frameworks are perfect, and half of the CDR residues differ
    straight = nativeness(REGIONS, GermlineHits(late, None), regions_from_alignment=False).score
    assert straight == pytest.approx(0.25 + 0.30 * (0.8 + 0.2 * (1 - 0.35 * 0.05 / 0.45)) + 0.20 + 0.25)


def test_gaps_are_left_out_and_without_alignment_identity_counts() -> None:
    gapped = replace(
        PERFECT, query_alignment=V_PART[:5] + "--" + V_PART[5:], germline_alignment=V_PART[:5] + "AA" + V_PART[5:]
    )
    assert gapped.coverage == pytest.approx(len(V_PART) / (len(V_PART) + 2))
    bare = replace(PERFECT, identity=0.85, query_alignment="", germline_alignment="", query_end=100)
    expected = 0.25 * (0.7 * 0.6 + 0.3) + 0.30 * 0.5 + 0.20 + 0.25
    assert score(bare) == pytest.approx(expected)


def test_the_cdr3_part_is_a_bell_around_eighteen() -> None:
    shorter = replace(REGIONS, cdr3="A" * 10)
    assert score(PERFECT) - score(PERFECT, shorter) == pytest.approx(0.20 * (1 - math.exp(-1)))


def test_the_hallmark_part() -> None:
    vh = replace(REGIONS, fr2="MGWVRQAPGKGLEWVAA")
    assert score(PERFECT) - score(PERFECT, vh) == pytest.approx(0.25)
    odd = replace(REGIONS, fr2="MGWFRQAPGKEREKVAA")  # K at 52 is typical of neither
    assert score(PERFECT) - score(PERFECT, odd) == pytest.approx(0.25 * 0.75 / 4)
    short = replace(REGIONS, fr2="MGWFRQAPGKERE")
    assert score(PERFECT) - score(PERFECT, short) == pytest.approx(0.25 * 0.5)
    assert hallmark_residues(short.fr2) is None
    assert hallmark_residues(REGIONS.fr2) == ("E", "R")


@pytest.mark.parametrize(
    ("hit", "regions", "why"),
    [
        (None, REGIONS, "no camelid V gene"),
        (replace(PERFECT, query_end=70), REGIONS, "covers"),
        (replace(PERFECT, identity=0.699), REGIONS, "identity"),
        (PERFECT, replace(REGIONS, cdr3=""), "no CDR3"),
        (PERFECT, replace(REGIONS, cdr3="AAAAA"), "CDR3 has 5"),
        (PERFECT, replace(REGIONS, cdr3="A" * 36), "CDR3 has 36"),
        (PERFECT, None, "numbered"),
    ],
)
def test_hard_rejections(hit: GermlineHit | None, regions: Numbering | None, why: str) -> None:
    found = nativeness(regions, GermlineHits(hit, PERFECT))
    assert found.score == 0.0
    assert found.hallmarks is None
    assert found.rejected is not None
    assert why in found.rejected


def test_the_human_framework() -> None:
    assert human_framework(PERFECT) == 1.0
    assert human_framework(replace(PERFECT, identity=0.75)) == pytest.approx(0.8 * 0.5 + 0.2)
    assert human_framework(replace(PERFECT, identity=0.5, query_end=40)) == 0.0
    assert nativeness(REGIONS, GermlineHits(PERFECT, None)).human is None


@pytest.mark.parametrize(
    ("at_49", "at_50", "kind"),
    [("Q", "R", "VHH"), ("E", "R", "VHH"), ("", "R", "VHH"), ("E", "C", "VH"), ("X", "R", "VH"), ("EQ", "R", "VH")],
)
def test_the_hallmarks(at_49: str, at_50: str, kind: str) -> None:
    assert vhh_or_vh(at_49, at_50) == kind


@given(
    st.floats(0, 1),
    st.integers(1, 120),
    st.integers(1, 120),
    st.text("ACDEFY-", max_size=40),
    st.text("ACDEFY-.", max_size=40),
)
def test_scores_are_shares(identity: float, start: int, end: int, query: str, germline: str) -> None:
    found = nativeness(REGIONS, GermlineHits(*[GermlineHit("V", identity, start, end, query, germline)] * 2))
    assert 0.0 <= found.score <= 1.0
    assert found.human is not None
    assert 0.0 <= found.human <= 1.0
