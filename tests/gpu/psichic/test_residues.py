"""Residue features and graph equal the original's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from golden_psichic import protein_records
from hypothesis import given
from hypothesis import strategies as st

from gpu.psichic.errors import ProteinError
from gpu.psichic.residue import RESIDUES, radial_basis, residue_features, residue_graph, sanitise

NAMES = list(protein_records())


@pytest.mark.parametrize("name", NAMES)
def test_features_equal_the_original(name: str) -> None:
    record = protein_records()[name]
    assert sanitise(record["raw_seq"]) == record["seq"]
    ours = residue_features(record["seq"]).astype(np.float32)
    np.testing.assert_array_equal(ours, record["seq_feat"].numpy())


@pytest.mark.parametrize("name", NAMES)
def test_graph_of_a_contact_map_is_bitwise_the_original(name: str) -> None:
    record = protein_records()[name]
    index, weight = residue_graph(record["contact_map"].numpy())
    np.testing.assert_array_equal(index, record["edge_index"].numpy())
    np.testing.assert_array_equal(weight, record["edge_weight"].numpy())


def test_unknown_residue_has_unscaled_mid_ranges() -> None:
    row = residue_features("X")[0]
    assert row[20] == 1
    assert row[21:26].sum() == 0
    np.testing.assert_allclose(row[26:], [121.635, 2.325, 9.7, 6.24, 6.765, 27, 22.5])


@given(st.text(max_size=30))
def test_sanitising_keeps_the_length_and_happens_once(text: str) -> None:
    clean = sanitise(text)
    assert len(clean) == len(text)
    assert set(clean) <= set(RESIDUES)
    assert sanitise(clean) == clean


@given(st.integers(2, 12), st.integers(0, 2**32 - 1))
def test_graph_laws(length: int, seed: int) -> None:
    index, weight = residue_graph(np.random.default_rng(seed).random((length, length)))
    edges = list(zip(*index.tolist(), strict=True))
    assert len(set(edges)) == len(edges)
    assert {(j, i) for i, j in edges} == set(edges)
    assert edges[-length:] == [(i, i) for i in range(length)]
    assert (weight[-length:] == 1).all()
    assert edges[:-length] == sorted(edges[:-length])
    assert {(i, i + 1) for i in range(length - 1)} <= set(edges)
    assert (weight >= 0.5).all()


def test_one_residue_has_no_edges_and_none_is_refused() -> None:
    index, weight = residue_graph(np.ones((1, 1)))
    assert index.shape == (2, 0)
    assert weight.shape == (0,)
    with pytest.raises(ProteinError):
        residue_graph(np.zeros((0, 0)))
    with pytest.raises(ProteinError):
        residue_graph(np.zeros((2, 3)))


def test_long_maps_are_compared_in_their_own_precision() -> None:
    almost = np.zeros((6, 6))
    almost[0, 5] = 0.5 - 1e-12
    index, _ = residue_graph(almost)
    assert (0, 5) not in set(zip(*index.tolist(), strict=True))


def test_radial_basis_centres_stay_float32() -> None:
    basis = radial_basis(torch.tensor([0.7]), 40, torch.float64)
    exact = torch.exp(-(((torch.tensor([0.7]).double()[:, None] - torch.linspace(0, 1, 40).double()) * 40) ** 2))
    double = torch.exp(
        -(((torch.tensor([0.7]).double()[:, None] - torch.linspace(0, 1, 40, dtype=torch.float64)) * 40) ** 2)
    )
    assert torch.equal(basis, exact)
    assert not torch.equal(basis, double)
    assert torch.equal(
        radial_basis(torch.tensor([1.5]), 40, torch.float64), radial_basis(torch.tensor([1.0]), 40, torch.float64)
    )
