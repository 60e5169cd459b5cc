"""A ligand's graph: atoms, shifted bonds and cliques, from its SMILES."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gpu.psichic.errors import LigandError

ATOM_FEATURES: Final = 43
MAX_DEGREE: Final = 10

RING, BOND, MERGED, JUNCTION = 0, 1, 2, 3

_ELEMENTS: Final = {5: 1, 6: 2, 7: 3, 8: 4, 15: 5, 16: 6, 34: 7, 9: 8, 17: 8, 35: 8, 53: 8}
_METALS: Final = frozenset((3, 4, 11, 12, 13, *range(19, 32), *range(37, 51), *range(55, 84), *range(87, 104)))
_ATOM_TYPE: Final = tuple(_ELEMENTS.get(z, 9 if z in _METALS else 0) for z in range(128))


@dataclass(frozen=True, slots=True)
class LigandGraph:
    """One molecule as the network sees it: n atoms, b directed bonds, c cliques, a incidences.

    Bonds are shifted by one atom and sorted by (row, column); the bond matrix is symmetric, so the rows
    serve as targets and the columns as sources alike. Incidences are sorted by (atom, clique).
    """

    smiles: str
    atom_feature: NDArray[np.uint8]
    """n × 43, zeros and ones"""
    atom_type: NDArray[np.int64]
    """n"""
    bond_index: NDArray[np.int64]
    """2 × b: row and column of the shifted bond matrix"""
    bond_type: NDArray[np.int64]
    """b, from 1 to 4"""
    clique_type: NDArray[np.int64]
    """c"""
    membership: NDArray[np.int64]
    """2 × a: atom and clique of each incidence"""

    @property
    def n_atoms(self) -> int:
        """Atoms, explicit hydrogens and other fragments included."""
        return int(self.atom_type.shape[0])

    @property
    def n_bonds(self) -> int:
        """Directed bonds."""
        return int(self.bond_type.shape[0])

    @property
    def n_cliques(self) -> int:
        """Cliques, junctions included."""
        return int(self.clique_type.shape[0])


class _Chemistry:
    """RDKit's names, looked up once on first use."""

    def __init__(self) -> None:
        from rdkit import Chem, rdBase
        from rdkit.Chem import rdqueries

        kind, hybrid = Chem.BondType, Chem.HybridizationType
        self.chem = Chem
        self.block_logs = rdBase.BlockLogs
        self.bond_types = {kind.SINGLE: 1, kind.DOUBLE: 2, kind.TRIPLE: 3, kind.AROMATIC: 4, kind.UNSPECIFIED: 1}
        self.hybridization = {hybrid.SP: 33, hybrid.SP2: 34, hybrid.SP3: 35, hybrid.SP3D: 36, hybrid.SP3D2: 37}
        self.has_cip = rdqueries.HasPropQueryAtom("_CIPCode")
        self.has_possible = rdqueries.HasPropQueryAtom("_ChiralityPossible")


_chemistry: _Chemistry | None = None


def _rdkit() -> _Chemistry:
    global _chemistry  # noqa: PLW0603  one lookup per process
    if _chemistry is None:
        _chemistry = _Chemistry()
    return _chemistry


def _parse(smiles: str, rd: _Chemistry) -> Any:
    """The molecule with RDKit's legacy stereo perception, or :class:`LigandError`."""
    chem = rd.chem
    if not isinstance(smiles, str) or not smiles.strip():
        raise LigandError("empty_smiles", "the SMILES is empty; give a molecule with at least one atom.")
    legacy = chem.GetUseLegacyStereoPerception()
    if not legacy:
        chem.SetUseLegacyStereoPerception(True)
    try:
        with rd.block_logs():
            mol = chem.MolFromSmiles(smiles)
    except (RuntimeError, ValueError):
        mol = None
    finally:
        if not legacy:
            chem.SetUseLegacyStereoPerception(False)
    if mol is None:
        raise LigandError(
            "unreadable_smiles",
            f"RDKit cannot read {smiles!r} as a molecule; check its brackets, rings and valences.",
        )
    if mol.GetNumAtoms() == 0:
        raise LigandError("empty_smiles", f"{smiles!r} holds no atom; give a molecule with at least one.")
    return mol


