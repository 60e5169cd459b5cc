"""Which archived sequences a nanobody may not resemble."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from chem.archive import ArchiveUnreadable
from chem.nanobodies import similarity
from chem.nanobodies.archive import read_nanobody_archive, top_sequences
from chem.nanobodies.similarity import candidates, cdr_similarity, is_duplicate, local_identity

METRICS = (
    "design_iiptm",
    "design_ptm",
    "min_design_to_target_pae",
    "plip_hbonds_refolded",
    "plip_saltbridge_refolded",
    "delta_sasa_refolded",
)


def row(sequence: str, *values: float | None, violations: float | None = 0) -> dict[str, str | float | None]:
    return {"sequence": sequence, "liability_num_violations": violations, **dict(zip(METRICS, values, strict=True))}


def test_the_worst_weighted_rank_decides() -> None:
    rows = [
        row("A", 0.9, 0.1, 2.0, 5, 1, 900.0),  # weighted ranks 1, 1.5, 1, 0.5, 1, 0.5: worst 1.5
        row("B", 0.5, 0.5, 3.0, 4, 2, 800.0),  # 2, 1, 2, …: worst 2
        row("C", 0.1, 0.9, 4.0, 3, 3, 700.0),  # 3, 0.5, 3, …: worst 3
    ]
    assert top_sequences(rows) == ("A", "B", "C")
    assert top_sequences(list(reversed(rows))) == ("A", "B", "C")
    assert top_sequences(rows, keep=1) == ("A",)


def test_ties_share_the_average_rank() -> None:
    # B and C tie in every metric: each has rank 2.5, so that 2.5 / 1 is their worst; D has 4
    same = (0.5, 0.5, 3.0, 4, 2, 800.0)
    rows = [
        row("D", *(0.1, 0.1, 9.0, 1, 1, 1.0)),
        row("C", *same),
        row("B", *same),
        row("A", *(1, 1, 1.0, 9, 9, 999.0)),
    ]
    assert top_sequences(rows) == ("A", "C", "B", "D")


def test_liabilities_and_missing_metrics() -> None:
    good = (0.9, 0.9, 1.0, 9, 9, 999.0)
    rows = [
        row("many", *good, violations=51),
        row("unknown", *good, violations=None),
        row("fifty", *good, violations=50),
        row("bare", None, None, None, None, None, None),
        row("half", 0.1, None, 5.0, None, None, None),
    ]
    assert top_sequences(rows) == ("fifty", "half", "bare")


def test_an_archive_file(tmp_path: Path) -> None:
    path = tmp_path / "P05231_nanobodies.csv"
    assert not read_nanobody_archive(path).hashes
    path.write_text(
        "sequence,sequence_hash,liability_num_violations,"
        + ",".join(METRICS)
        + "\nEVQ,aa,3,1,1,1,1,1,1\nEVK,bb,,,,,,,\n"
    )
    archive = read_nanobody_archive(path)
    assert (archive.hashes, archive.top, archive.warnings) == ({"aa", "bb"}, ("EVQ",), ())


@pytest.mark.parametrize(
    ("header", "missing"),
    [("sequence,sequence_hash", "design_iiptm"), ("sequence," + ",".join(METRICS), "sequence_hash")],
)
def test_an_incomplete_archive_says_which_check_it_leaves_out(tmp_path: Path, header: str, missing: str) -> None:
    path = tmp_path / "P05231_nanobodies.csv"
    path.write_text(header + "\n")
    (warning,) = read_nanobody_archive(path).warnings
    assert missing in warning


def test_an_unreadable_archive(tmp_path: Path) -> None:
    path = tmp_path / "P05231_nanobodies.csv"
    path.write_bytes(b"sequence,sequence_hash\n\xff\xfe,a\n")
    with pytest.raises(ArchiveUnreadable, match=r"P05231_nanobodies\.csv"):
        read_nanobody_archive(path)


def test_candidates_share_three_kmers_and_a_third_of_all() -> None:
    own = "ACDEFGHIKLMNPQRSTVWY"
    assert candidates(own, [own]) == []
    assert candidates(own, ["W" * 20]) == []
    close, closer = own[:12] + "AAAAA", own[:16]
    assert candidates(own, [close, closer]) == [closer, close]
    assert candidates(own, [own[:6]]) == []  # two shared
    assert candidates(own, [own[:8] + "GGGGGPPPPPDDDDD"]) == []  # four shared, too few of all


def test_local_identity() -> None:
    assert local_identity("HEAGAWGHEE", "PAWHEAE") == pytest.approx(4 / 5)
    assert local_identity("WWWWWACDEF", "ACDEFYYYYY") == 1.0  # a short perfect match counts as whole
    assert local_identity("WWWWWACDEF", "ACDEFYYYYY", whole=True) == 0.5


def test_biopython_agrees_with_parasail() -> None:
    generator = random.Random(7)
    letters = "ACDEFGHIKLMNPQRSTVWY"
    base = "QVQLVESGGGLVQAGGSLRLSCAASGRTFSSYAMGWFRQAPGKEREFVAAISWSGGSTYYADSVKGRFTISRDNAKNTVYLQMNSLKPEDTAVYYCAA"
    for _ in range(20):
        other = "".join(generator.choice(letters) if generator.random() < 0.1 else letter for letter in base)
        other = other[: generator.randrange(60, 90)] + other[92:]
        by_parasail = similarity._share(*similarity._aligned_by_parasail(base, other), len(base))
        by_biopython = similarity._share(*similarity._aligned_by_biopython(base, other), len(base))
        assert by_parasail == pytest.approx(by_biopython, abs=0.03)


@pytest.mark.parametrize(
    ("first", "second", "similar"),
    [
        ("", "", 1.0),
        ("AAAA", "AAAA", 1.0),
        ("AAAA", "AAAC", 0.75),
        ("AAA", "AAAA", 0.75),
        ("ACAA", "AA", 0.25),
        ("", "A", 0),
    ],
)
def test_cdr_similarity(first: str, second: str, similar: float) -> None:
    assert cdr_similarity(first, second) == similar
    assert cdr_similarity(second, first) == similar


@pytest.mark.parametrize(
    ("identity", "cdrs", "duplicate"),
    [
        (0.95, None, True),
        (0.90, None, True),
        (0.89, None, False),
        (0.94, {"CDR1": 1.0, "CDR2": 1.0, "CDR3": 0.1}, False),
        (0.5, {"CDR3": 0.85}, True),
        (0.5, {"CDR1": 0.9, "CDR2": 0.9, "CDR3": 0.80}, True),
        (0.5, {"CDR1": 0.89, "CDR2": 0.9, "CDR3": 0.84}, False),
    ],
)
def test_duplicates(identity: float, cdrs: dict[str, float] | None, duplicate: bool) -> None:
    assert is_duplicate(identity, cdrs) is duplicate
