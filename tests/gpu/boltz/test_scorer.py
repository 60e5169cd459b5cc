"""A score depends on its molecule alone; a failure costs its molecule alone."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from app.domain import PairScore, Protein
from gpu.boltz import FAST, LIVE, BoltzInstallationError, BoltzScorer, DeviceOutOfMemory, PocketConstraint
from gpu.boltz.failure import PocketError
from gpu.boltz.profile import record_seed
from gpu.boltz.reading import ReaderBeside, Request
from gpu.child import Child
from gpu.residency import Residency
from tests.gpu.boltz.conftest import PEPTIDE, QUICK, Weights
from tests.gpu.boltz.random_weights import TINY, write_checkpoints

GOOD = ("CC(=O)Nc1ccc(O)cc1", "CCOC(=O)c1ccc(N)cc1", "C[C@H](N)C(=O)O", "c1ccc2[nH]ccc2c1", "OCC1CCCN1")
SALT = "CC(=O)Nc1ccc(O)cc1.Cl"
TOO_LARGE = "C" * 130
UNPARSEABLE = "C1CC("
TRANS_NORBORNANE = "C1[C@H]2CC[C@H]1C2"
"""Two bridgeheads that would have to point opposite ways: no conformer exists."""
HANGING = "C" * 20 + TRANS_NORBORNANE
"""The same with a tail: RDKit goes on trying for minutes."""

ROOT = Path(__file__).parents[3]


def by_smiles(scores: list[PairScore]) -> dict[str, PairScore]:
    return {score.smiles: score for score in scores}


@pytest.fixture(scope="module")
def alone(scorer_for: Callable[..., BoltzScorer]) -> dict[str, PairScore]:
    """Each molecule's score in a call of its own."""
    scorer = scorer_for()
    return {smiles: scorer.pair_scores([PEPTIDE], [smiles])[0] for smiles in GOOD[:3]}


def test_all_metrics_are_there_and_finite(alone: dict[str, PairScore]) -> None:
    for score in alone.values():
        assert score.error is None
        assert {"affinity_probability_binary", "affinity_pred_value", "confidence_score", "ligand_iptm"} <= set(
            score.metrics
        )
        assert len(score.metrics) == 15
        assert all(np.isfinite(value) for value in score.metrics.values())
    values = [score.metrics["affinity_pred_value"] for score in alone.values()]
    assert len(set(values)) == len(values)


def test_first_last_reversed_and_after_failures_are_bitwise_alone(
    scorer: BoltzScorer, alone: dict[str, PairScore]
) -> None:
    first, second, third = GOOD[:3]
    torch.manual_seed(99)
    batch = scorer.pair_scores([PEPTIDE], [first, UNPARSEABLE, second, SALT, third])
    reversed_batch = scorer.pair_scores([PEPTIDE], [third, SALT, second, UNPARSEABLE, first])
    for smiles in GOOD[:3]:
        assert by_smiles(batch)[smiles] == alone[smiles]
        assert by_smiles(reversed_batch)[smiles] == alone[smiles]
    assert [score.smiles for score in batch] == [first, UNPARSEABLE, second, SALT, third]


_CHILD = """
import json, resource, sys, warnings
warnings.simplefilter("ignore")
import torch
torch.set_num_threads(1)
from pathlib import Path
from app.domain import Protein
from gpu.boltz import BoltzScorer, DeviceOutOfMemory
from tests.gpu.boltz.conftest import PEPTIDE, QUICK

folder, ligands = Path(sys.argv[1]), sys.argv[2:]
scorer = BoltzScorer(folder / "boltz2_conf.ckpt", folder / "boltz2_aff.ckpt", folder / "mols", QUICK)
metrics = {score.smiles: dict(score.metrics) for score in scorer.pair_scores([PEPTIDE], ligands)}

attempts = []
attempt_once = scorer._attempt
scorer._attempt = lambda stage: attempts.append(stage) or attempt_once(stage)
size = int(next(line for line in open("/proc/self/status") if line.startswith("VmSize")).split()[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (size + 40 * 2**20, resource.RLIM_INFINITY))
large = Protein("LARGE", PEPTIDE.sequence * 8)
try:
    scorer.pair_scores([PEPTIDE, large], ["CCN"])
    raised = None
except DeviceOutOfMemory as error:
    raised = str(error), error.unfinished, [(score.protein, len(score.metrics)) for score in error.finished]
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
scorer.close()
print(json.dumps({"digest": scorer.digest, "metrics": metrics, "raised": raised, "attempts": len(attempts)}))
"""


