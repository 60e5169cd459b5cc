"""Each check of a nanobody submission, in its order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import pytest

from app.epochs.rules.august_2026_parameters import NanobodyRequirements
from chem.nanobodies.archive import NanobodyArchive
from chem.nanobodies.developability import Profile
from chem.nanobodies.nativeness import GermlineHit, GermlineHits
from chem.nanobodies.numbering import Numbering
from chem.nanobodies.sequence import sequence_hash
from chem.nanobodies.similarity import local_identity
from chem.nanobodies.steps import StepUnavailable
from chem.nanobodies.validation import (
    NanobodiesRejected,
    NanobodyRules,
    validate_nanobodies,
)
from tests.chem.nanobodies.examples import PERFECT, REGIONS

LIMITS = NanobodyRequirements().limits
VHH = "".join(REGIONS.regions)
OTHER = (
    VHH.replace("GRTFSSYA", "GNIFDRKP")
    .replace("AADSTIYASYYECGHGLS", "NVWHEKRDPYLNRKYDTM")
    .replace("ISWSGGST", "ITRPEKGN")
)
BOTH = GermlineHits(PERFECT, PERFECT)
PROFILE = Profile(34, 18, 1.0, 100.0, 0.1, 0.1)


@dataclass
class Told:
    """Tools that answer from a table, as a recording's do; they note what they were asked."""

    regions: Mapping[str, Numbering | None] = field(default_factory=dict)
    hits: GermlineHits = BOTH
    figures: Profile | None = PROFILE
    asked: list[str] = field(default_factory=list)

    def numbering(self, sequence: str) -> Numbering | None:
        return self.regions.get(sequence, REGIONS)

    def identity(self, first: str, second: str, *, whole: bool = False) -> float:
        return local_identity(first, second, whole=whole)

    def germline(self, sequence: str) -> GermlineHits:
        self.asked.append("germline")
        return self.hits

    def profile(self, sequence: str) -> Profile | None:
        self.asked.append("profile")
        return self.figures


def refusal(*items: str, tools: Told | None = None, archive: NanobodyArchive | None = None, **limits: float) -> str:
    rules = NanobodyRules(NanobodyRequirements(**limits).limits, {"P05231": archive or NanobodyArchive()})  # type: ignore[arg-type]
    with pytest.raises(NanobodiesRejected) as caught:
        validate_nanobodies(items, rules, tools or Told())
    assert str(caught.value)
    return caught.value.code.value


def test_a_valid_sequence_is_normalised_and_carries_its_figures() -> None:
    (accepted,) = validate_nanobodies([f" {VHH.lower()}\n"], NanobodyRules(LIMITS), Told())
    assert (accepted.sequence, accepted.hash) == (VHH, sequence_hash(VHH))
    assert accepted.nativeness.score > 0.9
    assert accepted.profile == PROFILE


def test_surplus_sequences_are_ignored_but_a_tilde_in_them_is_not() -> None:
    assert len(validate_nanobodies([VHH, "GARBAGE"], NanobodyRules(LIMITS), Told())) == 1
    assert refusal(VHH, "~") == "track_excluded"
    assert refusal("VHH~" + VHH) == "track_excluded"


def test_counts() -> None:
    assert refusal() == "wrong_sequence_count"
    assert refusal(VHH, num_sequences=2) == "wrong_sequence_count"
    assert refusal(VHH, VHH.lower(), num_sequences=2) == "duplicate_sequences"


@pytest.mark.parametrize(
    ("sequence", "code"),
    [
        (VHH[:89], "sequence_length"),
        (VHH + "A" * 40, "sequence_length"),
        (VHH.replace("AADST", "AAXST"), "invalid_residue"),
        (VHH.replace("AADST", "AADSÉ"), "invalid_residue"),
        (VHH.replace("AADST", "GGGGGGG"), "homopolymer_run"),
        (VHH + "GSGSGSGSGS", "dipeptide_repeat"),
        (VHH.replace("C", "A"), "too_few_cysteines"),
        ("ALAVLALVAF" + VHH, "signal_peptide"),
    ],
)
def test_the_letters(sequence: str, code: str) -> None:
    assert refusal(sequence) == code


def test_a_cysteine_pair_is_asked_only_where_two_cysteines_are() -> None:
    lonely = VHH.replace("C", "A", 2).replace("ECGH", "ECGC")
    assert refusal(lonely, min_cysteines=2) == "no_cysteine_pair"
    assert validate_nanobodies([lonely], NanobodyRules(LIMITS), Told())


def test_the_archive() -> None:
    assert refusal(VHH, archive=NanobodyArchive(frozenset({sequence_hash(VHH)}))) == "already_used"
    assert refusal(VHH, archive=NanobodyArchive(top=(VHH[:-1] + "T",))) == "too_similar"
    unlike = {OTHER: replace(REGIONS, cdr1="GNIFDRKP", cdr2="ITRPEKGN", cdr3="NVWHEKRDPYLNRKYDTM")}
    assert validate_nanobodies(
        [VHH], NanobodyRules(LIMITS, archives={"P05231": NanobodyArchive(top=(OTHER,))}), Told(unlike)
    )


