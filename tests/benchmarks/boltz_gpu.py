"""Boltz-2 at full size with random weights on one CUDA device: what holds and how long it takes.

    python tests/benchmarks/boltz_gpu.py look             where the time goes, stage by stage
    python tests/benchmarks/boltz_gpu.py verify           reproducible bit for bit
    python tests/benchmarks/boltz_gpu.py memory           out of memory ends in a retry; close() gives memory back
    python tests/benchmarks/boltz_gpu.py error            ``live`` against boltz's own float32 layers
    python tests/benchmarks/boltz_gpu.py amortised        seconds per molecule over a batch; fast against live
    python tests/benchmarks/boltz_gpu.py cards            one card against all of the machine, a process each

Prints one JSON object per finding. ``--components`` names a folder of CCD components where biotite is not there.
"""

from __future__ import annotations

import argparse
import collections
import functools
import hashlib
import json
import os
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from gpu.boltz.scorer import BoltzScorer  # sets cuBLAS's workspace before torch starts CUDA

# isort: split
import torch

from app.domain import Protein
from gpu.boltz import FAST, LIVE, PROFILES, DeviceOutOfMemory, Profile
from gpu.devices import visible_gpus
from tests.gpu.boltz.random_weights import FULL, TINY, Size, write_checkpoints

HDAC3 = Protein(
    "O15379",
    "MAKTVAYFYDPDVGNFHYGAGHPMKPHRLALTHSLVLHYGLYKKMIVFKPYQASQHDMCRFHSEDYIDFLQRVSPTNMQGFTKSLNAFNVGDDCPVFPGLF"
    "EFCSRYTGASLQGATQLNNKICDIAINWAGGLHHAKKFEASGFCYVNDIVIGILELLKYHPRVLYIDIDIHHGDGVQEAFYLTDRVMTVSFHKYGNYFFPG"
    "TGDMYEVGAESGRYYCLNVPLRDGIDDQSYKHLFQPVINQVVDFYQPTCIVLQCGADSLGCDRLGCFNLSIRGHGECVEYVKSFNIPLLVLGGGGYTVRNV"
    "ARCWTYETSLLVEEAISEELPYSEYFEYFAPDFTLHPDVSTRIENQNSRQYLDQIRQTIFENLKMLNHAPSVQIHDVPADLLTYDRTDEADAEERGPEENY"
    "SRPEAPNEFYDGDHDNDKESDVEI",
)

