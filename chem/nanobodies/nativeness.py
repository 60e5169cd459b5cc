"""How native to camelids a sequence is, and how close its framework to the human one.

Both come from the best germline V gene that IgBLAST finds and from the IMGT regions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import chain, islice, repeat
from typing import Final, Literal

from chem.nanobodies.numbering import Numbering

_TYPICAL_GERMLINE_LENGTH: Final = 100
_FR2_START: Final = 39
_FR2_MIN_LENGTH: Final = 14

# IMGT position: residues typical of VHH, residues typical of VH
_HALLMARKS: Final = {42: ("FY", "VLI"), 49: ("EQ", "GA"), 50: ("RCWF", "LIV"), 52: ("GFLS", "W")}


@dataclass(frozen=True, slots=True)
class GermlineHit:
    """IgBLAST's first V hit: ``identity`` 0 to 1; query positions 1-based, both included; alignments with gaps."""

    v_call: str
    identity: float
    query_start: int
    query_end: int
    query_alignment: str
    germline_alignment: str

    @property
    def coverage(self) -> float:
        """Aligned residues of the query over the ungapped length of the germline's part."""
        germline = sum(letter not in "-." for letter in self.germline_alignment)
        return (self.query_end - self.query_start + 1) / (germline or _TYPICAL_GERMLINE_LENGTH)


@dataclass(frozen=True, slots=True)
class GermlineHits:
    """The first V hit in each germline set; None where IgBLAST finds none."""

    camelid: GermlineHit | None
    human: GermlineHit | None


@dataclass(frozen=True, slots=True)
class Nativeness:
    """``score`` 0 to 1; ``rejected`` says why it is 0 by decree. ``hallmarks``: IMGT 49 and 50, None where unknown."""

    score: float
    human: float | None
    hallmarks: tuple[str, str] | None
    rejected: str | None = None


def nativeness(numbering: Numbering | None, hits: GermlineHits, *, regions_from_alignment: bool = True) -> Nativeness:
    """Judge one sequence by its regions and germline hits.

    Quirk ``regions_from_alignment``: regions are counted from the alignment's first residue, not the sequence's.
    """
    if numbering is None:
        return Nativeness(0.0, None, None, "it cannot be numbered as one antibody domain")
    human = None if hits.human is None else human_framework(hits.human)
    rejected = _hard_rejection(numbering, hits.camelid)
    if rejected is not None or hits.camelid is None:
        return Nativeness(0.0, human, None, rejected)
    score = (
        0.25 * _germline_fit(hits.camelid)
        + 0.30
        * _mutation_pattern(hits.camelid, numbering, 0 if regions_from_alignment else hits.camelid.query_start - 1)
        + 0.20 * math.exp(-(((len(numbering.cdr3) - 18) / 8) ** 2))
        + 0.25 * _hallmark_score(numbering.fr2)
    )
    return Nativeness(_share(score), human, hallmark_residues(numbering.fr2))


def human_framework(hit: GermlineHit) -> float:
    """0 to 1 from identity and coverage of the human germline."""
    return _share(0.8 * _share((hit.identity - 0.60) / (0.90 - 0.60)) + 0.2 * _share((hit.coverage - 0.80) / 0.20))


def hallmark_residues(fr2: str) -> tuple[str, str] | None:
    """The residues at IMGT 49 and 50; None where framework 2 is too short to tell."""
    if len(fr2) < _FR2_MIN_LENGTH:
        return None
    return fr2[49 - _FR2_START], fr2[50 - _FR2_START]


def vhh_or_vh(position_49: str, position_50: str) -> Literal["VHH", "VH"]:
    """VHH has E or Q (or nothing) at IMGT 49 and R at 50. An unknown residue is ``X``."""
    return "VHH" if position_49 in {"", "E", "Q"} and position_50 == "R" else "VH"


def _hard_rejection(numbering: Numbering, hit: GermlineHit | None) -> str | None:
    if hit is None or not hit.v_call:
        return "no camelid V gene matches it"
    if hit.coverage < 0.80:
        return f"the V gene covers {hit.coverage:.2f} of the germline; 0.80 is needed"
    if hit.identity < 0.70:
        return f"its identity with the V gene is {hit.identity:.2f}; 0.70 is needed"
    if not numbering.cdr3:
        return "it has no CDR3"
    if not 6 <= len(numbering.cdr3) <= 35:
        return f"its CDR3 has {len(numbering.cdr3)} residues; 6 to 35 are allowed"
    return None


def _germline_fit(hit: GermlineHit) -> float:
    return 0.7 * _share((hit.identity - 0.70) / (0.95 - 0.70)) + 0.3 * _share((hit.coverage - 0.80) / (1.00 - 0.80))


def _mutation_pattern(hit: GermlineHit, numbering: Numbering, skipped: int) -> float:
    """Frameworks should match the germline, CDRs about half; the alignment begins ``skipped`` residues into them."""
    query, germline = hit.query_alignment, hit.germline_alignment
    if not query or len(query) != len(germline):
        return _share((hit.identity - 0.75) / (0.95 - 0.75))
    of_residues = chain.from_iterable(repeat(place % 2, len(region)) for place, region in enumerate(numbering.regions))
    kinds = islice(of_residues, max(skipped, 0), None)
    matches: tuple[list[bool], list[bool]] = ([], [])
    for own, theirs in zip(query, germline, strict=True):
        kind = next(kinds, None) if own != "-" else None
        if kind is not None and theirs != "-":
            matches[kind].append(own == theirs)
    framework, cdr = (sum(found) / len(found) if found else None for found in matches)
    framework_score = 0.5 if framework is None else _share((framework - 0.80) / (1.0 - 0.80))
    cdr_score = 0.5 if cdr is None else 1.0 - _share(abs(cdr - 0.55) / 0.45) * 0.35
    return 0.80 * framework_score + 0.20 * cdr_score


def _hallmark_score(fr2: str) -> float:
    if len(fr2) < _FR2_MIN_LENGTH:
        return 0.5
    worth = 0.0
    for position, (vhh, vh) in _HALLMARKS.items():
        residue = fr2[position - _FR2_START]
        worth += 1.0 if residue in vhh else 0.0 if residue in vh else 0.25
    return worth / len(_HALLMARKS)


def _share(value: float) -> float:
    return min(max(value, 0.0), 1.0)
