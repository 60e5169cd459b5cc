"""What the rules ask of one molecule: heavy atoms, rotatable bonds, InChIKey."""

from __future__ import annotations

import re
from typing import Any, Final

from rdkit import Chem, rdBase
from rdkit.Chem import rdMolDescriptors
from rdkit.Chem.inchi import MolToInchiKey

_ELEMENT_SYMBOL: Final = re.compile(r"[A-Z][a-z]?")


def parse_smiles(smiles: str) -> Any | None:
    """The molecule, or None where RDKit cannot read it. RDKit's own log lines are held back."""
    with rdBase.BlockLogs():
        return Chem.MolFromSmiles(smiles)


def heavy_atoms(mol: Any) -> int:
    """Atoms that are not hydrogen."""
    return int(mol.GetNumHeavyAtoms())


def heavy_atoms_of(smiles: str) -> int:
    """Atoms of a SMILES that are not hydrogen; 0 where RDKit cannot read it."""
    mol = parse_smiles(smiles)
    return 0 if mol is None else heavy_atoms(mol)


def heavy_atoms_by_capitals(smiles: str) -> int:
    """Quirk ``heavy_atoms_by_capitals``: element symbols in the SMILES text, aromatic atoms not counted."""
    return sum(symbol != "H" for symbol in _ELEMENT_SYMBOL.findall(smiles))


def rotatable_bonds(mol: Any) -> int:
    """RDKit's ``NumRotatableBonds`` (strict definition)."""
    return int(rdMolDescriptors.CalcNumRotatableBonds(mol))


def inchikey(mol: Any) -> str:
    """The standard InChIKey; the empty string where InChI gives none."""
    with rdBase.BlockLogs():
        return str(MolToInchiKey(mol))  # type: ignore[no-untyped-call]


def element_symbols(mol: Any) -> set[str]:
    """The symbols of the elements in a molecule."""
    return {str(atom.GetSymbol()) for atom in mol.GetAtoms()}
