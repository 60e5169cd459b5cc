"""Whether Boltz-2 can name a ligand's atoms: symbol and canonical rank in at most four characters."""

from __future__ import annotations

from typing import Any, Final

from rdkit import Chem

from chem.properties import parse_smiles

LONGEST_ATOM_NAME: Final = 4


def atom_name_fault(smiles: str) -> str | None:
    """Why Boltz-2 cannot take a ligand; None where it can. Hydrogens count."""
    mol: Any = parse_smiles(smiles)
    if mol is None:
        return "RDKit cannot read the SMILES"
    mol = Chem.AddHs(mol)
    atoms: Any = mol.GetAtoms()
    for atom, rank in zip(atoms, Chem.CanonicalRankAtoms(mol), strict=True):
        name = f"{atom.GetSymbol().upper()}{rank + 1}"
        if len(name) > LONGEST_ATOM_NAME:
            return f"atom name {name} would exceed {LONGEST_ATOM_NAME} characters"
    return None
