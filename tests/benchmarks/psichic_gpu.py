"""PSICHIC on a CUDA device: correct first, then fast. One self-contained run, a short table last.

    python -m tests.benchmarks.psichic_gpu [--quick]

Targets (one H200, float32 without TF32, deterministic): 5,000 pairs/s end to end (SMILES in, scores out,
protein features known, nine proteins per batch of 32 ligands), 8,000 forward only. Needs RDKit for the graphs.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gpu.psichic import plain_kernels
from gpu.psichic.checkpoint import load_network, open_weights
from gpu.psichic.engine import Engine
from gpu.psichic.ligand import LigandGraph, ligand_graph
from gpu.psichic.protein import read_feature_file
from gpu.psichic.runner import PackedRunner, exact_arithmetic
from tests.benchmarks.psichic_workload import (
    DATA,
    drug_like_smiles,
    full_size_network,
    full_size_scorer,
    synthetic_protein,
)

LINES: list[str] = []


def say(text: str) -> None:
    """Print now, and again in the table at the end."""
    LINES.append(text)
    print(text, flush=True)


def guarded(name: str, work: Callable[[], Any]) -> Any:
    """Run one part; its failure is a line in the table, not the end of the run."""
    try:
        return work()
    except Exception as error:
        traceback.print_exc()
        say(f"FAILED {name}: {type(error).__name__}: {str(error)[:300]}")
        return None


def kernels_for(device: torch.device) -> Any:
    """Triton's kernels on CUDA, plain ones elsewhere."""
    if device.type != "cuda":
        return plain_kernels
    from gpu.psichic import triton_kernels

    return triton_kernels


