"""The network against the original's intermediates and scores."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from golden_psichic import FOLDER, expected, proteins

from gpu.psichic.checkpoint import load_network, network_shape, open_weights
from gpu.psichic.engine import Engine
from gpu.psichic.ligand import ligand_graph
from gpu.psichic.network import PsichicNetwork
from gpu.psichic.runner import PackedRunner, PairRunner

CPU = torch.device("cpu")
BRIDGED = {"CN1[C@H]2CC[C@@H]1C[C@@H](C2)OC(=O)C(CO)c1ccccc1"}
"""Recorded with RDKit 2026.9; RDKit 2024.9 finds other rings in this tropane, so its cliques differ."""
PAIRS = [
    pair
    for pair in torch.load(FOLDER / "intermediates.pt", weights_only=True)["pairs"]
    if pair["smiles"] not in BRIDGED
]


@pytest.fixture(scope="module")
def network() -> PsichicNetwork:
    return load_network(open_weights(FOLDER))


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair["smiles"])
def test_every_intermediate(pair: dict, network: PsichicNetwork) -> None:
    seen: dict[str, torch.Tensor] = {}
    double = load_network(open_weights(FOLDER)).double()
    double(proteins()[pair["protein_id"]].network_input(), ligand_graph(pair["smiles"]), seen.__setitem__)
    assert len(pair["tensors"]) > 80
    for name, golden in pair["tensors"].items():
        ours = seen[name].reshape(golden.shape)
        torch.testing.assert_close(ours, golden, rtol=1e-11, atol=1e-11, msg=lambda text, name=name: f"{name}: {text}")


def test_degree_averages_keep_the_float32_rounding() -> None:
    shape = network_shape(open_weights(FOLDER))
    assert shape.ligand_degrees.linear == 2.1759512777465098
    assert shape.ligand_degrees.logarithm == 1.128776125751849
    assert shape.protein_degrees.linear == 6.372693817120968
    assert shape.protein_degrees.logarithm == 1.970838033703746


def _all_scores(runner: PairRunner | PackedRunner) -> np.ndarray:
    golden = expected()
    for name in golden.proteins:
        runner.prepare(name, proteins()[name].network_input())
    graphs = [ligand_graph(smiles) for smiles in golden.smiles]
    batches = iter([graphs[i : i + 32] for i in range(0, len(graphs), 32)])
    return np.concatenate(list(runner.run(golden.proteins, batches)), axis=1)


@pytest.fixture(scope="module")
def float64_scores(network: PsichicNetwork) -> np.ndarray:
    return _all_scores(PairRunner(Engine(network, torch.float64, CPU)))


def test_float64_scores_equal_the_original(float64_scores: np.ndarray) -> None:
    golden = expected().scores
    assert (np.abs(float64_scores - golden) <= 1e-9 * np.maximum(1, np.abs(golden))).all()


def test_frozen_scores(float64_scores: np.ndarray) -> None:
    """A change that moves any score by 1e-9 is no refactoring. (Rounding alone stays below 1e-13.)"""
    assert np.abs(float64_scores - expected().scores).max() < 5e-10


def test_packed_float64_scores_equal_the_original(network: PsichicNetwork) -> None:
    golden = expected().scores
    packed = _all_scores(PackedRunner(Engine(network, torch.float64, CPU), slots=16))
    assert (np.abs(packed - golden) <= 1e-9 * np.maximum(1, np.abs(golden))).all()


def test_float32_scores_stay_within_the_spec(network: PsichicNetwork) -> None:
    gap = np.abs(_all_scores(PairRunner(Engine(network, torch.float32, CPU))) - expected().scores)
    assert np.median(gap) < 2e-6
    assert np.quantile(gap, 0.99) < 3e-5
    assert gap.max() < 5e-4


def test_one_residue_and_two(network: PsichicNetwork) -> None:
    """A lone residue has no edges; the engine must agree with the plain network there too."""
    from gpu.psichic.protein import ProteinFeatures
    from gpu.psichic.residue import residue_graph

    graph = ligand_graph("CC(=O)[O-].[Na+]")
    rng = np.random.default_rng(0)
    for length in (1, 2):
        index, weight = residue_graph(np.ones((length, length)))
        token = rng.normal(size=(length, 64)).astype(np.float16)
        features = ProteinFeatures("MK"[:length], token, index, weight)
        runner = PairRunner(Engine(network, torch.float64, CPU))
        runner.prepare("p", features.network_input())
        ours = next(iter(runner.run(["p"], iter([[graph]]))))[0, 0]
        plain = load_network(open_weights(FOLDER)).double()(features.network_input(), graph).item()
        assert ours == pytest.approx(plain, abs=1e-12)
