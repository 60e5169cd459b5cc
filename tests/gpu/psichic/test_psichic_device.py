"""PSICHIC on a CUDA device (make test-gpu): the golden scores, batch independence, memory."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[3])]

from golden_psichic import FOLDER, expected, proteins  # noqa: E402

from app.domain import Protein  # noqa: E402
from gpu.psichic import plain_kernels  # noqa: E402
from gpu.psichic.checkpoint import load_network, open_weights  # noqa: E402
from gpu.psichic.engine import Engine  # noqa: E402
from gpu.psichic.ligand import LigandGraph, ligand_graph  # noqa: E402
from gpu.psichic.runner import PackedRunner, PairRunner  # noqa: E402
from gpu.psichic.scorer import PsichicScorer, fastest_kernels  # noqa: E402
from tests.benchmarks.psichic_workload import (  # noqa: E402
    drug_like_smiles,
    full_size_network,
    synthetic_protein,
)

pytestmark = pytest.mark.gpu


@pytest.fixture
def cuda() -> torch.device:
    if not torch.cuda.is_available():
        pytest.fail("these tests were asked for and need a CUDA device")
    return torch.device("cuda", torch.cuda.current_device())


def _golden_gap(runner: PackedRunner) -> np.ndarray:
    golden = expected()
    for name in golden.proteins:
        runner.prepare(name, proteins()[name].network_input())
    graphs = [ligand_graph(smiles) for smiles in golden.smiles]
    batches = iter([graphs[i : i + 32] for i in range(0, len(graphs), 32)])
    scores = np.concatenate(list(runner.run(golden.proteins, batches)), axis=1)
    return np.abs(scores - golden.scores)


def test_float64_equals_the_original(cuda: torch.device) -> None:
    gap = _golden_gap(PackedRunner(Engine(load_network(open_weights(FOLDER)), torch.float64, cuda)))
    assert (gap <= 1e-9 * np.maximum(1, np.abs(expected().scores))).all()


@pytest.mark.parametrize("kernels", ["fastest", "plain"])
@pytest.mark.parametrize("graphs", [True, False])
def test_float32_stays_within_the_spec(cuda: torch.device, kernels: str, graphs: bool) -> None:
    used = fastest_kernels(cuda, torch.float32) if kernels == "fastest" else plain_kernels
    network = load_network(open_weights(FOLDER))
    gap = _golden_gap(PackedRunner(Engine(network, torch.float32, cuda, used), graphs=graphs))
    assert np.median(gap) < 2e-6
    assert np.quantile(gap, 0.99) < 3e-5
    assert gap.max() < 5e-4


def _full_size(cuda: torch.device, graphs: list[LigandGraph], slots: int = 32) -> tuple[PackedRunner, np.ndarray]:
    runner = PackedRunner(Engine(full_size_network(), torch.float32, cuda, fastest_kernels(cuda, torch.float32)), slots)
    runner.prepare("a", synthetic_protein(0).network_input())
    (scores,) = runner.run(["a"], iter([graphs]))
    return runner, scores


def test_full_width_agrees_with_float64_on_the_cpu(cuda: torch.device) -> None:
    graphs = [ligand_graph(smiles) for smiles in drug_like_smiles()[:6]]
    plain = PairRunner(Engine(full_size_network(), torch.float64, torch.device("cpu")))
    plain.prepare("a", synthetic_protein(0).network_input())
    (truth,) = plain.run(["a"], iter([graphs]))
    _, scores = _full_size(cuda, graphs)
    assert np.abs(scores - truth).max() < 5e-6


def test_a_score_does_not_depend_on_its_batch(cuda: torch.device) -> None:
    graphs = [ligand_graph(smiles) for smiles in drug_like_smiles()[:64]]
    graphs += [ligand_graph(smiles) for smiles in expected().smiles[-20:]]
    keys = ["a", "b"]
    runner = PackedRunner(Engine(full_size_network(), torch.float32, cuda, fastest_kernels(cuda, torch.float32)))
    for seed, key in enumerate(keys):
        runner.prepare(key, synthetic_protein(seed).network_input())

    def scores(order: list[int], size: int, which: list[str]) -> np.ndarray:
        batches = iter([[graphs[i] for i in order[k : k + size]] for k in range(0, len(order), size)])
        out = np.full((len(which), len(graphs)), np.nan)
        out[:, order] = np.concatenate(list(runner.run(which, batches)), axis=1)
        return out

    straight = list(range(len(graphs)))
    base = scores(straight, 32, keys)
    rng = np.random.default_rng(3)
    for size in (32, 13, 5):
        assert scores(rng.permutation(len(graphs)).tolist(), size, keys).tobytes() == base.tobytes()
    assert scores(straight, 32, ["b"]).tobytes() == base[1:].tobytes()
    for place in (0, 40, 70):
        alone = scores([place], 1, keys)
        assert alone[:, place].tobytes() == base[:, place].tobytes()


def test_out_of_memory_halves_and_goes_on(cuda: torch.device) -> None:
    graphs = [ligand_graph(smiles) for smiles in drug_like_smiles()[:40]]
    _, usual = _full_size(cuda, graphs)
    del _
    gc.collect()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(cuda).total_memory
    held = torch.cuda.memory_reserved(cuda)
    torch.cuda.set_per_process_memory_fraction((held + 240 * 2**20) / total, cuda)
    try:
        runner, scores = _full_size(cuda, graphs)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, cuda)
    assert runner.slots < 32
    assert np.abs(scores - usual).max() < 1e-5


def test_closing_gives_the_memory_back(cuda: torch.device, tmp_path: Path) -> None:
    gc.collect()
    torch._C._cuda_clearCublasWorkspaces()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(cuda)
    scorer = PsichicScorer.from_directory(
        FOLDER, device="cuda", feature_cache=tmp_path, protein_features=FOLDER / "proteins.pt"
    )
    known = [Protein(name, features.sequence) for name, features in proteins().items()]
    first = scorer.score(known, expected().smiles[:8]).scores
    held = torch.cuda.memory_allocated(cuda) - before
    assert 0 < held <= scorer.resident_bytes() + 128 * 2**20
    scorer.close()
    assert torch.cuda.memory_allocated(cuda) <= before + 2**20
    assert scorer.score(known, expected().smiles[:8]).scores.tobytes() == first.tobytes()
    scorer.close()


def test_features_on_the_device_equal_those_of_the_original(cuda: torch.device, tmp_path: Path) -> None:
    pytest.importorskip("esm")
    golden = expected()
    scorer = PsichicScorer.from_directory(FOLDER, FOLDER / "tiny_esm2.pt", "cuda", "float64", tmp_path)
    known = [Protein(name, proteins()[name].sequence) for name in golden.proteins]
    scores = scorer.score(known, golden.smiles[:16]).scores
    assert np.abs(scores - golden.scores[:, :16]).max() < 1e-3
    scorer.close()
