"""One submission's nanobodies against the rules: all or nothing, the first failed check decides."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from chem.nanobodies.archive import NanobodyArchive
from chem.nanobodies.developability import Profile, shortcomings
from chem.nanobodies.nativeness import GermlineHits, Nativeness, nativeness, vhh_or_vh
from chem.nanobodies.numbering import Numbering
from chem.nanobodies.sequence import (
    AMINO_ACIDS,
    has_cysteine_pair,
    longest_run,
    looks_like_signal_peptide,
    most_repeated_pairs,
    normalised,
    sequence_hash,
)
from chem.nanobodies.similarity import candidates, cdr_similarities, is_duplicate


class NanobodyCode(StrEnum):
    """Why a submission's nanobodies are refused, in the order of the checks."""

    TRACK_EXCLUDED = "track_excluded"
    WRONG_SEQUENCE_COUNT = "wrong_sequence_count"
    DUPLICATE_SEQUENCES = "duplicate_sequences"
    SEQUENCE_LENGTH = "sequence_length"
    INVALID_RESIDUE = "invalid_residue"
    HOMOPOLYMER_RUN = "homopolymer_run"
    DIPEPTIDE_REPEAT = "dipeptide_repeat"
    TOO_FEW_CYSTEINES = "too_few_cysteines"
    NO_CYSTEINE_PAIR = "no_cysteine_pair"
    SIGNAL_PEPTIDE = "signal_peptide"
    ALREADY_USED = "already_used"
    TOO_SIMILAR = "too_similar"
    NOT_VHH = "not_vhh"
    LOW_NATIVENESS = "low_nativeness"
    NO_HUMAN_MATCH = "no_human_match"
    LOW_HUMAN_FRAMEWORK = "low_human_framework"
    NOT_DEVELOPABLE = "not_developable"


