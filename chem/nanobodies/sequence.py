"""What the letters of a nanobody show by themselves."""

from __future__ import annotations

import hashlib
from itertools import combinations, groupby
from typing import Final

AMINO_ACIDS: Final = frozenset("ACDEFGHIKLMNPQRSTVWY")
_HYDROPHOBIC: Final = frozenset("AILMFWV")


def normalised(sequence: str) -> str:
    """Upper case, without white space at the ends: the form that is hashed and judged."""
    return sequence.strip().upper()


def sequence_hash(sequence: str) -> str:
    """Hex SHA-256 of a normalised sequence: its identity in archives, score tables and file names."""
    return hashlib.sha256(sequence.encode()).hexdigest()


def longest_run(sequence: str) -> int:
    """Length of the longest stretch of one residue."""
    return max((len(list(run)) for _, run in groupby(sequence)), default=0)


def most_repeated_pairs(sequence: str) -> int:
    """Pairs in the longest stretch ABAB… of two different residues; a pair needs two more letters after it to count."""
    most = 0
    for start in range(len(sequence) - 3):
        pair = sequence[start : start + 2]
        if pair[0] == pair[1]:
            continue
        pairs = 1
        while sequence.startswith(pair, start + 2 * pairs):
            pairs += 1
        most = max(most, pairs)
    return most


def has_cysteine_pair(sequence: str, min_separation: int, max_separation: int) -> bool:
    """Whether two cysteines stand between ``min_separation`` and ``max_separation`` residues apart."""
    positions = [index for index, residue in enumerate(sequence) if residue == "C"]
    return any(min_separation <= later - earlier <= max_separation for earlier, later in combinations(positions, 2))


def looks_like_signal_peptide(sequence: str, window: int, min_hydrophobic: int, prefix: int) -> bool:
    """Whether some ``window`` of the first ``prefix`` residues holds ``min_hydrophobic`` of AILMFWV."""
    start = sequence[:prefix]
    return any(
        sum(residue in _HYDROPHOBIC for residue in start[at : at + window]) >= min_hydrophobic
        for at in range(len(start) - window + 1)
    )