LIGANDS = (
    "ONC(=O)CCCCCCC(=O)Nc1ccccc1",
    "CC(C=C(C)C=CC(=O)NO)C(=O)c1ccc(N(C)C)cc1",
    "ONC(=O)C=Cc1cccc(S(=O)(=O)Nc2ccccc2)c1",
    "Cc1[nH]c2ccccc2c1CCNCc1ccc(C=CC(=O)NO)cc1",
    "Nc1ccccc1NC(=O)c1ccc(CNC(=O)OCc2cccnc2)cc1",
    "CC(=O)Nc1ccc(C(=O)Nc2ccccc2N)cc1",
    "Cc1ccc(NC(=O)c2ccc(CN3CCN(C)CC3)cc2)cc1Nc1nccc(-c2cccnc2)n1",
    "CS(=O)(=O)CCNCc1ccc(-c2ccc3ncnc(Nc4ccc(OCc5cccc(F)c5)c(Cl)c4)c3c2)o1",
    "COCCOc1cc2ncnc(Nc3cccc(C#C)c3)c2cc1OCCOC",
    "COc1cc2ncnc(Nc3ccc(F)c(Cl)c3)c2cc1OCCCN1CCOCC1",
    "CN1CCN(CCCOc2cc3ncnc(Nc4cc(OC)c(Cl)cc4Cl)c3cc2OC)CC1",
    "CNC(=O)c1cc(Oc2ccc(NC(=O)Nc3ccc(Cl)c(C(F)(F)F)c3)cc2)ccn1",
    "CCN(CC)CCNC(=O)c1c(C)[nH]c(C=C2C(=O)Nc3ccc(F)cc32)c1C",
    "Cc1nc(Nc2ncc(C(=O)Nc3c(C)cccc3Cl)s2)cc(N2CCN(CCO)CC2)n1",
    "CC(C)c1nc(CN(C)C(=O)NC(C(C)C)C(=O)O)cs1",
    "COc1ccc(CCN(C)CCCC(C#N)(C(C)C)c2ccc(OC)c(OC)c2)cc1OC",
    "CN(C)CCOC(c1ccccc1)c1ccccc1",
    "CC(C)(C)NCC(O)c1ccc(O)c(CO)c1",
    "CCCc1nn(C)c2c1nc([nH]c2=O)-c1cc(S(=O)(=O)N2CCN(C)CC2)ccc1OCC",
    "CC(C)c1c(C(=O)Nc2ccccc2)c(-c2ccccc2)c(-c2ccc(F)cc2)n1CCC(O)CC(O)CC(=O)O",
    "CN1C(=O)CN=C(c2ccccc2)c2cc(Cl)ccc21",
    "COc1ccc2[nH]c(S(=O)Cc3ncc(C)c(OC)c3C)nc2c1",
    "Clc1ccc(C(c2ccccc2)N2CCN(CCOCCO)CC2)cc1",
    "O=C(CCCN1CCC(O)(c2ccc(Cl)cc2)CC1)c1ccc(F)cc1",
    "CC(CCc1ccccc1)NCC(O)c1ccc(O)c(C(N)=O)c1",
    "CCOC(=O)C1=C(COCCN)NC(C)=C(C(=O)OC)C1c1ccccc1Cl",
    "Cc1ccc(-c2cc(C(F)(F)F)nn2-c2ccc(S(N)(=O)=O)cc2)cc1",
    "CN(C)CCCN1c2ccccc2CCc2ccccc21",
    "COc1ccc(C2Sc3ccccc3N(CCN(C)C)C(=O)C2OC(C)=O)cc1",
    "Fc1ccc(C(CCCN2CCC(n3c(=O)[nH]c4ccccc43)CC2)c2ccc(F)cc2)cc1",
    "CCCCc1nc(Cl)c(CO)n1Cc1ccc(-c2ccccc2-c2nn[nH]n2)cc1",
    "O=C(NCc1ccccc1)c1ccc(-c2ccc3c(c2)OCO3)nc1",
)

SIZES = {"full": FULL, "tiny": TINY}


def report(**finding: Any) -> None:
    print(json.dumps({key: round(v, 3) if isinstance(v, float) else v for key, v in finding.items()}), flush=True)


def guarded(section: Callable[[], None]) -> None:
    """One section's failure must not cost the others their turn on a borrowed machine."""
    try:
        section()
    except Exception:
        traceback.print_exc()
        report(section=section.__name__, failed=True)


