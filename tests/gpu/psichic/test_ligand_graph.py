"""Ligand graphs equal the original's, oddities included."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from golden_psichic import FOLDER, expected, odd_ligands
from rdkit import Chem

from gpu.psichic.errors import LigandError
from gpu.psichic.ligand import JUNCTION, MERGED, RING, LigandGraph, cliques, ligand_graph

ODD = odd_ligands()


def _cliques(types: np.ndarray, membership: np.ndarray) -> Counter[tuple[int, tuple[int, ...]]]:
    """Cliques as a multiset of (type, atoms): their order may differ between RDKit versions."""
    return Counter(
        (int(kind), tuple(sorted(membership[0][membership[1] == k].tolist()))) for k, kind in enumerate(types)
    )


def _bond_matrix(graph: LigandGraph) -> np.ndarray:
    matrix = np.zeros((graph.n_atoms, graph.n_atoms), dtype=np.int64)
    matrix[graph.bond_index[0], graph.bond_index[1]] = graph.bond_type
    return matrix


@pytest.mark.parametrize(
    "position", [i for i, row in enumerate(ODD) if row["status"] == "ok"], ids=lambda i: f"{ODD[i]['tag']}-{i}"
)
def test_equals_the_original(position: int) -> None:
    graph = ligand_graph(ODD[position]["smiles"])
    with np.load(FOLDER / "ligands.npz") as arrays:
        golden = {name: arrays[f"{position}.{name}"] for name in _NAMES}
    np.testing.assert_array_equal(graph.atom_feature, golden["atom_feature"])
    np.testing.assert_array_equal(graph.atom_type, golden["atom_idx"][:, 0])
    np.testing.assert_array_equal(_bond_matrix(graph), golden["bond_feature"])
    np.testing.assert_array_equal(graph.bond_index, golden["atom_edge_index"])
    np.testing.assert_array_equal(graph.bond_type, golden["atom_edge_attr"])
    assert _cliques(graph.clique_type, graph.membership) == _cliques(golden["x_clique"], golden["atom2clique_index"])


_NAMES = (
    "atom_feature",
    "atom_idx",
    "bond_feature",
    "atom_edge_index",
    "atom_edge_attr",
    "x_clique",
    "atom2clique_index",
)


@pytest.mark.parametrize("smiles", [row["smiles"] for row in ODD if row["status"] == "none"])
def test_what_has_no_graph_is_refused_by_name(smiles: str) -> None:
    with pytest.raises(LigandError) as refusal:
        ligand_graph(smiles)
    assert refusal.value.reason.endswith((".", "bonds.", "one."))
    assert smiles in refusal.value.reason


@pytest.mark.parametrize(
    ("smiles", "code"),
    [
        ("", "empty_smiles"),
        ("   ", "empty_smiles"),
        ("C1CC", "unreadable_smiles"),
        ("C\ud800", "unreadable_smiles"),
        ("[Cr]$[Cr]", "unsupported_bond"),
        ("[U](C)(C)(C)(C)(C)(C)(C)(C)(C)(C)C", "degree_too_high"),
    ],
)
def test_refusal_codes(smiles: str, code: str) -> None:
    with pytest.raises(LigandError) as refusal:
        ligand_graph(smiles)
    assert refusal.value.code == code


@pytest.mark.parametrize("smiles", expected().smiles)
def test_sanitising_leaves_the_symmetrised_rings(smiles: str) -> None:
    mol = Chem.MolFromSmiles(smiles)
    kept = [list(ring) for ring in mol.GetRingInfo().AtomRings()]
    assert kept == [list(ring) for ring in Chem.GetSymmSSSR(mol)]


def test_the_legacy_stereo_setting_is_put_back() -> None:
    with_legacy = ligand_graph("C[C@H](O)[C@@H](O)[C@@H](C)O").atom_feature
    Chem.SetUseLegacyStereoPerception(False)
    try:
        without = ligand_graph("C[C@H](O)[C@@H](O)[C@@H](C)O").atom_feature
        assert not Chem.GetUseLegacyStereoPerception()
    finally:
        Chem.SetUseLegacyStereoPerception(True)
    np.testing.assert_array_equal(with_legacy, without)


def test_bonds_sit_one_atom_too_low() -> None:
    graph = ligand_graph("CC=O")
    # C0-C1 is written at (2, 0), C1=O2 at (0, 1)
    assert _bond_matrix(graph).tolist() == [[0, 2, 1], [2, 0, 0], [1, 0, 0]]


def test_rings_merge_in_order_and_a_grown_ring_takes_what_it_was_refused() -> None:
    # ring 0 shares two atoms with ring 2 until it has taken ring 1, which shares three with both
    rings = [[4, 5, 0, 1, 2, 3], [1, 2, 3, 6, 7], [3, 7, 6, 5]]
    types, of_atom = cliques(rings, [], 8)
    assert types == [MERGED]
    assert all(mine == [0] for mine in of_atom)


def test_a_ring_that_touches_only_gained_atoms_stays() -> None:
    # ring 2 shares three atoms with ring 1 but none with ring 0's own
    rings = [[0, 1, 2, 3], [1, 2, 3, 4, 5, 6], [4, 5, 6, 7]]
    types, of_atom = cliques(rings, [], 8)
    assert types == [MERGED, RING]
    assert of_atom[4] == [0, 1]


@pytest.mark.parametrize(
    ("bonds", "rings", "has_junction"),
    [
        ([(0, 1), (0, 2)], [], False),
        ([(0, 1), (0, 2), (0, 3)], [], True),
        ([(0, 1), (0, 2)], [[0, 3, 4]], True),
        ([(0, 1)], [[0, 3, 4], [0, 5, 6]], False),
        ([], [[0, 1, 2, 3, 4], [0, 5, 6, 7, 8], [0, 9, 10, 11, 12]], True),
        ([], [[0, 1, 2, 3], [0, 5, 6, 7], [0, 9, 10, 11]], False),
    ],
)
def test_junctions(bonds: list[tuple[int, int]], rings: list[list[int]], has_junction: bool) -> None:
    types, of_atom = cliques(rings, bonds, 13)
    assert (JUNCTION in types) == has_junction
    if has_junction:
        assert of_atom[0][-1] == len(types) - 1


def test_isolated_ions_are_their_own_cliques_only_where_nothing_else_is() -> None:
    assert cliques([], [], 2) == ([JUNCTION, JUNCTION], [[0], [1]])
    assert cliques([], [(0, 1)], 3)[1][2] == []
