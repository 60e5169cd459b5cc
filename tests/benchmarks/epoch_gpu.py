"""A whole epoch on GPUs: real Redis, real workers, full-size random PSICHIC and Boltz-2 weights, capture to weights.

    python -m tests.benchmarks.epoch_gpu record DIR --uids 256     once, anywhere: the recording
    python -m tests.benchmarks.epoch_gpu weights DIR               once, on the machine: random weights (7 GB)
    python -m tests.benchmarks.epoch_gpu run DIR all               every card the machine has
    python -m tests.benchmarks.epoch_gpu run DIR one --cards 0     one card
    python -m tests.benchmarks.epoch_gpu run DIR killed --kill     a gpu child is killed while it scores Boltz-2
    python -m tests.benchmarks.epoch_gpu compare DIR all one killed

``run`` replays the recording with ``epoch replay --scores model`` on the embedded cluster, whose gpu worker
(``celery -A app worker -Q gpu``) has one child a card, and prints seconds by stage, pairs a second of PSICHIC,
molecules by worker process, and each card's utilisation in both models' time. ``--without-boltz`` leaves PSICHIC alone.
``compare`` says whether the scores of several runs are the same bits, and how much quicker each was than the slowest.
Of the invented macrocycles some have no conformer in a minute: ``--largest-ring 6`` leaves them out of a recording.
``--components`` names a folder of CCD components where biotite is not there.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sqlite3
import statistics
import subprocess
import sys
import threading
import time
import zlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.pool import pool_children

KILL_AFTER_SCORES = 4


def record(folder: Path, uids: int, largest: int | None) -> None:
    """The recording of an epoch in which ``uids`` miners submit 100 molecules each; proteins of 478 residues or so."""
    from rdkit import Chem

    from tests.benchmarks import epoch256

    class Epoch(epoch256.FullEpoch):
        metagraph_size = uids
        residues = (457, 498)
        drawn = 1.35 if largest is None else 4.2

        def _miners(self) -> list[Any]:
            if largest is None:
                return super()._miners()
            self.good = [name for name in self.good if _largest_ring(self.smiles(name)) <= largest]
            return super()._miners()

    def _largest_ring(smiles: Any) -> int:
        molecule = Chem.MolFromSmiles(smiles)
        return max(map(len, molecule.GetRingInfo().AtomRings()), default=0)

    epoch256.UIDS = uids
    Epoch(_recording(folder, uids)).make()


def _recording(folder: Path, uids: int) -> Path:
    return folder / f"recording-{uids}"


def weights(folder: Path, components: Path | None) -> None:
    """Random PSICHIC (H = 200, D = 1280), ESM-2 (33 layers of 1280) and Boltz-2 weights of the published sizes."""
    import torch

    from gpu.psichic import demo
    from tests.gpu.boltz.random_weights import FULL, write_checkpoints

    demo._HIDDEN, demo._WIDTH, demo._LAYERS, demo._HEADS = 200, 1280, 33, 20
    _with_few_contacts(demo.make_demo(folder / "psichic").esm)
    write_checkpoints(folder / "boltz", FULL, "cuda" if torch.cuda.is_available() else "cpu")
    if components is not None:
        shutil.copytree(components, folder / "boltz" / "mols", dirs_exist_ok=True)
    else:
        from tests.gpu.boltz.components import write_components

        write_components(folder / "boltz" / "mols")


def _with_few_contacts(esm: Path) -> None:
    """Random attention makes a quarter of all pairs a contact; a real protein has about eleven edges a residue."""
    import torch

    from gpu.psichic.language_model import load_language_model
    from tests.benchmarks.psichic_workload import EDGES, RESIDUES, synthetic_protein

    data = torch.load(esm, weights_only=True)
    state = data["state_dict"]
    weight, bias = state["contact_head.regression.weight"], state["contact_head.regression.bias"]
    # as many features as the small network has would keep the sum from saturating
    weight *= (12 / weight.numel()) ** 0.5
    bias.zero_()
    torch.save(data, esm)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    contact = torch.from_numpy(load_language_model(esm, device)(synthetic_protein(0).sequence).contact).double()
    wanted = (EDGES - RESIDUES) // 2 - (2 * RESIDUES - 3)
    beyond_the_chain = contact.triu(3).flatten()
    bias -= torch.logit(beyond_the_chain.topk(wanted).values.min(), eps=1e-6)
    torch.save(data, esm)


class Cards:
    """Utilisation of every card, asked of nvidia-smi once a second."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, str, int]] = []
        command = ["nvidia-smi", "--query-gpu=index,utilization.gpu", "--format=csv,noheader,nounits", "--loop=1"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            card, percent = line.split(",")
            self.seen.append((time.time(), card.strip(), int(percent)))

    def close(self) -> None:
        """Ask no more."""
        self._process.kill()

    def means(self, since: float, until: float) -> dict[str, float]:
        """Mean percent of each card in a span of time."""
        cards = sorted({card for _, card, _ in self.seen})
        within = {card: [p for at, c, p in self.seen if c == card and since <= at <= until] for card in cards}
        return {card: round(statistics.fmean(percents), 1) for card, percents in within.items() if percents}


def run(folder: Path, options: argparse.Namespace) -> None:
    """One replay in a data folder of its own; what was found is kept in ``NAME.json``."""
    data = folder / f"run-{options.name}"
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir()
    environment = {
        **os.environ,
        "DATA_DIR": str(data),
        "PSICHIC_WEIGHTS": str(folder / "psichic"),
        "ESM_CHECKPOINT": str(folder / "psichic" / "esm2.pt"),
        "BOLTZ_CACHE": str(folder / "boltz"),
        "BOLTZ_PROFILE": "fast",
        "CPU_CONCURRENCY": str(max(2, (os.cpu_count() or 2) // 2)),
    }
    if options.cards is not None:
        environment["CUDA_VISIBLE_DEVICES"] = options.cards
    command = [sys.executable, "-m", "app", "epoch", "replay", str(_recording(folder, options.uids))]
    command += ["--scores", "model", "--out", str(data / "result.json"), *["--without-boltz"] * options.without_boltz]
    cards, begun = Cards(), time.monotonic()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    killed: int | None = None
    while process.poll() is None:
        time.sleep(0.5)
        if options.kill and killed is None:
            killed = _kill_a_scoring_child(data, process.pid)
        if time.monotonic() - begun > options.limit:
            # the command ends its cluster
            process.terminate()
            process.wait(60)
    seconds = time.monotonic() - begun
    cards.close()
    if process.returncode:
        for log in sorted((data / "embedded" / "logs").glob("*.log")):
            print(f"--- {log.name}\n{log.read_text(errors='replace')[-3000:]}", flush=True)
        raise SystemExit(f"the replay {options.name} ended with status {process.returncode}")
    finding = {"run": options.name, "seconds": round(seconds, 1), "killed": killed, **_told(data, cards)}
    (folder / f"{options.name}.json").write_text(json.dumps(finding))
    print(json.dumps({**finding, "scores": len(finding["scores"])}), flush=True)


def compare(folder: Path, names: list[str]) -> None:
    """Same bits, and how much quicker than the slowest."""
    findings = [json.loads((folder / f"{name}.json").read_text()) for name in names]
    first, slowest = findings[0], max(findings, key=lambda found: found["boltz"].get("seconds", 0.0))
    for found in findings:
        quicker = {
            model: round(slowest[model]["seconds"] / found[model]["seconds"], 2)
            for model in ("psichic", "boltz")
            if found[model] and slowest[model]
        }
        same = found["scores"] == first["scores"]
        print(json.dumps({"run": found["run"], "same_bits": same, "scores": len(found["scores"]), "quicker": quicker}))


def _kill_a_scoring_child(data: Path, root: int) -> int | None:
    """Kill a child of the gpu worker, once some of Boltz-2's molecules are kept."""
    try:
        with sqlite3.connect(f"file:{data / 'validator.sqlite'}?mode=ro", uri=True) as connection:
            query = "select count(*) from molecule_scores where metrics like '%affinity%'"
            rows = connection.execute(query).fetchone()[0]
    except sqlite3.OperationalError:
        return None
    if rows < KILL_AFTER_SCORES:
        return None
    for worker in _descendants(root):
        if b"-Q\0gpu" in _command(worker):
            for child in pool_children(worker):
                os.kill(child, signal.SIGKILL)
                return child
    return None


def _command(pid: int) -> bytes:
    path = Path(f"/proc/{pid}/cmdline")
    return path.read_bytes() if path.exists() else b""


def _children(pid: int) -> list[int]:
    return [int(child) for task in Path(f"/proc/{pid}/task").glob("*/children") for child in task.read_text().split()]


def _descendants(root: int) -> list[int]:
    found, pending = [], [root]
    while pending:
        children = _children(pending.pop())
        found += children
        pending += children
    return found


def _told(data: Path, cards: Cards) -> dict[str, Any]:
    """What the store says: stages, both models' rates and batches by worker process, and every score."""
    with sqlite3.connect(data / "validator.sqlite") as connection:
        connection.row_factory = sqlite3.Row
        epoch = dict(connection.execute("select * from epochs").fetchone())
        batches = [dict(row) for row in connection.execute("select * from batches order by finished_at")]
        scores = connection.execute("select hex(molecule), hex(numbers), errors from molecule_scores").fetchall()
        proteins = max(len(json.loads(row[0])) for row in connection.execute("select proteins from panels"))
    return {
        "stages": json.loads(epoch["stage_times"] or "{}"),
        "closed_at": epoch["closed_at"],
        "weights": len(json.loads(epoch["weights"] or "[]")),
        "psichic": _model(batches, "psichic", proteins, cards),
        "boltz": _model(batches, "boltz", 1, cards),
        "scores": sorted([*map(str, row)] for row in scores),
    }


def _model(batches: list[dict[str, Any]], model: str, proteins: int, cards: Cards) -> dict[str, Any]:
    mine = [batch for batch in batches if batch["model"] == model]
    if not mine:
        return {}
    began, first, last = (min(_time(b["began_at"]) for b in mine), _time(mine[0]["finished_at"]),
                          _time(mine[-1]["finished_at"]))  # fmt: skip
    # what is finished later than the first call, in which the model is loaded
    later = [batch for batch in mine if _time(batch["finished_at"]) > first]
    pairs = sum(len(_unpacked(batch["smiles"])) for batch in later) * proteins
    by_worker: dict[str, int] = {}
    for batch in mine:
        by_worker[batch["worker"]] = by_worker.get(batch["worker"], 0) + 1
    return {
        "seconds": round(last - began, 2),
        "until_first": round(first - began, 2),
        "pairs_per_second_after_it": round(pairs / (last - first), 1) if last > first else None,
        "pairs_per_second": round((sum(len(_unpacked(b["smiles"])) for b in mine) * proteins) / (last - began), 1),
        "batches": by_worker,
        "utilisation": cards.means(began, last),
        "utilisation_after_first": cards.means(first, last),
    }


def _unpacked(smiles: bytes) -> list[str]:
    found: list[str] = json.loads(zlib.decompress(smiles))
    return found


def _time(text: str) -> float:
    at = datetime.fromisoformat(text)
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("record", "weights", "run", "compare"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", help="of the runs")
    parser.add_argument("--uids", type=int, default=256)
    parser.add_argument("--cards", help="as CUDA_VISIBLE_DEVICES; all by default")
    parser.add_argument("--kill", action="store_true")
    parser.add_argument("--without-boltz", action="store_true")
    parser.add_argument("--limit", type=float, default=1800.0, help="seconds after which the run is given up")
    parser.add_argument("--largest-ring", type=int)
    parser.add_argument("--components", type=Path)
    options = parser.parse_args()
    if options.what == "record":
        record(options.folder, options.uids, options.largest_ring)
    elif options.what == "weights":
        weights(options.folder, options.components)
    elif options.what == "run":
        (options.name,) = options.names
        run(options.folder, options)
    else:
        compare(options.folder, options.names)


if __name__ == "__main__":
    main()
