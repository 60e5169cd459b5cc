"""How close two nanobodies are: shared 5-mers, identity of a local alignment, and each CDR."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any, Final

from chem.nanobodies.numbering import Numbering
from chem.nanobodies.steps import StepUnavailable

KMER: Final = 5
_MIN_SHARED_KMERS: Final = 3
_MIN_JACCARD: Final = 0.3
_MAX_CANDIDATES: Final = 500
_GAP_OPEN, _GAP_EXTEND = 10, 1


def kmers(sequence: str, length: int = KMER) -> frozenset[str]:
    """All stretches of ``length`` residues."""
    return frozenset(sequence[start : start + length] for start in range(len(sequence) - length + 1))


def candidates(sequence: str, known: Sequence[str]) -> list[str]:
    """The known sequences worth aligning, most similar first; the sequence itself is none of them."""
    own = kmers(sequence)
    found = []
    for other in known:
        theirs = kmers(other)
        shared = len(own & theirs)
        if other != sequence and shared >= _MIN_SHARED_KMERS:
            jaccard = shared / len(own | theirs)
            if jaccard >= _MIN_JACCARD:
                found.append((-jaccard, other))
    return [other for _, other in sorted(found, key=lambda item: item[0])[:_MAX_CANDIDATES]]


def local_identity(first: str, second: str, *, whole: bool = False) -> float:
    """Identical columns over all columns of the best local alignment (BLOSUM62, gap 10 to open, 1 to extend).

    So a short perfect match has identity 1.0. ``whole``: over the longer sequence's residues instead.

    Raises:
        StepUnavailable: neither parasail nor Biopython is installed.
    """
    if importlib.util.find_spec("parasail") is not None:
        aligned = _aligned_by_parasail(first, second)
    elif importlib.util.find_spec("Bio") is not None:
        aligned = _aligned_by_biopython(first, second)
    else:
        raise StepUnavailable("alignment", "the package parasail is not installed: install requirements-nanobody.txt")
    return _share(*aligned, max(len(first), len(second)) if whole else len(aligned[0]))


def _aligned_by_parasail(first: str, second: str) -> tuple[str, str]:
    import parasail

    found: Any = parasail.sw_trace_striped_16(first, second, _GAP_OPEN, _GAP_EXTEND, parasail.blosum62)
    return found.traceback.query, found.traceback.ref


def _aligned_by_biopython(first: str, second: str) -> tuple[str, str]:
    from Bio.Align import PairwiseAligner, substitution_matrices

    aligner: Any = PairwiseAligner(mode="local")  # type: ignore[no-untyped-call]
    aligner.substitution_matrix = substitution_matrices.load("BLOSUM62")  # type: ignore[no-untyped-call]
    aligner.open_gap_score, aligner.extend_gap_score = -_GAP_OPEN, -_GAP_EXTEND
    best: Any = next(iter(aligner.align(first, second)), None)
    return ("", "") if best is None else (best[0], best[1])


def _share(first: str, second: str, of: int) -> float:
    matches = sum(own == theirs != "-" for own, theirs in zip(first, second, strict=True))
    return matches / of if of else 0.0


def cdr_similarity(first: str, second: str) -> float:
    """1 less the share of differing places, the difference in length included; two empty CDRs are the same."""
    longer = max(len(first), len(second))
    if not longer:
        return 1.0
    differing = sum(own != theirs for own, theirs in zip(first, second, strict=False))
    return 1.0 - (differing + abs(len(first) - len(second))) / longer


def cdr_similarities(first: Numbering | None, second: Numbering | None) -> dict[str, float] | None:
    """The similarity of each CDR; None where one of the two cannot be numbered."""
    if first is None or second is None:
        return None
    return {name: cdr_similarity(cdr, second.cdrs[name]) for name, cdr in first.cdrs.items()}


def is_duplicate(identity: float, cdrs: Mapping[str, float] | None) -> bool:
    """Whether an alignment's identity (0 to 1) or the CDRs' similarities make two sequences one design."""
    if identity >= 0.95:
        return True
    if not cdrs:
        return identity >= 0.90
    cdr1, cdr2, cdr3 = (cdrs.get(name, 0.0) for name in ("CDR1", "CDR2", "CDR3"))
    return cdr3 >= 0.85 or (cdr3 >= 0.80 and cdr1 >= 0.90 and cdr2 >= 0.90)
