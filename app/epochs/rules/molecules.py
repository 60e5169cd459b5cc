"""Checks of molecules, for rule sets to put in their order. Importing this loads RDKit."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from app.domain import Molecule, Rejection, RejectionCode
from app.untrusted import shown
from chem.database import BuildingBlock, CombinatorialDatabase
from chem.history import History, Resemblance
from chem.names import CombinatorialName
from chem.properties import (
    element_symbols,
    heavy_atoms,
    heavy_atoms_by_capitals,
    inchikey,
    parse_smiles,
    rotatable_bonds,
)
from chem.reactions import product_smiles


@dataclass(slots=True)
class Entry:
    """One named molecule on its way through the checks; each notes what the next ones read."""

    index: int
    name: str
    parsed: CombinatorialName | None
    smiles: str = ""
    mol: Any = None
    inchikey: str = ""
    nearest: tuple[str, Resemblance] | None = None

    def refusal(self, code: RejectionCode, why: str) -> Rejection:
        """The refusal of this molecule, in words its miner understands."""
        sentence = f"molecule {self.index} ({shown(self.name, 60)}) {why}"
        return Rejection(code, sentence, self.name, self.index, self.smiles or None)

    @property
    def molecule(self) -> Molecule:
        """The molecule, once every check has passed."""
        return Molecule(self.name, self.smiles, self.inchikey)


def entries(names: Sequence[str], parse: Callable[[str], CombinatorialName | None]) -> list[Entry]:
    """The names of one submission, parsed."""
    return [Entry(index, name, parse(name)) for index, name in enumerate(names)]


def building_blocks(items: Sequence[Entry], database: CombinatorialDatabase) -> dict[int, BuildingBlock]:
    """All building blocks that the names ask for, in one read."""
    return database.building_blocks(number for item in items if item.parsed for number in item.parsed.reactants)


def duplicate_names(items: Sequence[Entry]) -> Rejection | None:
    """The same name twice."""
    first_at: dict[str, int] = {}
    for item in items:
        if item.name in first_at:
            return Rejection(
                RejectionCode.DUPLICATE_NAMES,
                f"molecule {item.index} repeats the name of molecule {first_at[item.name]}: {shown(item.name, 60)}",
                item.name,
                item.index,
            )
        first_at[item.name] = item.index
    return None


def identical_molecules(items: Sequence[Entry]) -> Rejection | None:
    """The same compound, by InChIKey, under two names."""
    first: dict[str, Entry] = {}
    for item in items:
        # a compound that InChI cannot describe has no key: only the same SMILES then says that two are one
        if (earlier := first.setdefault(item.inchikey or item.smiles, item)) is not item:
            return Rejection(
                RejectionCode.CHEMICALLY_IDENTICAL,
                f"molecule {item.index} ({shown(item.name, 60)}) is the same compound as molecule {earlier.index} "
                f"({shown(earlier.name, 60)}): {_compound(item)}",
                item.name,
                item.index,
                item.smiles or None,
            )
    return None


def reaction_allowed(
    allowed: Collection[int | str], reaction_of: Callable[[str], int | str | None]
) -> Callable[[Entry], Rejection | None]:
    """The reaction that the name claims is one of the epoch's."""
    listed = ", ".join(f"rxn:{r}" if isinstance(r, int) else r for r in allowed)

    def check(item: Entry) -> Rejection | None:
        if reaction_of(item.name) in allowed:
            return None
        return item.refusal(
            RejectionCode.REACTION_NOT_ALLOWED, f"is not of an allowed reaction; this epoch takes {listed}"
        )

    return check


def in_database(
    database: CombinatorialDatabase, blocks: dict[int, BuildingBlock], *, any_bit_order: bool = False
) -> Callable[[Entry], Rejection | None]:
    """The database can make the molecule; notes its SMILES and structure."""

    def check(item: Entry) -> Rejection | None:
        smiles = product_smiles(item.parsed, database.reactions, blocks, any_bit_order) if item.parsed else None
        mol = parse_smiles(smiles) if smiles else None
        if smiles is None or mol is None:
            return item.refusal(RejectionCode.NOT_IN_DATABASE, "cannot be made from the combinatorial database")
        item.smiles, item.mol = smiles, mol
        return None

    return check


def enough_heavy_atoms(least: int, *, by_capitals: bool = False) -> Callable[[Entry], Rejection | None]:
    """At least so many atoms that are not hydrogen; ``by_capitals`` counts them on the SMILES text."""

    def check(item: Entry) -> Rejection | None:
        atoms = heavy_atoms_by_capitals(item.smiles) if by_capitals else heavy_atoms(item.mol)
        if atoms >= least:
            return None
        return item.refusal(RejectionCode.TOO_FEW_HEAVY_ATOMS, f"has {atoms} heavy atoms; at least {least} are needed")

    return check


def banned_atoms(symbols: Collection[str]) -> Callable[[Entry], Rejection | None]:
    """No atom of these elements."""

    def check(item: Entry) -> Rejection | None:
        found = sorted(element_symbols(item.mol) & set(symbols))
        if not found:
            return None
        return item.refusal(RejectionCode.BANNED_ATOM, f"contains {', '.join(found)}, which this epoch does not allow")

    return check


def unlike_history(history: History, target: str, least: float) -> Callable[[Entry], Rejection | None]:
    """Less similar than ``least`` (Tanimoto) to every molecule submitted for the target before; notes the nearest."""

    def check(item: Entry) -> Rejection | None:
        nearest = history.nearest(item.mol)
        if nearest is None:
            return None
        if item.nearest is None or nearest.similarity > item.nearest[1].similarity:
            item.nearest = target, nearest
        if nearest.similarity < least:
            return None
        return item.refusal(
            RejectionCode.TOO_SIMILAR,
            f"resembles {shown(nearest.smiles, 200)}, submitted for {target} before, by {nearest.similarity:.3f}; "
            f"less than {least} is needed",
        )

    return check


def rotatable_bonds_within(least: int, most: int) -> Callable[[Entry], Rejection | None]:
    """RDKit's strict count of rotatable bonds lies in ``[least, most]``."""

    def check(item: Entry) -> Rejection | None:
        bonds = rotatable_bonds(item.mol)
        if least <= bonds <= most:
            return None
        return item.refusal(
            RejectionCode.ROTATABLE_BONDS, f"has {bonds} rotatable bonds; {least} to {most} are allowed"
        )

    return check


def not_used_before(archive: Collection[str] | None, target: str) -> Callable[[Entry], Rejection | None]:
    """The InChIKey, which is noted, is not in the target's archive; an archive of None refuses every molecule."""

    def check(item: Entry) -> Rejection | None:
        if archive is None:
            return item.refusal(
                RejectionCode.ALREADY_USED,
                f"cannot be shown to be new: the archive of {target} was not readable for this validator",
            )
        item.inchikey = inchikey(item.mol)
        if item.inchikey not in archive:
            return None
        return item.refusal(RejectionCode.ALREADY_USED, f"was already used for {target} (InChIKey {item.inchikey})")

    return check


def _compound(item: Entry) -> str:
    return f"InChIKey {item.inchikey}" if item.inchikey else f"SMILES {shown(item.smiles, 200)}"