class NanobodiesRejected(Exception):
    """Raised by the check that refuses a submission's nanobodies: ``code``, and ``index`` of the sequence if one."""

    def __init__(self, code: NanobodyCode, message: str, index: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.index = index


@dataclass(frozen=True, slots=True)
class NanobodyLimits:
    """The rules' section ``nanobody_requirements``, by the same names; lengths in residues, shares 0 to 1."""

    num_sequences: int
    min_sequence_length: int
    max_sequence_length: int
    min_cysteines: int
    cys_pair_min_separation: int
    cys_pair_max_separation: int
    max_homopolymer_run: int
    max_di_repeat_pairs: int
    sp_window: int
    sp_hydro_min_in_window: int
    sp_scan_prefix: int
    min_nativeness_score: float
    min_human_framework_score: float
    enforce_vhh_hallmarks: bool


class NanobodyTools(Protocol):
    """What programs of their own find out of a normalised sequence, run here or read from a recording.

    Each raises :class:`chem.nanobodies.steps.StepUnavailable` where this validator cannot tell.
    """

    def numbering(self, sequence: str) -> Numbering | None:
        """The IMGT regions; None where it is not one antibody domain."""
        ...

    def identity(self, first: str, second: str, *, whole: bool = False) -> float:
        """Identity of the best local alignment, 0 to 1; ``whole``: over the longer sequence."""
        ...

    def germline(self, sequence: str) -> GermlineHits:
        """IgBLAST's first V hits."""
        ...

    def profile(self, sequence: str) -> Profile | None:
        """TNP's profile; None where it gives none."""
        ...


@dataclass(frozen=True, slots=True)
class AcceptedNanobody:
    """A sequence that passed, with the figures that it passed with."""

    sequence: str
    hash: str
    nativeness: Nativeness
    profile: Profile


@dataclass(frozen=True, slots=True)
class NanobodyRules:
    """The limits in force, each target's archive, and the quirks of nativeness and of similarity."""

    limits: NanobodyLimits
    archives: Mapping[str, NanobodyArchive] = field(default_factory=dict)
    regions_from_alignment: bool = True
    identity_of_alignment: bool = True


def validate_nanobodies(
    items: Sequence[str], against: NanobodyRules, tools: NanobodyTools
) -> tuple[AcceptedNanobody, ...]:
    """Validate one submission's sequences; the costly steps run last and only for what is still in.

    Raises:
        NanobodiesRejected: the first check that fails.
        StepUnavailable: a step cannot be run on this validator, so there is no verdict.
    """
    limits = against.limits
    sequences = [normalised(item) for item in items]
    for index, sequence in enumerate(sequences):
        if "~" in sequence:
            raise NanobodiesRejected(NanobodyCode.TRACK_EXCLUDED, f"sequence {index} contains '~'", index)
    if len(sequences) < limits.num_sequences:
        raise NanobodiesRejected(
            NanobodyCode.WRONG_SEQUENCE_COUNT,
            f"there are {len(sequences)} sequences; {limits.num_sequences} are needed",
        )
    # more than that are ignored, not refused
    del sequences[limits.num_sequences :]
    hashes = [sequence_hash(sequence) for sequence in sequences]
    if len(set(hashes)) < len(hashes):
        raise NanobodiesRejected(NanobodyCode.DUPLICATE_SEQUENCES, "a sequence is given twice")
    for check in (_length, _residues, _run, _pairs, _cysteines):
        _each(check(sequence, limits) for sequence in sequences)
    if limits.min_cysteines > 1 and not any(
        has_cysteine_pair(sequence, limits.cys_pair_min_separation, limits.cys_pair_max_separation)
        for sequence in sequences
    ):
        raise NanobodiesRejected(
            NanobodyCode.NO_CYSTEINE_PAIR,
            f"no sequence has two cysteines {limits.cys_pair_min_separation} to "
            f"{limits.cys_pair_max_separation} residues apart",
        )
    _each(_signal_peptide(sequence, limits) for sequence in sequences)
    _each(_already_used(sequence, against.archives) for sequence in sequences)
    _each(_too_similar(sequence, against, tools) for sequence in sequences)
    found = [
        nativeness(
            tools.numbering(sequence),
            tools.germline(sequence),
            regions_from_alignment=against.regions_from_alignment,
        )
        for sequence in sequences
    ]
    for judge in (_hallmarks, _nativeness, _human_framework):
        _each(judge(of_one, limits) for of_one in found)
    profiles = [tools.profile(sequence) for sequence in sequences]
    _each(_developability(profile) for profile in profiles)
    return tuple(
        AcceptedNanobody(sequence, own, of_one, profile)
        for sequence, own, of_one, profile in zip(sequences, hashes, found, profiles, strict=True)
        if profile is not None
    )


_Refusal = tuple[NanobodyCode, str] | None


def _each(refusals: Iterable[_Refusal]) -> None:
    """One check on every sequence, before the next check has its turn."""
    for index, refusal in enumerate(refusals):
        if refusal is not None:
            code, why = refusal
            raise NanobodiesRejected(code, f"sequence {index} {why}", index)


def _length(sequence: str, limits: NanobodyLimits) -> _Refusal:
    low, high = limits.min_sequence_length, limits.max_sequence_length
    if not low <= len(sequence) <= high:
        return NanobodyCode.SEQUENCE_LENGTH, f"has {len(sequence)} residues; {low} to {high} are allowed"
    return None


def _residues(sequence: str, _: NanobodyLimits) -> _Refusal:
    unknown = sorted(set(sequence) - AMINO_ACIDS)
    if unknown:
        shown = ", ".join(ascii(letter) for letter in unknown[:5])
        return NanobodyCode.INVALID_RESIDUE, f"contains {shown}; only the twenty amino acids' letters are allowed"
    return None


def _run(sequence: str, limits: NanobodyLimits) -> _Refusal:
    found, allowed = longest_run(sequence), limits.max_homopolymer_run
    if found > allowed:
        return NanobodyCode.HOMOPOLYMER_RUN, f"repeats one residue {found} times in a row; {allowed} are allowed"
    return None


def _pairs(sequence: str, limits: NanobodyLimits) -> _Refusal:
    found, allowed = most_repeated_pairs(sequence), limits.max_di_repeat_pairs
    if found > allowed:
        return NanobodyCode.DIPEPTIDE_REPEAT, f"repeats a residue pair {found} times in a row; {allowed} are allowed"
    return None


def _cysteines(sequence: str, limits: NanobodyLimits) -> _Refusal:
    found = sequence.count("C")
    if found < limits.min_cysteines:
        return NanobodyCode.TOO_FEW_CYSTEINES, f"has {found} cysteines; at least {limits.min_cysteines} are needed"
    return None


def _signal_peptide(sequence: str, limits: NanobodyLimits) -> _Refusal:
    if looks_like_signal_peptide(sequence, limits.sp_window, limits.sp_hydro_min_in_window, limits.sp_scan_prefix):
        return (
            NanobodyCode.SIGNAL_PEPTIDE,
            f"looks like it begins with a signal peptide: {limits.sp_hydro_min_in_window} of {limits.sp_window} "
            f"neighbours among the first {limits.sp_scan_prefix} residues are hydrophobic",
        )
    return None


def _already_used(sequence: str, archives: Mapping[str, NanobodyArchive]) -> _Refusal:
    own = sequence_hash(sequence)
    for target, archive in archives.items():
        if own in archive.hashes:
            return NanobodyCode.ALREADY_USED, f"was already used for {target} (SHA-256 {own})"
    return None


def _too_similar(sequence: str, against: NanobodyRules, tools: NanobodyTools) -> _Refusal:
    for target, archive in against.archives.items():
        for other in candidates(sequence, archive.top):
            identity = tools.identity(sequence, other, whole=not against.identity_of_alignment)
            cdrs = cdr_similarities(tools.numbering(sequence), tools.numbering(other))
            if is_duplicate(identity, cdrs):
                detail = ", ".join(f"{name} {similarity:.2f}" for name, similarity in (cdrs or {}).items())
                return (
                    NanobodyCode.TOO_SIMILAR,
                    f"is too similar to {sequence_hash(other)}, one of the best for {target}: "
                    f"identity {identity:.2f}{', ' + detail if detail else ''}",
                )
    return None


def _hallmarks(found: Nativeness, limits: NanobodyLimits) -> _Refusal:
    at_49, at_50 = found.hallmarks or ("X", "X")
    if limits.enforce_vhh_hallmarks and vhh_or_vh(at_49, at_50) != "VHH":
        why = found.rejected or (
            f"IMGT positions 49 and 50 are {at_49} and {at_50}; E or Q, and R are needed"
            if found.hallmarks
            else "its framework 2 is too short"
        )
        return NanobodyCode.NOT_VHH, f"has not the hallmarks of a VHH: {why}"
    return None


def _nativeness(found: Nativeness, limits: NanobodyLimits) -> _Refusal:
    if not found.score >= limits.min_nativeness_score:
        why = f" ({found.rejected})" if found.rejected else ""
        return (
            NanobodyCode.LOW_NATIVENESS,
            f"has a nativeness of {found.score:.4f}{why}; {limits.min_nativeness_score:g} is needed",
        )
    return None


def _human_framework(found: Nativeness, limits: NanobodyLimits) -> _Refusal:
    if found.human is None:
        return NanobodyCode.NO_HUMAN_MATCH, "matches no human V gene"
    if not found.human >= limits.min_human_framework_score:
        return (
            NanobodyCode.LOW_HUMAN_FRAMEWORK,
            f"has a human framework score of {found.human:.4f}; {limits.min_human_framework_score:g} is needed",
        )
    return None


def _developability(profile: Profile | None) -> _Refusal:
    if profile is None:
        return NanobodyCode.NOT_DEVELOPABLE, "has no developability profile: its structure could not be modelled"
    wrong = shortcomings(profile)
    if wrong:
        return NanobodyCode.NOT_DEVELOPABLE, "is not developable: " + "; ".join(wrong)
    return None
