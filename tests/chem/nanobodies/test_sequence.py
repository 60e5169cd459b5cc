"""What the letters of a nanobody show."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chem.nanobodies.sequence import (
    has_cysteine_pair,
    longest_run,
    looks_like_signal_peptide,
    most_repeated_pairs,
    normalised,
    sequence_hash,
)


def test_case_and_outer_white_space_do_not_change_the_hash() -> None:
    assert normalised(" \tEvQ\n") == "EVQ"
    assert sequence_hash("EVQ") == "44364af0ea54e3f12b1996ca99465f0615f99fd2d523c4cf40860a6e3bb7f3c7"


@pytest.mark.parametrize(("sequence", "length"), [("", 0), ("A", 1), ("AAAAAAA", 7), ("AAGSGSA", 2), ("GSGSGS", 1)])
def test_longest_run(sequence: str, length: int) -> None:
    assert longest_run(sequence) == length


@pytest.mark.parametrize(
    ("sequence", "pairs"),
    [
        ("", 0),
        ("GS", 0),
        ("GSG", 0),
        ("GSAA", 1),
        ("GSGS", 2),
        ("AAAAAAAA", 0),
        ("GSGSGSGS", 4),
        ("GSGSGSGSG", 4),
        ("XGSGSGSGSGSX", 5),
        ("SSGSGS", 2),
    ],
)
def test_most_repeated_pairs(sequence: str, pairs: int) -> None:
    assert most_repeated_pairs(sequence) == pairs


@pytest.mark.parametrize(("apart", "found"), [(34, False), (35, True), (80, True), (81, False)])
def test_cysteine_pair_bounds_are_inclusive(apart: int, found: bool) -> None:
    assert has_cysteine_pair("C" + "A" * (apart - 1) + "C", 35, 80) is found


def test_a_third_cysteine_may_make_the_pair() -> None:
    assert has_cysteine_pair("CC" + "A" * 79 + "C", 35, 80)


@pytest.mark.parametrize(
    ("sequence", "found"),
    [
        ("AAAAAAAGGGGGGGGGGGGGGGGGGGGGGG", False),
        ("G" * 22 + "A" * 8, True),
        ("G" * 23 + "A" * 20, False),
        ("A" * 11, False),
        ("QVQLVESGGGLVQPGGSLRLSCAASGFTFS", False),
    ],
)
def test_signal_peptide_is_sought_in_the_first_thirty_residues(sequence: str, found: bool) -> None:
    assert looks_like_signal_peptide(sequence, 12, 8, 30) is found


@given(st.text("ACDEFGHIKLMNPQRSTVWY", max_size=60))
def test_laws(sequence: str) -> None:
    assert longest_run(sequence) <= len(sequence)
    assert 2 * most_repeated_pairs(sequence) <= len(sequence)
    assert sequence_hash(sequence) == hashlib.sha256(sequence.encode("ascii")).hexdigest()
