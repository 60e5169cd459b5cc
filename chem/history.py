"""How much a molecule resembles those that were submitted for a target before: Morgan fingerprints, Tanimoto."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from rdkit import DataStructs
from rdkit.Chem import rdFingerprintGenerator

from chem.archive import ArchiveUnreadable
from chem.properties import parse_smiles

SMILES_COLUMN: Final = "SMILES"

# The subnet's: radius 2, 2,048 bits, no chirality, no features.
_GENERATOR: Final = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)


class Resemblance(NamedTuple):
    """The most similar archived molecule: its SMILES as archived, and the Tanimoto similarity (0 to 1)."""

    smiles: str
    similarity: float


class History:
    """The fingerprints of a target's archived molecules. Rows that RDKit cannot read are left out and counted."""

    def __init__(self, smiles: Sequence[str]) -> None:
        self._smiles: list[str] = []
        self._fingerprints: list[Any] = []
        for text in smiles:
            # a molecule that is None ends the process in RDKit's fingerprint code
            if (mol := parse_smiles(text)) is not None and mol.GetNumAtoms():
                self._smiles.append(text)
                self._fingerprints.append(_GENERATOR.GetFingerprint(mol))
        self.unreadable = len(smiles) - len(self._smiles)

    def nearest(self, mol: Any) -> Resemblance | None:
        """The archived molecule that resembles ``mol`` most; None where nothing is archived."""
        if not self._fingerprints:
            return None
        similarities = DataStructs.BulkTanimotoSimilarity(_GENERATOR.GetFingerprint(mol), self._fingerprints)
        best = max(range(len(similarities)), key=similarities.__getitem__)
        return Resemblance(self._smiles[best], similarities[best])


def tanimoto(first: Any, second: Any) -> float:
    """The similarity of two molecules, 0 to 1."""
    return float(DataStructs.TanimotoSimilarity(_GENERATOR.GetFingerprint(first), _GENERATOR.GetFingerprint(second)))


def read_history(path: Path) -> History:
    """The molecules in an archive file, by its column ``SMILES``; without the column there are none.

    Raises:
        ArchiveUnreadable: not a CSV in UTF-8.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            return History([row[SMILES_COLUMN] for row in csv.DictReader(stream) if row.get(SMILES_COLUMN)])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ArchiveUnreadable(f"archive {path} cannot be read: {error}") from None
