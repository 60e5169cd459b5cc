"""PSICHIC on one CPU core: pairs per second at full size, ligand graphs per second.

    python -m tests.benchmarks.psichic_cpu

Targets: 12 pairs/s (three times the original's 4), 1,500 graphs/s (the original makes 340).
"""

from __future__ import annotations

import platform
import time

import torch

from gpu.psichic.engine import Engine
from gpu.psichic.ligand import ligand_graph
from gpu.psichic.runner import PairRunner
from tests.benchmarks.psichic_workload import drug_like_smiles, full_size_network, synthetic_protein


def main() -> None:
    """Measure and print both figures."""
    torch.set_num_threads(1)
    smiles = drug_like_smiles()
    for text in smiles[:50]:
        ligand_graph(text)
    best_graphs = 0.0
    for _ in range(3):
        start = time.perf_counter()
        graphs = [ligand_graph(text) for text in smiles]
        best_graphs = max(best_graphs, len(smiles) / (time.perf_counter() - start))
    runner = PairRunner(Engine(full_size_network(), torch.float32, torch.device("cpu")))
    runner.prepare("p", synthetic_protein(0).network_input())
    list(runner.run(["p"], iter([graphs[:8]])))
    rates = []
    for repeat in range(3):
        batch = graphs[repeat * 32 : repeat * 32 + 32]
        start = time.perf_counter()
        list(runner.run(["p"], iter([batch])))
        rates.append(len(batch) / (time.perf_counter() - start))
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, one thread")
    print(f"ligand graphs  {best_graphs:8.0f} /s   target 1500")
    print(f"pairs          {sorted(rates)[1]:8.1f} /s   target 12   (median of {[round(r, 1) for r in rates]})")


if __name__ == "__main__":
    main()
