"""A whole epoch on GPUs: real Redis, real workers, full-size random PSICHIC and Boltz-2 weights, capture to weights.

    python -m tests.benchmarks.epoch_gpu record DIR --uids 48      once, anywhere: the recording
    python -m tests.benchmarks.epoch_gpu weights DIR               once, on the machine: random weights (7 GB)
    python -m tests.benchmarks.epoch_gpu run DIR                   all cards; all cards with a killed child; one card

``run`` replays the recording with ``epoch replay --scores model`` on the embedded cluster, whose gpu worker
(``celery -A app worker -Q gpu``) has one child a card. It prints seconds by stage, each card's utilisation, pairs and
molecules by worker process, whether the scores of all runs are the same bits, and the scaling from one card to all.
``--components`` names a folder of CCD components where biotite is not there.
"""

from __future__ import annotations

import argparse
import collections
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
from pathlib import Path
from typing import Any

KILL_AFTER_SCORES = 4


def record(folder: Path, uids: int) -> None:
    """The recording of an epoch in which ``uids`` miners submit 100 molecules each."""
    from tests.benchmarks import epoch256

    epoch256.UIDS = uids
    epoch256.FullEpoch.metagraph_size = uids
    epoch256.FullEpoch(folder / "recording").make()


def weights(folder: Path, components: Path | None) -> None:
    """Random PSICHIC (H = 200, D = 1280), ESM-2 (33 layers of 1280) and Boltz-2 weights of the published sizes."""
    import torch

    from gpu.psichic import demo
    from tests.gpu.boltz.random_weights import FULL, write_checkpoints

    demo._HIDDEN, demo._WIDTH, demo._LAYERS, demo._HEADS = 200, 1280, 33, 20
    demo.make_demo(folder / "psichic")
    write_checkpoints(folder / "boltz", FULL, "cuda" if torch.cuda.is_available() else "cpu")
    if components is not None:
        shutil.copytree(components, folder / "boltz" / "mols", dirs_exist_ok=True)
    else:
        from tests.gpu.boltz.components import write_components

        write_components(folder / "boltz" / "mols")


class Cards:
    """Utilisation of every card, asked of nvidia-smi once a second."""

    def __init__(self) -> None:
        self.percent: dict[str, list[int]] = collections.defaultdict(list)
        command = ["nvidia-smi", "--query-gpu=index,utilization.gpu", "--format=csv,noheader,nounits", "--loop=1"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            card, percent = line.split(",")
            self.percent[card.strip()].append(int(percent))

    def means(self) -> dict[str, float]:
        """Mean percent of each card since the beginning."""
        self._process.kill()
        return {card: round(statistics.fmean(seen), 1) for card, seen in self.percent.items()}


def replay(folder: Path, name: str, cards: str | None, *, kill: bool = False) -> dict[str, Any]:
    """One replay in a data folder of its own; with ``kill`` a gpu child is killed once it has scored some molecules."""
    data = folder / name
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir()
    environment = {
        **os.environ,
        "DATA_DIR": str(data),
        "PSICHIC_WEIGHTS": str(folder / "psichic"),
        "ESM_CHECKPOINT": str(folder / "psichic" / "esm2.pt"),
        "BOLTZ_CACHE": str(folder / "boltz"),
        "BOLTZ_PROFILE": "fast",
        "CPU_CONCURRENCY": "8",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    }
    if cards is not None:
        environment["CUDA_VISIBLE_DEVICES"] = cards
    command = [sys.executable, "-m", "app", "epoch", "replay", str(folder / "recording"), "--scores", "model"]
    seen, begun = Cards(), time.monotonic()
    process = subprocess.Popen([*command, "--out", str(data / "result.json")], env=environment)
    killed: int | None = None
    while process.poll() is None:
        time.sleep(0.5)
        if kill and killed is None:
            killed = _kill_a_scoring_child(data, process.pid)
    seconds = time.monotonic() - begun
    utilisation = seen.means()
    if process.returncode:
        for log in sorted((data / "embedded" / "logs").glob("*.log")):
            print(f"--- {log.name}\n{log.read_text(errors='replace')[-3000:]}", flush=True)
        raise SystemExit(f"the replay {name} ended with status {process.returncode}")
    told = _told(data)
    finding = {"run": name, "seconds": round(seconds, 1), "utilisation": utilisation, "killed": killed, **told}
    print(json.dumps({**finding, "scores": len(told["scores"])}), flush=True)
    return finding


def _database(data: Path) -> Path:
    return next(iter(sorted(data.glob("*.db")) or sorted(data.glob("*.sqlite*"))), data / "none")


def _kill_a_scoring_child(data: Path, root: int) -> int | None:
    """Kill the gpu worker's child that scores Boltz-2, once some of its molecules are kept."""
    database = _database(data)
    if not database.exists():
        return None
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
        try:
            rows = connection.execute(
                "select count(*) from molecule_scores where metrics like '%affinity%'"
            ).fetchone()[0]
        except sqlite3.OperationalError:
            return None
    if rows < KILL_AFTER_SCORES:
        return None
    for pid in _descendants(root):
        line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ") if Path(f"/proc/{pid}").exists() else b""
        parent = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1]) if line else 0
        siblings = Path(f"/proc/{parent}/cmdline").read_bytes().replace(b"\0", b" ") if parent else b""
        if b"worker -Q gpu" in line and b"worker -Q gpu" in siblings and b"import" not in siblings:
            os.kill(pid, signal.SIGKILL)
            return pid
    return None


