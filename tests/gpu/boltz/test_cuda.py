"""On a CUDA device, tiny weights: replayed or not, alone or not, the same bits; no memory is a retry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from gpu.boltz import FAST, BoltzScorer, DeviceOutOfMemory, Profile
from tests.gpu.boltz.conftest import PEPTIDE, QUICK, Weights
from tests.gpu.boltz.random_weights import TINY

pytestmark = pytest.mark.gpu

LIGANDS = ("CC(=O)Nc1ccc(O)cc1", "CCOC(=O)c1ccc(N)cc1")
SHORT_RUN = {"recycling_steps": 2, "affinity_recycling_steps": 2, "sampling_steps": 10, "affinity_sampling_steps": 10}
PROFILES = {"live": replace(QUICK, **SHORT_RUN), "fast": TINY.profile(FAST, **SHORT_RUN)}


@pytest.fixture(params=PROFILES)
def profile(request: pytest.FixtureRequest) -> Profile:
    return PROFILES[request.param]


@pytest.fixture
def on_device(weights: Weights) -> Callable[..., BoltzScorer]:
    def make(profile: Profile, **options: bool) -> BoltzScorer:
        return BoltzScorer(weights.structure, weights.affinity, weights.mols, profile, "cuda", **options)

    return make


def test_replayed_plain_first_last_and_after_a_failure_are_the_same_bits(
    profile: Profile, on_device: Callable[..., BoltzScorer]
) -> None:
    replayed, plain = on_device(profile), on_device(profile, replay=False)
    first, _, second = replayed.pair_scores([PEPTIDE], [LIGANDS[0], "C1CC(", LIGANDS[1]])
    assert first.error is None
    assert second.error is None
    assert replayed.pair_scores([PEPTIDE], [LIGANDS[1], LIGANDS[0]]) == [second, first]
    assert plain.pair_scores([PEPTIDE], LIGANDS) == [first, second]
    replayed.close()
    plain.close()


def test_a_full_device_raises_and_recovers(profile: Profile, on_device: Callable[..., BoltzScorer]) -> None:
    scorer = on_device(profile)
    (expected,) = scorer.pair_scores([PEPTIDE], LIGANDS[:1])
    scorer._release()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(torch.cuda.memory_reserved() / total)
    try:
        with pytest.raises(DeviceOutOfMemory) as raised:
            scorer.pair_scores([replace(PEPTIDE, sequence=(PEPTIDE.sequence or "") * 20)], LIGANDS[:1])
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert raised.value.unfinished == ((PEPTIDE.code, LIGANDS[0]),)
    assert scorer.pair_scores([PEPTIDE], LIGANDS[:1]) == [expected]
    scorer.close()