@pytest.fixture(scope="module")
def other_process(weights: Weights) -> dict[str, Any]:
    """What another process says: two molecules in the other order, then one that its memory limit has no room for."""
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, str(weights.folder), GOOD[1], GOOD[0]],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def test_another_process_gives_the_same_bits(
    other_process: dict[str, Any], weights: Weights, alone: dict[str, PairScore]
) -> None:
    assert other_process["metrics"] == {smiles: dict(alone[smiles].metrics) for smiles in GOOD[:2]}
    assert other_process["digest"] == BoltzScorer(weights.structure, weights.affinity, weights.mols, QUICK).digest


def test_out_of_memory_is_retried_alone_and_raised_with_what_is_done(other_process: dict[str, Any]) -> None:
    """The allocator's own refusal, under a limit on the address space."""
    message, unfinished, finished = other_process["raised"]
    assert unfinished == [["LARGE", "CCN"]]
    assert finished == [["P00001", 15]]
    assert other_process["attempts"] == 4  # the peptide's two stages, the large protein's first, that one alone
    assert "Retry" in message


def test_the_process_generators_and_settings_are_left_as_they_were(scorer: BoltzScorer) -> None:
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)
    expected = random.random(), np.random.random(), torch.rand(1).item()
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)
    scorer.pair_scores([PEPTIDE], GOOD[:1])
    assert (random.random(), np.random.random(), torch.rand(1).item()) == expected
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.get_float32_matmul_precision() == "highest"
    assert torch.is_grad_enabled()


def test_a_batch_with_four_hopeless_molecules_scores_the_other_five(
    scorer_for: Callable[..., BoltzScorer],
) -> None:
    scorer = scorer_for(replace(QUICK, embedding_seconds=1.5))
    started = time.monotonic()
    batch = [GOOD[0], SALT, GOOD[1], TOO_LARGE, GOOD[2], HANGING, GOOD[3], UNPARSEABLE, GOOD[4]]
    scores = by_smiles(scorer.pair_scores([PEPTIDE], batch))
    assert time.monotonic() - started < 60
    assert all(scores[smiles].error is None for smiles in GOOD)
    codes = {smiles: (scores[smiles].error or "").split(":")[0] for smiles in (SALT, TOO_LARGE, HANGING, UNPARSEABLE)}
    assert codes == {
        SALT: "parse",
        TOO_LARGE: "ligand_too_large",
        HANGING: "conformer",
        UNPARSEABLE: "unparseable_smiles",
    }
    assert not any(scores[smiles].metrics for smiles in codes)


@pytest.mark.parametrize(
    ("smiles", "code"),
    [
        ("", "unparseable_smiles"),
        ("C1CC(", "unparseable_smiles"),
        ("C" * 45 + "[SiH2]C", "atom_name"),
        ("C" * 129, "ligand_too_large"),
        ("[Fe]", "parse"),
        ("[H][H]", "featurize"),
        (TRANS_NORBORNANE, "conformer"),
    ],
)
def test_each_failure_has_its_code_and_a_sentence(scorer: BoltzScorer, smiles: str, code: str) -> None:
    (score,) = scorer.pair_scores([PEPTIDE], [smiles])
    assert score.error is not None
    assert score.error.split(":")[0] == code
    assert len(score.error) > len(code) + 10
    assert "\n" not in score.error
    assert score.metrics == {}


def test_overflowing_weights_give_non_finite(tmp_path: Path, weights: Weights) -> None:
    structure, affinity = write_checkpoints(tmp_path, TINY, gain=1e30)
    scorer = BoltzScorer(structure, affinity, weights.mols, QUICK)
    (score,) = scorer.pair_scores([PEPTIDE], GOOD[:1])
    scorer.close()
    assert score.error is not None
    assert score.error.startswith("non_finite: ")


def test_a_protein_without_sequence_costs_its_own_pairs_only(scorer: BoltzScorer, alone: dict[str, PairScore]) -> None:
    unknown = Protein("Q00000", None)
    heard: list[PairScore] = []
    scores = scorer.pair_scores([unknown, PEPTIDE], [GOOD[0], GOOD[0]], heard.append)
    assert [score.protein for score in scores] == ["Q00000", "Q00000", "P00001", "P00001"]
    assert (scores[0].error or "").startswith("no_sequence: ")
    assert scores[2] == scores[3] == alone[GOOD[0]]
    assert heard == [scores[0], scores[2]]


