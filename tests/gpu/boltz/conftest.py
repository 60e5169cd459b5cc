"""Tiny random-weight Boltz-2, made once per machine and kept in pytest's cache."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

with warnings.catch_warnings():
    # what boltz's dependencies say of each other while they are imported is not ours to fix
    warnings.simplefilter("ignore")
    import boltz.main

from app.domain import Protein
from gpu.boltz import LIVE, LIVE_2026, BoltzScorer
from tests.gpu.boltz.random_weights import TINY, write_checkpoints

PEPTIDE = Protein("P00001", "MKTAYIAKQRQISFVKSHFSRQLEERLGLI")
"""Thirty residues: every stage runs, none takes long."""

_FEW_STEPS = {"recycling_steps": 1, "affinity_recycling_steps": 1, "sampling_steps": 10, "affinity_sampling_steps": 10}
QUICK = TINY.profile(LIVE, packed=False, **_FEW_STEPS)
"""Ten steps: with five the affinity no longer depends on the pose. Not packed: boltz's own arithmetic."""

QUICK_2026 = TINY.profile(LIVE_2026, **_FEW_STEPS)


@dataclass(frozen=True)
class Weights:
    """A folder laid out like boltz's cache."""

    folder: Path

    @property
    def structure(self) -> Path:
        return self.folder / "boltz2_conf.ckpt"

    @property
    def affinity(self) -> Path:
        return self.folder / "boltz2_aff.ckpt"

    @property
    def mols(self) -> Path:
        return self.folder / "mols"


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def weights(request: pytest.FixtureRequest) -> Weights:
    folder = Path(request.config.cache.mkdir(f"boltz-tiny-{boltz.__version__}-1"))
    if not (folder / "complete").exists():
        from tests.gpu.boltz.components import write_components  # biotite, which no GPU worker needs

        write_components(folder / "mols")
        write_checkpoints(folder, TINY)
        (folder / "complete").touch()
    return Weights(folder)


@pytest.fixture(scope="session")
def scorer_for(weights: Weights) -> Iterator[Callable[..., BoltzScorer]]:
    made: list[BoltzScorer] = []

    def make(profile: Any = QUICK, **options: Any) -> BoltzScorer:
        made.append(BoltzScorer(weights.structure, weights.affinity, weights.mols, profile, "cpu", **options))
        return made[-1]

    yield make
    for scorer in made:
        scorer.close()


@pytest.fixture(scope="session")
def scorer(scorer_for: Callable[..., BoltzScorer]) -> BoltzScorer:
    return scorer_for()