class Bench:
    """Checkpoints once, scorers by profile, clocks that wait for the device."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.size: Size = SIZES[arguments.size]
        self.device = torch.device(arguments.device)
        self.folder = Path(arguments.folder)
        self.mols = Path(arguments.components) if arguments.components else self.folder / "mols"
        self.ligands = LIGANDS[: arguments.molecules]
        self.live_molecules: int = arguments.live_molecules
        self.profiles: list[str] = arguments.profiles
        self.plain: bool = arguments.plain
        started = time.perf_counter()
        if not (self.folder / "boltz2_aff.ckpt").exists():
            write_checkpoints(self.folder, self.size, str(self.device))
        if not self.mols.is_dir():
            from tests.gpu.boltz.components import write_components

            write_components(self.mols)
        report(checkpoints_s=time.perf_counter() - started, torch=torch.__version__, device=self.name)

    @property
    def name(self) -> str:
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"

    def wait(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def scorer(self, profile: Profile, **options: Any) -> BoltzScorer:
        scorer = BoltzScorer(
            self.folder / "boltz2_conf.ckpt",
            self.folder / "boltz2_aff.ckpt",
            self.mols,
            self.size.profile(profile),
            self.device,
            **options,
        )
        started = self.wait()
        scorer.load()
        report(load_s=self.wait() - started, profile=profile.name, resident_GB=scorer.resident_bytes() / 1e9)
        return scorer

    def scored(self, scorer: BoltzScorer, smiles: str, label: str) -> dict[str, float]:
        started = self.wait()
        (score,) = scorer.pair_scores([HDAC3], [smiles])
        seconds = self.wait() - started
        memory = torch.cuda.max_memory_allocated() / 1e9 if self.device.type == "cuda" else 0.0
        report(label=label, seconds=seconds, peak_GB=memory, error=score.error)
        return dict(score.metrics)


class StageClock:
    """Seconds per part of a score, the device waited for before and after each (which adds a little)."""

    def __init__(self, bench: Bench, scorer: BoltzScorer) -> None:
        self.seconds: dict[str, float] = collections.defaultdict(float)
        loaded: Any = scorer._loaded
        self._wrap(bench, scorer, "_answer", "waiting for features")
        for name, model in (("structure", loaded.structure), ("affinity", loaded.affinity)):
            self._wrap(bench, model, "predict_step", f"{name} all")
            self._wrap(bench, model.structure_module, "sample", f"{name} diffusion")
            for part in ("msa_module", "pairformer_module", "diffusion_conditioning", "confidence_module"):
                self._wrap(bench, getattr(model, part), "forward", f"{name} {part}")
        for part in ("affinity_module1", "affinity_module2"):
            self._wrap(bench, getattr(loaded.affinity, part), "forward", part)

    def _wrap(self, bench: Bench, owner: Any, method: str, name: str) -> None:
        original = getattr(owner, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            started = bench.wait()
            try:
                return original(*args, **kwargs)
            finally:
                self.seconds[name] += bench.wait() - started

        setattr(owner, method, timed)


def look(bench: Bench) -> None:
    """Stage by stage: the fast profile; ``plain`` adds the live one, replayed and not."""

    def variant(label: str, profile: Profile, **options: Any) -> None:
        scorer = bench.scorer(profile, **options)
        bench.scored(scorer, bench.ligands[0], f"{label}: first molecule")
        metrics = bench.scored(scorer, bench.ligands[1], label)
        clock = StageClock(bench, scorer)
        again = bench.scored(scorer, bench.ligands[1], f"{label}: with clocks")
        report(label=label, stages={key: round(value, 3) for key, value in sorted(clock.seconds.items())})
        report(label=label, same_bits_again=again == metrics, affinity=again.get("affinity_probability_binary", -1.0))
        kernels(label, scorer)
        scorer.close()

    def kernels(label: str, scorer: BoltzScorer) -> None:
        """The device's own account: kernels of one pass of each part."""
        from torch.profiler import ProfilerActivity, profile

        loaded: Any = scorer._loaded
        for model in (loaded.structure, loaded.affinity):
            model.predict_args = {**model.predict_args, "recycling_steps": 0, "sampling_steps": 4}
        with profile(activities=[ProfilerActivity.CUDA]) as recorded:
            bench.scored(scorer, bench.ligands[1], f"{label}: short, profiled")
        rows = sorted(recorded.key_averages(), key=lambda row: -row.self_device_time_total)
        report(label=label, device_ms=sum(row.self_device_time_total for row in rows) / 1e3)
        for row in rows[:16]:
            print(f"  {row.self_device_time_total / 1e3:9.2f} ms {row.count:7d}x {row.key[:110]}", flush=True)

    guarded(lambda: variant("fast", FAST))
    if bench.plain:
        guarded(lambda: variant("live", LIVE))
        guarded(lambda: variant("live, plain launches", LIVE, replay=False))


