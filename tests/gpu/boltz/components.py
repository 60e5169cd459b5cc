"""boltz's CCD components of the amino acids, built from biotite's copy of the dictionary (no network)."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
from biotite.structure.info.ccd import get_from_ccd
from boltz.data import const
from rdkit import Chem, rdBase
from rdkit.Geometry import Point3D

from gpu.boltz.conformer_worker import embedded_coordinates

_ORDERS = {"SING": Chem.BondType.SINGLE, "DOUB": Chem.BondType.DOUBLE, "TRIP": Chem.BondType.TRIPLE}


def write_components(folder: Path) -> Path:
    """One pickled RDKit molecule per amino acid (and UNK, shaped like alanine) in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    before = Chem.GetDefaultPickleProperties()
    Chem.SetDefaultPickleProperties(Chem.PropertyPickleOptions.AllProps)
    try:
        with rdBase.BlockLogs():
            for name in const.canonical_tokens:
                molecule = _component("ALA" if name == "UNK" else name)
                molecule.SetProp("PDB_NAME", name)
                (folder / f"{name}.pkl").write_bytes(pickle.dumps(molecule))
    finally:
        Chem.SetDefaultPickleProperties(before)
    return folder


def _component(name: str) -> Chem.Mol:
    atoms, bonds = get_from_ccd("chem_comp_atom", name), get_from_ccd("chem_comp_bond", name)

    def column(key: str) -> list[str]:
        return [str(value) for value in atoms[key].as_array(str)]

    ideal = np.stack([atoms[f"pdbx_model_Cartn_{axis}_ideal"].as_array(float) for axis in "xyz"], axis=1)
    draft = Chem.RWMol()
    conformer = Chem.Conformer(len(ideal))
    conformer.SetProp("name", "Ideal")
    index = {}
    rows = zip(
        column("atom_id"),
        column("alt_atom_id"),
        column("type_symbol"),
        column("charge"),
        column("pdbx_leaving_atom_flag"),
        strict=True,
    )
    for place, (atom_id, alternative, symbol, charge, leaving) in enumerate(rows):
        atom = Chem.Atom(symbol.capitalize())
        atom.SetFormalCharge(int(float(charge or 0)))
        atom.SetProp("name", atom_id)
        atom.SetProp("alt_name", alternative)
        atom.SetProp("leaving_atom", "1" if leaving == "Y" else "0")
        index[atom_id] = draft.AddAtom(atom)
        conformer.SetAtomPosition(place, Point3D(*(float(value) for value in ideal[place])))
    for first, second, order in zip(
        *(bonds[key].as_array(str) for key in ("atom_id_1", "atom_id_2", "value_order")), strict=True
    ):
        draft.AddBond(index[first], index[second], _ORDERS[order.upper()])
    draft.AddConformer(conformer, assignId=True)
    molecule = draft.GetMol()
    Chem.SanitizeMol(molecule)
    Chem.AssignStereochemistryFrom3D(molecule)
    computed = embedded_coordinates(molecule, seed=42)
    if computed is not None:
        second = Chem.Conformer(len(computed))
        second.SetPositions(computed)
        second.SetProp("name", "Computed")
        molecule.AddConformer(second, assignId=True)
    heavy = Chem.RemoveHs(molecule, sanitize=False)
    kept = [atom.GetIdx() for atom in heavy.GetAtoms() if atom.GetProp("leaving_atom") == "0"]
    rank = {old: new for new, old in enumerate(kept)}
    symmetries = [
        [rank[match[old]] for old in kept]
        for match in heavy.GetSubstructMatches(heavy, uniquify=False)
        if {match[old] for old in kept} == set(kept)
    ]
    molecule.SetProp("symmetries", pickle.dumps(symmetries).hex())
    return molecule