@pytest.mark.parametrize("quirk", [True, False])
def test_a_fragment_of_the_sequence_is_the_same_design_only_by_the_quirk(quirk: bool) -> None:
    fragment = VHH[:80]
    unlike = {fragment: replace(REGIONS, cdr1="GNIFDRKP", cdr2="ITRPEKGN", cdr3="NVWHEKRDPYLNRKYDTM")}
    archives = {"P05231": NanobodyArchive(top=(fragment,))}
    rules = NanobodyRules(LIMITS, archives=archives, identity_of_alignment=quirk)
    if quirk:
        with pytest.raises(NanobodiesRejected, match=r"identity 1\.00"):
            validate_nanobodies([VHH], rules, Told(unlike))
    else:
        assert validate_nanobodies([VHH], rules, Told(unlike))


def test_an_archived_sequence_that_cannot_be_numbered_costs_nothing_but_its_cdrs() -> None:
    """In the original one such sequence loses the whole epoch."""
    archive = NanobodyArchive(top=(OTHER,))
    assert local_identity(VHH, OTHER) < 0.90
    assert validate_nanobodies([VHH], NanobodyRules(LIMITS, archives={"P05231": archive}), Told({OTHER: None}))


@pytest.mark.parametrize(
    ("tools", "code"),
    [
        (Told({VHH: replace(REGIONS, fr2="MGWVRQAPGKGLEWVAA")}), "not_vhh"),
        (Told({VHH: replace(REGIONS, fr2="MGWFRQAPGKECEFVAA")}), "not_vhh"),
        (Told({VHH: replace(REGIONS, fr2="MGWFRQAPGKER")}), "not_vhh"),
        (Told({VHH: None}), "not_vhh"),
        (Told(hits=GermlineHits(None, PERFECT)), "not_vhh"),
        (Told(hits=GermlineHits(PERFECT, None)), "no_human_match"),
        (Told(hits=GermlineHits(PERFECT, replace(PERFECT, identity=0.78))), "low_human_framework"),
        (Told(figures=None), "not_developable"),
        (Told(figures=replace(PROFILE, psh=155.48)), "not_developable"),
        (Told(figures=replace(PROFILE, psh=float("nan"))), "not_developable"),
    ],
)
def test_what_the_tools_find(tools: Told, code: str) -> None:
    assert refusal(VHH, tools=tools) == code


def test_low_nativeness() -> None:
    poor = GermlineHit("V", 0.70, 1, len(PERFECT.query_alignment), "A" * 95, "A" * 95)
    tools = Told(
        {VHH: replace(REGIONS, cdr3="A" * 30)}, GermlineHits(replace(poor, germline_alignment="C" * 95), PERFECT)
    )
    assert refusal(VHH, tools=tools) == "low_nativeness"
    assert refusal(VHH, tools=Told({VHH: None}), enforce_vhh_hallmarks=False) == "low_nativeness"


def test_costly_steps_are_not_run_for_what_is_already_out() -> None:
    tools = Told(hits=GermlineHits(PERFECT, None))
    refusal(VHH[:89], tools=tools)
    assert tools.asked == []
    refusal(VHH, tools=tools)
    assert tools.asked == ["germline"]


def test_a_step_that_cannot_be_run_gives_no_verdict() -> None:
    class Without(Told):
        def profile(self, sequence: str) -> Profile | None:
            raise StepUnavailable("developability", "TNP is not installed")

    with pytest.raises(StepUnavailable, match=r"'developability': TNP is not installed"):
        validate_nanobodies([VHH], NanobodyRules(LIMITS), Without())


@pytest.mark.parametrize(
    ("field_name", "inside", "outside"),
    [
        ("total_cdr_length", (20, 39), (19, 40)),
        ("cdr3_length", (5, 23), (4, 24)),
        ("cdr3_compactness", (0.56, 1.61), (0.55, 1.62)),
        ("psh", (73.4, 155.47), (73.3, 155.48)),
        ("ppc", (0.0, 1.18), (1.19,)),
        ("pnc", (0.0, 1.88), (1.89,)),
    ],
)
def test_developability_bounds_are_inclusive(
    field_name: str, inside: tuple[float, ...], outside: tuple[float, ...]
) -> None:
    for value in inside:
        assert validate_nanobodies([VHH], NanobodyRules(LIMITS), Told(figures=replace(PROFILE, **{field_name: value})))  # type: ignore[arg-type]
    for value in outside:
        assert refusal(VHH, tools=Told(figures=replace(PROFILE, **{field_name: value}))) == "not_developable"  # type: ignore[arg-type]