def verify(bench: Bench) -> None:
    """The promise that needs the device: the same bits whatever the company, replayed or not."""
    first, second, third = bench.ligands[:3]

    def reproducible(profile: Profile) -> None:
        scorer = bench.scorer(profile)
        batch = scorer.pair_scores([HDAC3], [first, "C1CC(", second, f"{third}.Cl"])
        scorer.close()
        scorer = bench.scorer(profile)
        reversed_batch = scorer.pair_scores([HDAC3], [second, first])
        scorer.close()
        report(
            profile=profile.name,
            same_bits_in_company_and_after_reload=[batch[2], batch[0]] == reversed_batch,
            codes=[score.error.split(":")[0] if score.error else None for score in batch],
        )
        plain = bench.scorer(profile, replay=False)
        same = plain.pair_scores([HDAC3], [first]) == [reversed_batch[1]]
        plain.close()
        report(profile=profile.name, same_bits_without_replay=same)

    for name in bench.profiles:
        guarded(functools.partial(reproducible, PROFILES[name]))


def memory(bench: Bench) -> None:
    """Too little memory ends in a retry with the finished scores kept; ``close`` gives the memory back."""
    first = bench.ligands[0]
    short = Protein("SHORT", (HDAC3.sequence or "")[:40])

    def exhausted(profile: Profile) -> None:
        scorer = bench.scorer(profile)
        (expected,) = scorer.pair_scores([HDAC3], [first])
        scorer._release()
        room = torch.cuda.memory_reserved() + 1.5e9
        torch.cuda.set_per_process_memory_fraction(room / torch.cuda.get_device_properties(0).total_memory)
        try:
            scorer.pair_scores([short, HDAC3], [first])
            report(profile=profile.name, out_of_memory="NOT PROVOKED")
        except DeviceOutOfMemory as error:
            finished = [(score.protein, score.error) for score in error.finished]
            report(profile=profile.name, out_of_memory=str(error)[:80], finished=finished, unfinished=error.unfinished)
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        report(profile=profile.name, same_bits_afterwards=scorer.pair_scores([HDAC3], [first]) == [expected])
        before, _ = torch.cuda.mem_get_info()
        held = scorer.resident_bytes()
        scorer.close()
        after, _ = torch.cuda.mem_get_info()
        report(profile=profile.name, held_GB=held / 1e9, came_back_GB=(after - before) / 1e9)

    for name in bench.profiles:
        guarded(functools.partial(exhausted, PROFILES[name]))


def amortised(bench: Bench) -> None:
    """Seconds per molecule over a whole batch, loading not counted; what ``fast`` changes against ``live``."""
    metric = "affinity_probability_binary"
    scores: dict[str, dict[str, dict[str, float]]] = {}

    def batch(profile: Profile, ligands: tuple[str, ...]) -> None:
        scorer = bench.scorer(profile)
        arrived: list[float] = []
        started = bench.wait()
        found = scorer.pair_scores([HDAC3], ligands, lambda _: arrived.append(time.perf_counter() - started))
        seconds = bench.wait() - started
        steps = [later - earlier for earlier, later in zip([0.0, *arrived], arrived, strict=False)]
        report(
            profile=profile.name,
            molecules=len(ligands),
            seconds=seconds,
            per_molecule=seconds / len(ligands),
            median=statistics.median(steps),
            slowest=max(steps),
            first=steps[0],
            failed=[score.error for score in found if score.error],
            peak_GB=torch.cuda.max_memory_allocated() / 1e9 if bench.device.type == "cuda" else 0.0,
        )
        scores[profile.name] = {score.smiles: dict(score.metrics) for score in found}
        scorer.close()

    if "fast" in bench.profiles:
        guarded(lambda: batch(FAST, bench.ligands))
    if "live" in bench.profiles:
        guarded(lambda: batch(LIVE, bench.ligands[: bench.live_molecules]))
    if "live" in scores and "fast" in scores:
        from scipy.stats import spearmanr

        shared = list(scores["live"])
        for name in (metric, "affinity_pred_value", "confidence_score", "ligand_iptm"):
            live = [scores["live"][smiles][name] for smiles in shared]
            fast = [scores["fast"][smiles][name] for smiles in shared]
            report(
                metric=name,
                molecules=len(shared),
                spearman=float(spearmanr(live, fast).statistic),
                largest_difference=max(abs(a - b) for a, b in zip(live, fast, strict=True)),
                live_spread=max(live) - min(live),
            )