def _atoms(mol: Any, rd: _Chemistry, smiles: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Atom features (n × 43) and types (n)."""
    n = mol.GetNumAtoms()
    hot: list[int] = []
    types: list[int] = []
    hybridization = rd.hybridization
    base = 0
    for position in range(n):
        atom = mol.GetAtomWithIdx(position)
        degree = atom.GetDegree()
        if degree > MAX_DEGREE:
            raise LigandError(
                "degree_too_high",
                f"atom {atom.GetIdx()} of {smiles!r} has {degree} neighbours; PSICHIC knows at most 10.",
            )
        hydrogens = atom.GetTotalNumHs()
        valence = atom.GetImplicitValence()
        hot += (
            base + degree,
            base + 11 + (hydrogens if 0 <= hydrogens <= 10 else 10),
            base + 22 + (valence if 0 <= valence <= 10 else 10),
            base + hybridization.get(atom.GetHybridization(), 38),
        )
        if atom.GetIsAromatic():
            hot.append(base + 39)
        types.append(_ATOM_TYPE[atom.GetAtomicNum()])
        base += ATOM_FEATURES
    for atom in mol.GetAtomsMatchingQuery(rd.has_cip):
        hot.append(atom.GetIdx() * ATOM_FEATURES + (40 if atom.GetProp("_CIPCode") == "R" else 41))
    for atom in mol.GetAtomsMatchingQuery(rd.has_possible):
        hot.append(atom.GetIdx() * ATOM_FEATURES + 42)
    feature = np.zeros(n * ATOM_FEATURES, dtype=np.uint8)
    feature[hot] = 1
    return feature.reshape(n, ATOM_FEATURES), np.array(types, dtype=np.int64)


def _shifted_bonds(bonds: list[tuple[int, int, int]], n: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The non-zero positions and values of the shifted bond matrix, row by row."""
    cells: dict[int, int] = {}
    for u, v, kind in bonds:
        row, column = (u - 1) % n, (v - 1) % n
        cells[row * n + column] = cells[column * n + row] = kind
    flat = np.array(sorted(cells), dtype=np.int64)
    values = np.array([cells[position] for position in flat.tolist()], dtype=np.int64)
    return np.stack((flat // n, flat % n)), values


def cliques(rings: list[list[int]], chain_bonds: list[tuple[int, int]], n: int) -> tuple[list[int], list[list[int]]]:
    """Clique types and, per atom, its cliques in ascending order, from rings and non-ring bonds."""
    members: list[list[int]] = [*rings, *([u, v] for u, v in chain_bonds)]
    types = [RING] * len(rings) + [BOND] * len(chain_bonds)
    if len(rings) > 1:
        members, types = _merged_rings(members, types, len(rings), n)
    of_atom: list[list[int]] = [[] for _ in range(n)]
    for k, atoms in enumerate(members):
        for a in atoms:
            of_atom[a].append(k)
    sizes = [len(atoms) for atoms in members]
    for a in range(n):
        mine = of_atom[a]
        if len(mine) < 2:
            continue
        pairs = sum(1 for k in mine if sizes[k] == 2)
        large = sum(1 for k in mine if sizes[k] > 4)
        if pairs > 2 or (pairs == 2 and len(mine) > 2) or large > 2:
            mine.append(len(types))
            types.append(JUNCTION)
    if not members:
        return [JUNCTION] * n, [[a] for a in range(n)]
    return types, of_atom


def _merged_rings(
    members: list[list[int]], types: list[int], n_rings: int, n: int
) -> tuple[list[list[int]], list[int]]:
    """Second step: rings that share more than two atoms become one clique; the absorbed are dropped."""
    rings_of: list[list[int]] = [[] for _ in range(n)]
    for k in range(n_rings):
        for a in members[k]:
            rings_of[a].append(k)
    sets: list[set[int]] = [set(atoms) for atoms in members[:n_rings]]
    touched = False
    for i in range(n_rings):
        if not sets[i]:
            continue
        # A ring's turn starts from its own atoms: only a lower-numbered one could have changed it, by absorbing it.
        for a in members[i]:
            for j in rings_of[a]:
                if j > i and len(sets[j]) > 2 and len(sets[i] & sets[j]) > 2:
                    sets[i] = sets[i] | sets[j]
                    sets[j] = set()
                    types[i] = MERGED
                    touched = True
    if not touched:
        return members, types
    kept = [(sorted(atoms), types[k]) for k, atoms in enumerate(sets) if atoms]
    kept += [(atoms, types[n_rings + k]) for k, atoms in enumerate(members[n_rings:])]
    return [atoms for atoms, _ in kept], [kind for _, kind in kept]


def ligand_graph(smiles: str) -> LigandGraph:
    """The graph of one SMILES, taken as written.

    Raises :class:`LigandError` for what has no graph: unreadable or empty SMILES, an atom with more than
    ten neighbours, a bond type the network has never seen.
    """
    try:
        return _graph(smiles, _rdkit())
    except (RuntimeError, ValueError, KeyError, IndexError) as error:
        raise LigandError("no_graph", f"RDKit failed on {smiles!r}: {error}") from error


def _graph(smiles: str, rd: _Chemistry) -> LigandGraph:
    mol = _parse(smiles, rd)
    n = mol.GetNumAtoms()
    feature, atom_type = _atoms(mol, rd, smiles)
    # Sanitising has left what GetSymmSSSR would compute again: the same rings, in the same order.
    ring_info = mol.GetRingInfo()
    in_ring = {index for ring in ring_info.BondRings() for index in ring}
    bonds: list[tuple[int, int, int]] = []
    chain_bonds: list[tuple[int, int]] = []
    for index in range(mol.GetNumBonds()):
        bond = mol.GetBondWithIdx(index)
        kind = rd.bond_types.get(bond.GetBondType())
        u, v = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        if kind is None:
            raise LigandError(
                "unsupported_bond",
                f"the bond between atoms {u} and {v} of {smiles!r} is of type {bond.GetBondType()}; "
                "PSICHIC knows single, double, triple and aromatic bonds.",
            )
        bonds.append((u, v, kind))
        if index not in in_ring:
            chain_bonds.append((u, v))
    bond_index, bond_type = _shifted_bonds(bonds, n)
    rings = [list(ring) for ring in ring_info.AtomRings()]
    types, of_atom = cliques(rings, chain_bonds, n)
    membership = [(a, k) for a, mine in enumerate(of_atom) for k in mine]
    return LigandGraph(
        smiles=smiles,
        atom_feature=feature,
        atom_type=atom_type,
        bond_index=bond_index,
        bond_type=bond_type,
        clique_type=np.array(types, dtype=np.int64),
        membership=np.array(membership, dtype=np.int64).reshape(-1, 2).T.copy(),
    )