def test_the_fast_profile_scores_close_to_live_under_another_digest(
    scorer_for: Callable[..., BoltzScorer], alone: dict[str, PairScore]
) -> None:
    quick = {
        name: getattr(QUICK, name)
        for name in ("recycling_steps", "affinity_recycling_steps", "sampling_steps", "affinity_sampling_steps")
    }
    fast = scorer_for(TINY.profile(FAST, **quick))
    (score,) = fast.pair_scores([PEPTIDE], GOOD[:1])
    (again,) = fast.pair_scores([PEPTIDE], GOOD[:1])
    assert score == again
    assert score.metrics != alone[GOOD[0]].metrics
    assert score.metrics["affinity_probability_binary"] == pytest.approx(
        alone[GOOD[0]].metrics["affinity_probability_binary"], abs=0.05
    )
    assert fast.digest != scorer_for().digest


def test_the_digest_names_all_that_decides_a_number(weights: Weights, tmp_path: Path) -> None:
    def digest(**changes: Any) -> str:
        return BoltzScorer(weights.structure, changes.pop("affinity", weights.affinity), weights.mols, **changes).digest

    digests = [
        digest(),
        digest(profile=QUICK),
        digest(profile=replace(LIVE, base_seed=69)),
        digest(profile=FAST),
        digest(pocket=PocketConstraint((("A", 3),))),
        digest(device="cuda"),
        digest(affinity=weights.structure),
    ]
    assert len(set(digests)) == len(digests)
    assert digest() == digests[0]


def test_close_frees_and_the_next_score_loads_again(
    scorer_for: Callable[..., BoltzScorer], alone: dict[str, PairScore]
) -> None:
    scorer = scorer_for()
    assert scorer.resident_bytes() == 0
    (before,) = scorer.pair_scores([PEPTIDE], GOOD[:1])
    held = scorer.resident_bytes()
    assert held > 1_000_000
    scorer.close()
    assert scorer.resident_bytes() == 0
    (after,) = scorer.pair_scores([PEPTIDE], GOOD[:1])
    assert before == after == alone[GOOD[0]]
    assert scorer.resident_bytes() == held


def test_two_scorers_take_turns_on_a_device_with_room_for_one(
    scorer_for: Callable[..., BoltzScorer], alone: dict[str, PairScore]
) -> None:
    one, other = scorer_for(), scorer_for(replace(QUICK, base_seed=69))
    residency = Residency.of_device("cpu", budget_bytes=3_000_000)
    for scorer in (one, other, one):
        residency.admit(scorer, 2_000_000)
        (score,) = scorer.pair_scores([PEPTIDE], GOOD[:1])
        assert [held.resident_bytes() > 0 for held in (one, other)] == [scorer is one, scorer is other]
    assert score == alone[GOOD[0]]


def test_missing_or_broken_weights_name_the_command(weights: Weights, tmp_path: Path) -> None:
    absent = BoltzScorer(tmp_path / "boltz2_conf.ckpt", weights.affinity, weights.mols, QUICK)
    with pytest.raises(BoltzInstallationError, match="checkpoints fetch boltz2"):
        absent.pair_scores([PEPTIDE], GOOD[:1])
    half = tmp_path / "half.ckpt"
    half.write_bytes(weights.structure.read_bytes()[:500_000])
    with pytest.raises(BoltzInstallationError, match=r"damaged.*checkpoints fetch boltz2"):
        BoltzScorer(half, weights.affinity, weights.mols, QUICK).pair_scores([PEPTIDE], GOOD[:1])
    with pytest.raises(BoltzInstallationError, match="CCD components"):
        BoltzScorer(weights.structure, weights.affinity, tmp_path, QUICK).pair_scores([PEPTIDE], GOOD[:1])
    with pytest.raises(BoltzInstallationError, match="checkpoints fetch boltz2"):
        _ = absent.digest


def test_an_unknown_exception_is_nobodys_bad_molecule(scorer_for: Callable[..., BoltzScorer]) -> None:
    scorer = scorer_for()
    scorer.load()
    assert scorer._loaded is not None
    del scorer._loaded.structure.confidence_module
    with pytest.raises(AttributeError):
        scorer.pair_scores([PEPTIDE], GOOD[:1])


class _TimeIsUp(Exception):
    """What a worker's soft limit raises, out of the blue, in whatever runs."""