def error(bench: Bench) -> None:
    """How far ``live``'s packed arithmetic moves each metric from boltz's own float32 layers on the same device."""
    scores = []
    for profile in (LIVE, replace(LIVE, packed=False)):
        scorer = bench.scorer(profile)
        scores.append(scorer.pair_scores([HDAC3], bench.ligands[: bench.live_molecules]))
        scorer.close()
    for name in scores[0][0].metrics:
        pairs = [(one.metrics[name], other.metrics[name]) for one, other in zip(*scores, strict=True)]
        values = [value for value, _ in pairs]
        report(
            metric=name,
            molecules=len(pairs),
            largest_difference=f"{max(abs(a - b) for a, b in pairs):.1e}",
            spread=max(values) - min(values),
        )


def cards(bench: Bench) -> None:
    """The same batch on the first card alone, then on every card at once; the same bits."""
    command = [sys.executable, __file__, "card", *sys.argv[1:]]
    command.remove("cards")
    children = [
        subprocess.Popen(
            command,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": card},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for card in visible_gpus() or ["", ""]
    ]
    for child in children:
        _answer(child, "ready")
    alone = _timed(children[:1])
    together = _timed(children)
    seconds = max(found["seconds"] for found in together)
    report(
        cards=len(children),
        alone_s=alone[0]["seconds"],
        together_s=seconds,
        molecules_a_card=len(bench.ligands),
        times=len(children) * alone[0]["seconds"] / seconds,
        same_bits=len({found["digest"] for found in (*alone, *together)}) == 1,
    )
    for child in children:
        child.communicate()


def _timed(children: Sequence[subprocess.Popen[str]]) -> list[dict[str, Any]]:
    for child in children:
        assert child.stdin is not None
        child.stdin.write("score\n")
        child.stdin.flush()
    return [json.loads(_answer(child, '{"digest"')) for child in children]


def _answer(child: subprocess.Popen[str], beginning: str) -> str:
    assert child.stdout is not None
    return next(line for line in child.stdout if line.startswith(beginning))


def card(bench: Bench) -> None:
    """One card's part of ``cards``: warm, then score the batch as often as it is told to."""
    scorer = bench.scorer(FAST)
    scorer.pair_scores([HDAC3], bench.ligands)
    print("ready", flush=True)
    for _ in sys.stdin:
        started = bench.wait()
        scores = [sorted(score.metrics.items()) for score in scorer.pair_scores([HDAC3], bench.ligands)]
        seconds = bench.wait() - started
        digest = hashlib.sha256(json.dumps(scores).encode()).hexdigest()
        print(json.dumps({"digest": digest, "seconds": seconds}), flush=True)


SECTIONS = {
    "error": error, "look": look, "verify": verify, "memory": memory, "amortised": amortised, "cards": cards,
    "card": card,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="+", choices=SECTIONS)
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--molecules", type=int, default=32)
    parser.add_argument("--live-molecules", type=int, default=32, help="of them, how many with the live profile")
    parser.add_argument(
        "--profiles", nargs="+", choices=PROFILES, default=list(PROFILES), help="to verify, exhaust or time"
    )
    parser.add_argument("--plain", action="store_true", help="look at launches without replay, too")
    parser.add_argument("--folder", default="/tmp/boltz-benchmark")
    parser.add_argument("--components")
    arguments = parser.parse_args()
    bench = Bench(arguments)
    for name in arguments.what:
        SECTIONS[name](bench)


if __name__ == "__main__":
    main()
