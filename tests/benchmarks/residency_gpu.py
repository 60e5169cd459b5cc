"""PSICHIC and Boltz-2 in one worker on one CUDA device: side by side where both fit, in turn where they do not.

    python tests/benchmarks/residency_gpu.py [--components DIR]

Random weights at full size. Prints one JSON object per finding: seconds and memory of each step, and whether a score
has the same bits beside the other model, after it was closed, and after it was loaded again.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from gpu.boltz.scorer import BoltzScorer  # sets cuBLAS's workspace before torch starts CUDA

# isort: split
import torch

from app.domain import PairScore, Protein, ScoringModel
from gpu.boltz import FAST
from gpu.residency import Residency
from gpu.scorers import _NEEDED_BYTES, ResidentScorer
from tests.benchmarks.boltz_gpu import HDAC3, LIGANDS
from tests.benchmarks.psichic_workload import full_size_scorer
from tests.gpu.boltz.random_weights import FULL, write_checkpoints


def report(**finding: Any) -> None:
    """One finding."""
    print(json.dumps({key: round(v, 3) if isinstance(v, float) else v for key, v in finding.items()}), flush=True)


def free_gb() -> float:
    """What the driver says is free."""
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info()[0] / 1e9


class Scene:
    """Both scorers behind one residency, and the scores each must repeat."""

    def __init__(self, place: Path, components: Path) -> None:
        write_checkpoints(place, FULL, "cuda")
        self.psichic, self.proteins = full_size_scorer(place, "cuda")
        self.boltz = BoltzScorer(
            place / "boltz2_conf.ckpt", place / "boltz2_aff.ckpt", components, FULL.profile(FAST), torch.device("cuda")
        )
        self.residency = Residency.of_device("cuda")
        self.first: dict[ScoringModel, list[PairScore]] = {}

    def score(self, model: ScoringModel, label: str) -> None:
        """Score through the residency; seconds, memory, same bits as the first time."""
        resident, proteins = self._of(model)
        started = time.perf_counter()
        found = resident.pair_scores(proteins, LIGANDS[:2])
        torch.cuda.synchronize()
        report(
            label=label,
            model=model.value,
            seconds=time.perf_counter() - started,
            failed=[score.error for score in found if score.error],
            same_bits=self.first.setdefault(model, found) == found,
            resident={type(each).__name__: each.resident_bytes() / 1e9 for each in self.residency.residents},
            free_GB=free_gb(),
        )

    def _of(self, model: ScoringModel) -> tuple[ResidentScorer, list[Protein]]:
        if model is ScoringModel.PSICHIC:
            return ResidentScorer(self.psichic, _NEEDED_BYTES[model], self.residency), self.proteins
        return ResidentScorer(self.boltz, _NEEDED_BYTES[model], self.residency), [HDAC3]


def guarded(work: Callable[[], None]) -> None:
    """A failure is a finding, not the end of the run."""
    try:
        work()
    except Exception as error:
        report(failed=f"{type(error).__name__}: {error}")


def main() -> None:
    """Both at once, then with room for one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--components", type=Path, help="CCD components, where biotite is not there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        components = options.components
        if components is None:
            from tests.gpu.boltz.components import write_components

            components = place / "mols"
            write_components(components)
        report(device=torch.cuda.get_device_name(), torch=torch.__version__, free_GB=free_gb())
        scene = Scene(place, components)
        for turn in ("first", "again"):
            for model in ScoringModel:
                guarded(lambda model=model, turn=turn: scene.score(model, f"both fit, {turn}"))
        scene.residency.close()
        # room for the larger of the two alone: each must make the other leave
        room = max(_NEEDED_BYTES.values()) + 640 * 2**20
        ballast = torch.empty(int(torch.cuda.mem_get_info()[0] - room), dtype=torch.uint8, device="cuda")
        report(ballast_GB=ballast.nbytes / 1e9, free_GB=free_gb())
        for turn in ("first", "again"):
            for model in ScoringModel:
                guarded(lambda model=model, turn=turn: scene.score(model, f"room for one, {turn}"))
        scene.residency.close()
        report(label="both closed", free_GB=free_gb())


if __name__ == "__main__":
    main()