@contextlib.contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    def strike(*_: object) -> None:
        raise _TimeIsUp

    before = signal.signal(signal.SIGALRM, strike)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_time_limit_is_no_molecules_failure_and_leaves_nothing_behind(
    scorer_for: Callable[..., BoltzScorer], alone: dict[str, PairScore]
) -> None:
    scorer = scorer_for()
    heard: list[PairScore] = []
    assert scorer.pair_scores([PEPTIDE], GOOD[:1]) == [alone[GOOD[0]]]
    # the hanging embedding of the second molecule is under way when the limit strikes
    with pytest.raises(_TimeIsUp), _time_limit(4.0):
        scorer.pair_scores([PEPTIDE], [GOOD[0], HANGING], heard.append)
    assert heard == [alone[GOOD[0]]]
    assert scorer.pair_scores([PEPTIDE], GOOD[1:3]) == [alone[smiles] for smiles in GOOD[1:3]]
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_broken_installation_is_not_a_batch_of_bad_molecules(weights: Weights, tmp_path: Path) -> None:
    mols = tmp_path / "mols"
    shutil.copytree(weights.mols, mols)
    shutil.copy(mols / "GLY.pkl", mols / "TRP.pkl")
    scorer = BoltzScorer(weights.structure, weights.affinity, mols, QUICK)
    with pytest.raises(BoltzInstallationError, match=r"even ethanol.*checkpoints fetch boltz2"):
        scorer.pair_scores([PEPTIDE], GOOD[:1])
    assert scorer.resident_bytes() == 0


def test_a_reader_beside_gives_the_same_bits_errors_and_order(
    scorer_for: Callable[..., BoltzScorer], alone: dict[str, PairScore]
) -> None:
    scorer = scorer_for(beside=True)
    heard: list[PairScore] = []
    batch = [GOOD[0], UNPARSEABLE, GOOD[1], SALT, GOOD[2]]
    scores = scorer.pair_scores([PEPTIDE], batch, heard.append)
    # several children read: the order of hearing is that of reading
    assert sorted(heard, key=lambda score: score.smiles) == sorted(scores, key=lambda score: score.smiles)
    assert [score for score in scores if score.error is None] == [alone[smiles] for smiles in GOOD[:3]]
    assert [(scores[i].error or "").split(":")[0] for i in (1, 3)] == ["unparseable_smiles", "parse"]


def test_a_reader_that_dies_is_replaced_and_one_that_dies_twice_costs_the_molecule(
    scorer_for: Callable[..., BoltzScorer], alone: dict[str, PairScore], monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = scorer_for(beside=True)
    scorer.load()
    assert scorer._loaded is not None
    assert isinstance(scorer._loaded.reader, ReaderBeside)
    scorer._loaded.reader._children[0].kill()
    assert scorer.pair_scores([PEPTIDE], GOOD[:1]) == [alone[GOOD[0]]]
    asked = Child.ask

    def deadly(child: Child, question: Any) -> Future[Any]:
        if isinstance(question[0], Request) and question[0].smiles == GOOD[1]:
            child.kill()
        return asked(child, question)

    monkeypatch.setattr(Child, "ask", deadly)
    first, second = scorer.pair_scores([PEPTIDE], [GOOD[1], GOOD[0]])
    assert (first.error or "").startswith("parse: ")
    assert second == alone[GOOD[0]]


def test_a_broken_installation_beside_is_told_as_here(weights: Weights, tmp_path: Path) -> None:
    scorer = BoltzScorer(weights.structure, weights.affinity, tmp_path, QUICK, beside=True)
    with pytest.raises(BoltzInstallationError, match="CCD components"):
        scorer.pair_scores([PEPTIDE], GOOD[:1])


def test_a_pocket_beside_the_protein_is_the_rules_mistake(scorer_for: Callable[..., BoltzScorer]) -> None:
    with pytest.raises(PocketError, match=r"residue 31 of chain A.*residues 1 to 30.*rules file"):
        scorer_for(pocket=PocketConstraint((("A", 30), ("A", 31)))).pair_scores([PEPTIDE], GOOD[:1])


def test_record_seed_is_the_specified_one() -> None:
    assert record_seed("CCO", "MKT") == 921111470
    assert 0 <= record_seed(GOOD[0], PEPTIDE.sequence or "") < 2**31 - 1


def test_device_out_of_memory_names_the_first_molecule() -> None:
    error = DeviceOutOfMemory([], [("P1", "CCO"), ("P1", "CCN")], "cuda:0")
    assert "2 molecule(s)" in str(error)
    assert "'CCO'" in str(error)