def _descendants(root: int) -> list[int]:
    found, pending = [], [root]
    while pending:
        pid = pending.pop()
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            children = [int(child) for child in task.read_text().split()]
            found += children
            pending += children
    return found


def _told(data: Path) -> dict[str, Any]:
    """What the store says: stages, batches by worker process, and every score."""
    with sqlite3.connect(_database(data)) as connection:
        connection.row_factory = sqlite3.Row
        epoch = dict(connection.execute("select * from epochs").fetchone())
        batches = [dict(row) for row in connection.execute("select * from batches")]
        scores = connection.execute("select hex(molecule), hex(numbers), errors from molecule_scores").fetchall()
    work: dict[str, dict[str, Any]] = {}
    for batch in batches:
        entry = work.setdefault(f"{batch['model']} {batch['worker']}", {"batches": 0, "began": [], "finished": []})
        entry["batches"] += 1
        entry["began"].append(batch["began_at"])
        entry["finished"].append(batch["finished_at"])
    for entry in work.values():
        entry["began"], entry["finished"] = min(entry["began"]), max(entry["finished"])
    return {
        "stages": json.loads(epoch["stage_times"] or "{}"),
        "closed_at": epoch["closed_at"],
        "weights": len(json.loads(epoch["weights"] or "[]")),
        "work": work,
        "scores": sorted(tuple(map(str, row)) for row in scores),
    }


def run(folder: Path) -> None:
    """All cards, all cards with a killed child, one card."""
    cards = [line for line in subprocess.check_output(["nvidia-smi", "-L"], text=True).splitlines() if line]
    findings = []
    plans: list[tuple[str, str | None, bool]] = [("warm-up and all cards", None, False), ("one card", "0", False)]
    if len(cards) > 1:
        plans.append(("all cards, a child killed", None, True))
    for name, visible, kill in plans:
        findings.append(replay(folder, name.replace(" ", "-").replace(",", ""), visible, kill=kill))
        if len(findings) > 1:
            same = findings[-1]["scores"] == findings[0]["scores"]
            print(json.dumps({"same_bits": [findings[0]["run"], name], "same": same}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("record", "weights", "run"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--uids", type=int, default=48)
    parser.add_argument("--components", type=Path)
    arguments = parser.parse_args()
    if arguments.what == "record":
        record(arguments.folder, arguments.uids)
    elif arguments.what == "weights":
        weights(arguments.folder, arguments.components)
    else:
        run(arguments.folder)


if __name__ == "__main__":
    main()
