"""MACCS entropy: how varied a set of molecules is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

from rdkit.Chem import rdMolDescriptors

from chem.properties import parse_smiles

MACCS_BITS: Final = 167


def maccs_entropy(mols: Sequence[Any]) -> float:
    """Mean over the 167 MACCS bits of the binary entropy (in bits) of the share of molecules with the bit.

    0 for molecules that are all alike, 1 at most; 0.0 for no molecules.
    """
    if not mols:
        return 0.0
    counts = [0] * MACCS_BITS
    for mol in mols:
        for bit in rdMolDescriptors.GetMACCSKeysFingerprint(mol).GetOnBits():
            counts[bit] += 1
    return math.fsum(_binary_entropy(count / len(mols)) for count in counts) / MACCS_BITS


def smiles_entropy(smiles: Sequence[str]) -> float | None:
    """MACCS entropy of molecules given as SMILES; None where one cannot be read."""
    mols = [parse_smiles(text) for text in smiles]
    return None if any(mol is None for mol in mols) else maccs_entropy(mols)


def _binary_entropy(p: float) -> float:
    if p in (0.0, 1.0):
        return 0.0
    return -p * math.log2(p) - (1 - p) * math.log2(1 - p)
