"""One submission's molecules against the rules: all or nothing, first failure wins (specs/epoch.md §6)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from app.domain import Molecule, RejectionCode, SubmissionRejected, rejected
from app.rules import Rules
from app.untrusted import shown
from chem.database import BuildingBlock, CombinatorialDatabase
from chem.diversity import maccs_entropy
from chem.names import CombinatorialName, parse_name, reaction_of
from chem.properties import heavy_atoms, heavy_atoms_by_capitals, inchikey, parse_smiles, rotatable_bonds
from chem.reactions import product_smiles


@dataclass(frozen=True, slots=True)
class ValidatedMolecules:
    """A submission that passed: its molecules in the miner's order, and their MACCS entropy in bits."""

    molecules: tuple[Molecule, ...]
    entropy: float


@dataclass(frozen=True, slots=True)
class MoleculeRules:
    """All that :func:`validate_molecules` asks: the rules, the epoch's reactions, and the target's archive.

    ``archive`` holds InChIKeys already used; None means unreadable and then refuses every molecule
    (``archive_unavailable: reject``).
    """

    rules: Rules
    allowed_reactions: Collection[int | str]
    archive: Collection[str] | None
    target: str


def validate_molecules(
    names: Sequence[str], database: CombinatorialDatabase, against: MoleculeRules
) -> ValidatedMolecules:
    """Validate one submission's names, in the order that the specification fixes.

    Raises:
        SubmissionRejected: the first rule that is broken, with molecule, index and a sentence.
    """
    _refuse_duplicate_names(names)
    parsed = [parse_name(name) for name in names]
    blocks = database.building_blocks(i for name in parsed if name for i in name.reactants)
    molecules: list[Molecule] = []
    mols: list[Any] = []
    for index, name in enumerate(names):
        molecule, mol = _validate_one(index, name, parsed[index], blocks, database, against)
        molecules.append(molecule)
        mols.append(mol)
    _refuse_identical(molecules)
    return ValidatedMolecules(tuple(molecules), maccs_entropy(mols))


def _refuse_duplicate_names(names: Sequence[str]) -> None:
    first_at: dict[str, int] = {}
    for index, name in enumerate(names):
        if name in first_at:
            raise rejected(
                RejectionCode.DUPLICATE_NAMES,
                f"molecule {index} repeats the name of molecule {first_at[name]}: {shown(name, 60)}",
                name,
                index,
            )
        first_at[name] = index


def _validate_one(
    index: int,
    name: str,
    parsed: CombinatorialName | None,
    blocks: dict[int, BuildingBlock],
    database: CombinatorialDatabase,
    against: MoleculeRules,
) -> tuple[Molecule, Any]:
    limits = against.rules.molecule_validation

    def refuse(code: RejectionCode, why: str) -> SubmissionRejected:
        return rejected(code, f"molecule {index} ({shown(name, 60)}) {why}", name, index)

    reaction = reaction_of(name)
    if reaction not in against.allowed_reactions:
        allowed = ", ".join(f"rxn:{r}" if isinstance(r, int) else r for r in against.allowed_reactions)
        raise refuse(RejectionCode.REACTION_NOT_ALLOWED, f"is not of an allowed reaction; this epoch takes {allowed}")
    smiles = product_smiles(parsed, database.reactions, blocks) if parsed else None
    mol = parse_smiles(smiles) if smiles else None
    if smiles is None or mol is None:
        raise refuse(RejectionCode.NOT_IN_DATABASE, "cannot be made from the combinatorial database")
    capitals = against.rules.has_quirk("heavy_atoms_by_capitals")
    atoms = heavy_atoms_by_capitals(smiles) if capitals else heavy_atoms(mol)
    if atoms < limits.min_heavy_atoms:
        raise refuse(
            RejectionCode.TOO_FEW_HEAVY_ATOMS, f"has {atoms} heavy atoms; at least {limits.min_heavy_atoms} are needed"
        )
    bonds = rotatable_bonds(mol)
    if not limits.min_rotatable_bonds <= bonds <= limits.max_rotatable_bonds:
        raise refuse(
            RejectionCode.ROTATABLE_BONDS,
            f"has {bonds} rotatable bonds; {limits.min_rotatable_bonds} to {limits.max_rotatable_bonds} are allowed",
        )
    if against.archive is None:
        raise refuse(
            RejectionCode.ALREADY_USED,
            f"cannot be shown to be new: the archive of {against.target} was not readable for this validator",
        )
    key = inchikey(mol)
    if key in against.archive:
        raise refuse(RejectionCode.ALREADY_USED, f"was already used for {against.target} (InChIKey {key})")
    return Molecule(name, smiles, key), mol


def _refuse_identical(molecules: Sequence[Molecule]) -> None:
    first_at: dict[str, int] = {}
    for index, molecule in enumerate(molecules):
        # a compound that InChI cannot describe has no key: only the same SMILES then says that two are one
        identity = molecule.inchikey or molecule.smiles
        if identity in first_at:
            earlier = first_at[identity]
            raise rejected(
                RejectionCode.CHEMICALLY_IDENTICAL,
                f"molecule {index} ({shown(molecule.name, 60)}) is the same compound as molecule {earlier} "
                f"({shown(molecules[earlier].name, 60)}): {_compound(molecule)}",
                molecule.name,
                index,
            )
        first_at[identity] = index


def _compound(molecule: Molecule) -> str:
    return f"InChIKey {molecule.inchikey}" if molecule.inchikey else f"SMILES {shown(molecule.smiles, 200)}"