def sync(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(device: torch.device, work: Callable[[], Any], repeats: int) -> float:
    """Median seconds of ``work`` after one warm-up."""
    work()
    sync(device)
    spans = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        sync(device)
        spans.append(time.perf_counter() - start)
    return statistics.median(spans)


def ceilings(device: torch.device) -> tuple[float, float]:
    """Measured float32 product rate (TFLOP/s, TF32 off) and copy bandwidth (TB/s, read plus written)."""
    n = 8192 if device.type == "cuda" else 512
    with exact_arithmetic():
        a, b = torch.randn(n, n, device=device), torch.randn(n, n, device=device)
        product = 2 * n**3 / timed(device, lambda: a @ b, 5) / 1e12
        source = torch.randn(256 * n * 64, device=device)
        target = torch.empty_like(source)
        copy = 2 * source.nbytes / timed(device, lambda: target.copy_(source), 10) / 1e12
        say(f"ceilings: fp32 product {product:.1f} TFLOP/s, copy {copy:.2f} TB/s")
        if device.type == "cuda":
            for rows, inner, outer in ((15296, 200, 400), (15296, 400, 200), (15296, 200, 200)):
                x, w = torch.randn(rows, inner, device=device), torch.randn(outer, inner, device=device)
                span = timed(device, lambda x=x, w=w: [torch.nn.functional.linear(x, w) for _ in range(20)], 5) / 20
                rate = 2 * rows * inner * outer / span / 1e12
                say(f"  linear {rows}x{inner}->{outer}: {span * 1e6:.0f} us, {rate:.1f} TFLOP/s")
            for rows, inner, outer in ((171904, 40, 40), (15296, 160, 120), (15296, 40, 120)):
                x, w = torch.randn(5, rows, inner, device=device), torch.randn(5, inner, outer, device=device)
                span = timed(device, lambda x=x, w=w: [torch.bmm(x, w) for _ in range(20)], 5) / 20
                rate = 10 * rows * inner * outer / span / 1e12
                moved = 20 * rows * (inner + outer) / span / 1e12
                say(f"  bmm 5x{rows}x{inner}->{outer}: {span * 1e6:.0f} us, {rate:.1f} TFLOP/s, {moved:.2f} TB/s")
    return product, copy


def golden(device: torch.device) -> None:
    """The golden slice in float64 and float32, plain and Triton kernels, against the float64 truth."""
    features = read_feature_file(DATA / "proteins.pt")
    with (DATA / "expected.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    smiles = list(dict.fromkeys(row["smiles"] for row in rows))
    graphs = [ligand_graph(text) for text in smiles]
    truth = np.array(
        [[float(r["fp64_b32"]) for r in rows if r["protein_id"] == name] for name in features], dtype=np.float64
    )
    for name, dtype, kernels, recorded in (
        ("float64 plain", torch.float64, plain_kernels, True),
        ("float32 plain", torch.float32, plain_kernels, True),
        ("float32 triton eager", torch.float32, kernels_for(device), False),
        ("float32 triton", torch.float32, kernels_for(device), True),
    ):

        def check(name: str = name, dtype: Any = dtype, kernels: Any = kernels, recorded: bool = recorded) -> None:
            runner = PackedRunner(Engine(load_network(open_weights(DATA)), dtype, device, kernels), graphs=recorded)
            for key, protein in features.items():
                runner.prepare(key, protein.network_input())
            batches = iter([graphs[i : i + 32] for i in range(0, len(graphs), 32)])
            scores = np.concatenate(list(runner.run(list(features), batches)), axis=1)
            gap = np.abs(scores - truth)
            say(f"golden {name}: median {np.median(gap):.1e} 99% {np.quantile(gap, 0.99):.1e} max {gap.max():.1e}")

        guarded(f"golden {name}", check)


def independence(device: torch.device, graphs: list[LigandGraph]) -> None:
    """Bitwise equality alone, in other batches, at other places, after other work."""
    runner = PackedRunner(Engine(full_size_network(), torch.float32, device, kernels_for(device)))
    keys = ["a", "b", "c"]
    for seed, key in enumerate(keys):
        runner.prepare(key, synthetic_protein(seed).network_input())
    some = graphs[:96]

    def scores(order: list[int], size: int, which: list[str]) -> np.ndarray:
        batches = iter([[some[i] for i in order[k : k + size]] for k in range(0, len(order), size)])
        block = np.concatenate(list(runner.run(which, batches)), axis=1)
        out = np.full((len(which), len(some)), np.nan)
        out[:, order] = block
        return out

    straight = list(range(96))
    base = scores(straight, 32, keys)
    shuffled = np.random.default_rng(0).permutation(96).tolist()
    rest = {
        "again": scores(straight, 32, keys),
        "shuffled": scores(shuffled, 32, keys),
        "batches of 7": scores(shuffled, 7, keys),
        "alone": scores(shuffled[:12], 1, keys),
        "one protein": scores(straight, 32, ["b"]),
    }
    for name, other in rest.items():
        expected = base[1:2] if name == "one protein" else base
        seen = ~np.isnan(other)
        say(f"bitwise {name}: {'equal' if np.array_equal(expected[seen], other[seen]) else 'DIFFERENT'} ({seen.sum()})")
    for slots in (16, 8):
        smaller = PackedRunner(Engine(full_size_network(), torch.float32, device, kernels_for(device)), slots)
        smaller.prepare("a", synthetic_protein(0).network_input())
        halves = iter([some[i : i + slots] for i in range(0, 96, slots)])
        other = np.concatenate(list(smaller.run(["a"], halves)), axis=1)
        say(f"({slots} slots instead of 32: {(other == base[:1]).mean():.2f} of the scores have the same bits)")


def forward_rates(device: torch.device, graphs: list[LigandGraph], quick: bool) -> None:
    """Pairs per second with graphs made before, for several variants."""
    kernels = kernels_for(device)
    batches = [graphs[i : i + 32] for i in range(0, len(graphs) - 31, 32)]

    def rate(slots: int, mode: str, proteins: int = 1, used: Any = None) -> float:
        engine = Engine(full_size_network(), torch.float32, device, used or kernels)
        runner = PackedRunner(engine, slots, graphs="eager" not in mode)
        if "one stream" in mode:
            from gpu.psichic.engine import in_turn

            engine.side_by_side = in_turn
        keys = [str(seed) for seed in range(proteins)]
        for key in keys:
            runner.prepare(key, synthetic_protein(int(key)).network_input())
        mine = [graphs[i : i + slots] for i in range(0, len(graphs) - slots + 1, slots)] if slots != 32 else batches
        few = mine[: max(1, len(mine) // 4)] if mode else mine
        span = timed(device, lambda: list(runner.run(keys, iter(few))), 1 if quick else 3)
        return len(few) * slots * proteins / span

    variants: list[tuple[str, tuple[Any, ...]]] = [
        ("triton, graphs, 32 slots, 1 protein", (32, "")),
        ("triton, graphs, 32 slots, 9 proteins", (32, "", 9)),
        ("triton, graphs, one stream", (32, "one stream")),
        ("triton, eager", (32, "eager")),
        ("triton, graphs, 64 slots", (64, "part")),
        ("triton, graphs, 16 slots", (16, "part")),
        ("plain torch, graphs", (32, "part", 1, plain_kernels)),
    ]
    for name, arguments in variants if device.type == "cuda" else variants[:1]:
        value = guarded(name, lambda arguments=arguments: rate(*arguments))
        if value is not None:
            say(f"forward {name}: {value:.0f} pairs/s")


def replay_alone(device: torch.device, graphs: list[LigandGraph], ceiling: tuple[float, float]) -> None:
    """One recorded batch replayed: the device's own time, and its dominant kernels."""
    runner = PackedRunner(Engine(full_size_network(), torch.float32, device, kernels_for(device)))
    runner.prepare("a", synthetic_protein(0).network_input())
    list(runner.run(["a"], iter([graphs[:32]])))
    stage = next(iter(runner._stages.values()))
    replay = stage.pairs["a"].replay

    def many(launch: Callable[[], None], times: int = 20) -> None:
        with exact_arithmetic():
            for _ in range(times):
                launch()

    span = timed(device, lambda: many(replay), 5) / 20
    product, copy = ceiling
    say(f"replay of 32 pairs: {span * 1e3:.3f} ms = {32 / span:.0f} pairs/s; 1.1 GFLOP a pair would be "
        f"{32 * 1.1e-3 / span / product:.2f} of the fp32 product ceiling")  # fmt: skip
    prologue = timed(device, lambda: many(stage.prologue.replay), 3) / 20
    say(f"ligand prologue of 32: {prologue * 1e3:.3f} ms")
    if device.type != "cuda":
        return
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as watched:
        many(replay, 5)
        torch.cuda.synchronize()
    events = sorted(watched.key_averages(), key=lambda e: -e.self_device_time_total)
    total = sum(e.self_device_time_total for e in events)
    print(f"device time by kernel, of {total / 5:.0f} us a batch:")
    for event in events[:26]:
        each = event.self_device_time_total / 5
        print(f"  {each:8.1f} us {each / total * 500:5.1f} %  {event.count // 5:3d} x {event.key[:110]}")
    print(f"copy ceiling {copy:.2f} TB/s, product ceiling {product:.1f} TFLOP/s")


def end_to_end(device: torch.device, smiles: list[str], repeats: int) -> None:
    """SMILES in, scores out, nine proteins whose features are known, through the scorer."""
    with tempfile.TemporaryDirectory() as folder:
        scorer, proteins = full_size_scorer(Path(folder), str(device))
        start = time.perf_counter()
        first = scorer.score(proteins, smiles[:32])
        say(f"first batch, loading and recording nine proteins: {time.perf_counter() - start:.1f} s")
        assert not np.isnan(first.scores).any()
        span = timed(device, lambda: scorer.score(proteins, smiles), repeats)
        say(f"end to end, {len(smiles)} ligands x 9 proteins in one call: {9 * len(smiles) / span:.0f} pairs/s")
        tasks = [smiles[i : i + 32] for i in range(0, len(smiles), 32)]
        span = timed(device, lambda: [scorer.score(proteins, task) for task in tasks], repeats)
        say(f"end to end, one call per 32 ligands x 9 proteins: {9 * len(smiles) / span:.0f} pairs/s")
        span = timed(device, lambda: [scorer.score(proteins[:1], task) for task in tasks], repeats)
        say(f"end to end, one call per 32 ligands x 1 protein: {len(smiles) / span:.0f} pairs/s")
        if device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(device) / 2**30
            say(f"peak allocated in this run {peak:.2f} GiB; scorer resident {scorer.resident_bytes() / 2**30:.2f} GiB")
            scorer.close()
            say(f"after close: {torch.cuda.memory_allocated(device) / 2**20:.1f} MiB allocated")


def main() -> None:
    """Verify, then time."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="fewer repeats")
    parser.add_argument("--device", default=None)
    parser.add_argument("--ligands", type=int, default=None, help="only the first N ligands")
    options = parser.parse_args()
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cuda":
        say(f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}, python {sys.version.split()[0]}")
    smiles = drug_like_smiles()[: options.ligands]
    start = time.perf_counter()
    graphs = [ligand_graph(text) for text in smiles]
    say(f"ligand graphs: {len(smiles) / (time.perf_counter() - start):.0f} /s on one core")
    ceiling = guarded("ceilings", lambda: ceilings(device)) or (50.0, 4.0)
    guarded("golden", lambda: golden(device))
    guarded("independence", lambda: independence(device, graphs))
    guarded("replay", lambda: replay_alone(device, graphs, ceiling))
    guarded("end to end", lambda: end_to_end(device, smiles, 1 if options.quick else 3))
    guarded("forward", lambda: forward_rates(device, graphs, options.quick))
    print("\n==== summary ====")
    print("\n".join(LINES))


if __name__ == "__main__":
    main()
