"""The scorer: errors by molecule, one load, batch independence, memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_psichic import FOLDER, expected, protein_records, proteins
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.domain import PSICHIC_METRIC, Protein
from gpu.psichic.checkpoint import load_network, open_weights
from gpu.psichic.demo import ensure_demo
from gpu.psichic.engine import Engine
from gpu.psichic.errors import CheckpointError, DeviceError, PsichicError
from gpu.psichic.ligand import ligand_graph
from gpu.psichic.packing import drug_like_capacity, portions
from gpu.psichic.runner import PackedRunner, PairRunner, exact_arithmetic
from gpu.psichic.scorer import PsichicScorer

CPU = torch.device("cpu")
PROTEINS = [Protein(name, record["raw_seq"]) for name, record in protein_records().items()]


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PsichicScorer]:
    cache = tmp_path_factory.mktemp("features")
    scorer = PsichicScorer.from_directory(
        FOLDER, device="cpu", feature_cache=cache, protein_features=FOLDER / "proteins.pt"
    )
    yield scorer
    scorer.close()


def test_constructing_loads_nothing() -> None:
    code = (
        "import sys; from pathlib import Path; from gpu.psichic.scorer import PsichicScorer\n"
        f"s = PsichicScorer.from_directory(Path({str(FOLDER)!r}), device='cpu', feature_cache=Path('.'))\n"
        "assert s.digest and s.resident_bytes() == 0\n"
        "print([m for m in ('torch', 'rdkit', 'esm', 'triton') if m in sys.modules])"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_failures_are_reported_and_the_others_score(scorer: PsichicScorer) -> None:
    golden = expected()
    smiles = ["C1CC", *golden.smiles[:3], "", "[Cr]$[Cr]"]
    table = scorer.score(PROTEINS, smiles)
    assert sorted(table.failures) == [0, 4, 5]
    assert "C1CC" in table.failures[0]
    np.testing.assert_allclose(table.scores[:, 1:4], golden.scores[:, :3], atol=5e-4)
    assert np.isnan(table.scores[:, [0, 4, 5]]).all()


def test_pairs_come_proteins_outermost(scorer: PsichicScorer) -> None:
    unknown = Protein("Q00000", None)
    foreign = Protein("P00001", "MKV")
    pairs = scorer.pair_scores([unknown, PROTEINS[0], foreign], ["CCO", "C1CC"])
    assert [(pair.protein, pair.smiles) for pair in pairs] == [
        (code, smiles) for code in ("Q00000", "pdb_98", "P00001") for smiles in ("CCO", "C1CC")
    ]
    assert [pair.error.split(":")[0] if pair.error else None for pair in pairs] == [
        "no_sequence",
        "no_sequence",
        None,
        "unreadable_smiles",
        "no_features",
        "no_features",
    ]
    assert set(pairs[2].metrics) == {PSICHIC_METRIC}
    assert all(not pair.metrics for pair in pairs if pair.error)


def test_all_ligands_may_fail_and_no_protein_may_be_known(scorer: PsichicScorer) -> None:
    assert all(pair.error for pair in scorer.pair_scores(PROTEINS, ["C1CC", ""]))
    assert all(pair.error for pair in scorer.pair_scores([Protein("x", None)], ["C"]))
    assert scorer.pair_scores(PROTEINS, []) == []
    assert scorer.pair_scores([], ["C"]) == []


def test_the_same_protein_twice_scores_twice(scorer: PsichicScorer) -> None:
    twin = Protein("twin", PROTEINS[0].sequence)
    table = scorer.score([PROTEINS[0], PROTEINS[1], twin], ["CCO"])
    assert table.scores[0, 0] == table.scores[2, 0] != table.scores[1, 0]


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_score_does_not_depend_on_its_batch(scorer: PsichicScorer, data: st.DataObject) -> None:
    """Bitwise: alone, in any batch of up to 32, at any place, with other proteins, after other work."""
    smiles = expected().smiles
    batch = data.draw(st.lists(st.sampled_from(smiles), min_size=1, max_size=32))
    place = data.draw(st.integers(0, len(batch) - 1))
    both = data.draw(st.booleans())
    table = scorer.score(PROTEINS if both else PROTEINS[:1], batch)
    alone = scorer.score(PROTEINS[:1], [batch[place]])
    assert table.scores[0, place].tobytes() == alone.scores[0, 0].tobytes()


def test_a_score_does_not_depend_on_the_threads_allowed() -> None:
    """At the published size, where products are large enough to be split over threads."""
    from tests.benchmarks.psichic_workload import full_size_network, synthetic_protein

    network, features = full_size_network(), synthetic_protein(0).network_input()
    graphs = [ligand_graph(smiles) for smiles in expected().smiles[:4]]

    def scores(threads: int) -> bytes:
        torch.set_num_threads(threads)
        try:
            runner = PairRunner(Engine(network, torch.float32, CPU))
            runner.prepare("p", features)
            (block,) = runner.run(["p"], iter([graphs]))
            assert torch.get_num_threads() == threads
            return block.tobytes()
        finally:
            torch.set_num_threads(1)

    assert scores(1) == scores(2) == scores(3)


def test_closing_gives_the_memory_back_and_scores_again(tmp_path: Path) -> None:
    scorer = PsichicScorer.from_directory(
        FOLDER, device="cpu", feature_cache=tmp_path, protein_features=FOLDER / "proteins.pt"
    )
    first = scorer.score(PROTEINS[:1], ["CCO"])
    assert scorer.resident_bytes() > 900_000
    scorer.close()
    scorer.close()
    assert scorer.resident_bytes() == 0
    assert scorer.score(PROTEINS[:1], ["CCO"]).scores == first.scores


def test_digest_names_weights_precision_device_and_features(tmp_path: Path) -> None:
    def digest(**options: object) -> str:
        given = {"device": "cpu", "feature_cache": tmp_path, **options}
        return PsichicScorer.from_directory(FOLDER, **given).digest  # type: ignore[arg-type]

    esm = FOLDER / "tiny_esm2.pt"
    demo = ensure_demo(tmp_path / "demo")
    base = digest(esm=esm)
    assert base == digest(esm=esm)
    others = {
        digest(esm=esm, dtype="float64"),
        digest(),
        digest(esm=esm, device="cuda"),
        digest(esm=demo.esm),
        digest(protein_features=FOLDER / "proteins.pt"),
        PsichicScorer.from_directory(demo.weights, esm, "cpu", feature_cache=tmp_path).digest,
    }
    assert len(others) == 6
    assert base not in others
    assert digest(esm=esm, device="cuda:1") == digest(esm=esm, device="cuda")


def test_features_of_another_kind_of_device_are_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"esm": FOLDER / "tiny_esm2.pt", "device": "cpu", "feature_cache": tmp_path}
    with monkeypatch.context() as patch:
        patch.setattr(PsichicScorer, "_kind", "cuda")
        PsichicScorer.from_directory(FOLDER, **options).score(PROTEINS[:1], ["CCO"])  # type: ignore[arg-type]
    PsichicScorer.from_directory(FOLDER, **options).score(PROTEINS[:1], ["CCO"])  # type: ignore[arg-type]
    assert len(list(tmp_path.glob("*.features"))) == 2


def test_features_come_from_the_language_model_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"esm": FOLDER / "tiny_esm2.pt", "device": "cpu", "feature_cache": tmp_path}
    first = PsichicScorer.from_directory(FOLDER, **options).score(PROTEINS, ["CCO"])  # type: ignore[arg-type]
    assert len(list(tmp_path.glob("*.features"))) == 2

    def never(*_: object) -> None:
        raise AssertionError("the features were kept")

    monkeypatch.setattr("gpu.psichic.language_model.load_language_model", never)
    again = PsichicScorer.from_directory(FOLDER, **options).score(PROTEINS, ["CCO"])  # type: ignore[arg-type]
    assert first.scores.tobytes() == again.scores.tobytes()


def test_a_language_model_of_another_width_is_refused(tmp_path: Path) -> None:
    config = (FOLDER / "config.json").read_text().replace('"prot_evo_channels": 64', '"prot_evo_channels": 65')
    _copied_weights(tmp_path)
    (tmp_path / "config.json").write_text(config)
    state = torch.load(FOLDER / "model.pt", weights_only=True)
    state["prot_evo.FC_layers.0.weight"] = torch.zeros(80, 65)
    torch.save(state, tmp_path / "model.pt")
    scorer = PsichicScorer.from_directory(tmp_path, FOLDER / "tiny_esm2.pt", "cpu", feature_cache=tmp_path / "c")
    with pytest.raises(CheckpointError, match="64 wide"):
        scorer.score(PROTEINS[:1], ["CCO"])


def _copied_weights(folder: Path) -> None:
    for name in ("config.json", "degree.pt", "model.pt"):
        (folder / name).write_bytes((FOLDER / name).read_bytes())


def test_wrong_device_and_precision_are_sentences(tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        scorer = PsichicScorer.from_directory(FOLDER, device="cuda", feature_cache=tmp_path)
        with pytest.raises(DeviceError, match="no CUDA device"):
            scorer.score(PROTEINS, ["C"])
    with pytest.raises(DeviceError, match="choose cpu or cuda"):
        PsichicScorer.from_directory(FOLDER, device="tpu", feature_cache=tmp_path).score(PROTEINS, ["C"])
    with pytest.raises(PsichicError, match="float32 or float64"):
        PsichicScorer.from_directory(FOLDER, dtype="bfloat16", feature_cache=tmp_path)


def _packed(slots: int) -> PackedRunner:
    runner = PackedRunner(Engine(load_network(open_weights(FOLDER)), torch.float64, CPU), slots)
    for name, features in proteins().items():
        runner.prepare(name, features.network_input())
    return runner


def test_out_of_memory_halves_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    golden = expected()
    runner = _packed(8)
    real = Engine.prepare_ligands

    def small_device(engine: Engine, batch: object) -> object:
        if batch.atom_ptr.shape[0] - 1 > 2:  # type: ignore[attr-defined]
            raise torch.OutOfMemoryError("CUDA out of memory (as a device of two slots would say)")
        return real(engine, batch)  # type: ignore[arg-type]

    monkeypatch.setattr(Engine, "prepare_ligands", small_device)
    graphs = [ligand_graph(smiles) for smiles in golden.smiles[:7]]
    (scores,) = runner.run(golden.proteins, iter([graphs]))
    assert runner.slots == 2
    np.testing.assert_allclose(scores, golden.scores[:, :7], rtol=1e-9)


def test_no_room_for_one_pair_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = _packed(4)

    def no_room(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Engine, "prepare_ligands", no_room)
    with pytest.raises(DeviceError, match="no room for a single pair"):
        list(runner.run(["pdb_98"], iter([[ligand_graph("CCO")]])))


def test_a_ligand_beyond_the_capacity_travels_alone() -> None:
    usual = drug_like_capacity(2)
    large, small = ligand_graph("C" * 200), ligand_graph("CCO")
    parts = list(portions([small, large, small, small, small], usual))
    assert [(columns, capacity == usual) for columns, capacity in parts] == [
        ([1], False),
        ([0, 2], True),
        ([3, 4], True),
    ]
    assert parts[0][1].holds([large])


def test_a_large_ligand_scores_the_same_packed(scorer: PsichicScorer) -> None:
    smiles = ["CCO", "C" * 200, "c1ccccc1"]
    alone = scorer.score(PROTEINS[:1], smiles).scores
    (packed,) = _packed(2).run(["pdb_98"], iter([[ligand_graph(text) for text in smiles]]))
    np.testing.assert_allclose(packed, alone, atol=5e-4)


def test_the_callers_arithmetic_settings_come_back() -> None:
    backend = torch.backends.mkldnn.matmul
    before = backend.fp32_precision
    backend.fp32_precision = "bf16"
    try:
        with exact_arithmetic():
            assert torch.are_deterministic_algorithms_enabled()
            assert backend.fp32_precision == "ieee"
        assert not torch.are_deterministic_algorithms_enabled()
        assert backend.fp32_precision == "bf16"
    finally:
        backend.fp32_precision = before
