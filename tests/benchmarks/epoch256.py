"""An epoch of 256 UIDs × 100 molecules with recorded scores on the embedded cluster.

    python -m tests.benchmarks.epoch256

Runs ``epoch replay`` as its user does, start and stop of the cluster included, and samples the memory of the whole
process tree: twice a second resident memory summed over the processes (shared pages counted once per process), and
every five seconds, for the kernel needs a while for it, the proportional share that adds up to what the machine really
gives. The same work in two plain processes
(``epoch_floor``) is the yardstick for the time; the store says how long the scoring stage took, and how large it is.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from itertools import count
from pathlib import Path

from app.demo.make_recording import END_BLOCK, Maker, Miner, _address
from app.store.database import Store
from app.store.epochs import Epochs
from app.store.records import Stage

UIDS = 256
MOLECULES = 100
WANTED_SECONDS = 90.0
WANTED_BYTES = 1.5e9
WANTED_RATIO = 1.25
WANTED_STORE = 15e6
WANTED_SCORING = 2.0
SAMPLE_SECONDS = 0.5
PROPORTIONAL_EVERY = 10


class FullEpoch(Maker):
    """The bundled recording's maker, with every UID submitting 100 molecules of its own."""

    metagraph_size = UIDS
    drawn = 1.35
    """Names drawn for each molecule wanted: some are refused"""

    def _draw_names(self, _: int) -> Iterable[str]:
        names: dict[str, None] = {}
        wanted = UIDS * MOLECULES * self.drawn
        # by the number of the draw: names of two blocks come to an end
        draws = count()
        while len(names) < wanted:
            names[self._three_blocks() if next(draws) % 3 else self._two_blocks()] = None
        return names

    def _miners(self) -> list[Miner]:
        self._write_archive("AAAAAAAAAAAAAA-AAAAAAAAAA-N")
        wanted = UIDS * MOLECULES
        if len(self.good) < wanted:
            raise SystemExit(f"only {len(self.good)} distinct molecules; {wanted} are needed")
        self.scored = self.good[:wanted]
        miners = []
        for uid in range(UIDS):
            content = self._sealed(uid, self.scored[uid * MOLECULES : (uid + 1) * MOLECULES])
            digest = hashlib.sha256(content).hexdigest()[:20]
            miners.append(Miner(uid, content, f"miner{uid}/s/main/{digest}.txt", END_BLOCK - 200, ""))
        return miners


def main() -> None:
    """Print wall time and peak memory."""
    folder = Path(tempfile.gettempdir()) / f"celery-validator-epoch256-{_address('v1')[:8]}"
    if not (folder / "recording.json").exists():
        print("making the recording…", flush=True)
        FullEpoch(folder).make()
    with tempfile.TemporaryDirectory() as data:
        environment = {**os.environ, "DATA_DIR": data}
        command = [sys.executable, "-m", "app", "epoch", "replay", str(folder), "--out", f"{data}/result.json"]
        begun = time.monotonic()
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        resident, proportional = 0, 0
        for number in count():
            if process.poll() is not None:
                break
            tree = _tree(process.pid)
            resident = max(resident, sum(map(_resident, tree)))
            if number % PROPORTIONAL_EVERY == 0:
                proportional = max(proportional, sum(map(_proportional, tree)))
            time.sleep(SAMPLE_SECONDS)
        seconds = time.monotonic() - begun
        output = process.stdout.read() if process.stdout else ""
        if not process.returncode:
            stored = sum(path.stat().st_size for path in Path(data).glob("validator.sqlite*"))
            scoring = _scoring_seconds(Path(data))
            winners = json.loads(Path(data, "result.json").read_text())["winners"]
    if process.returncode:
        raise SystemExit(output)
    verdict = "met" if seconds < WANTED_SECONDS and resident < WANTED_BYTES else "MISSED"
    print(
        f"epoch of {UIDS} x {MOLECULES} molecules: {seconds:.1f} s, peak resident {resident / 1e9:.2f} GB "
        f"(proportional {proportional / 1e9:.2f} GB) on {os.cpu_count()} cores "
        f"({verdict}: {WANTED_SECONDS:.0f} s, 1.5 GB)"
    )
    floor_command = [sys.executable, "-m", "tests.benchmarks.epoch_floor", str(folder), "2"]
    begun = time.monotonic()
    floor = json.loads(subprocess.run(floor_command, check=True, capture_output=True, text=True).stdout)
    plain = time.monotonic() - begun
    if floor["winners"] != winners:
        raise SystemExit(f"the floor has other winners: {floor['winners']}, not {winners}")
    steps = ", ".join(f"{name} {spent:.1f} s" for name, spent in floor["seconds"].items())
    for what, figure, wanted, unit in (
        ("against two plain processes", seconds / plain, WANTED_RATIO, f"x ({plain:.1f} s: {steps})"),
        ("store", stored / 1e6, WANTED_STORE / 1e6, " MB"),
        ("scoring stage", scoring, WANTED_SCORING, " s"),
    ):
        print(f"{what}: {figure:.2f}{unit} ({'met' if figure <= wanted else 'MISSED'}: {wanted:g})")


def _scoring_seconds(data: Path) -> float:
    """How long the newest epoch was in its scoring stage."""
    store = Store(f"sqlite:///{data}/validator.sqlite")
    try:
        with store.reading() as session:
            epoch = Epochs(session).recent(1)[0]
    finally:
        store.close()
    return (epoch.entered(Stage.CLOSED) - epoch.entered(Stage.SCORING)).total_seconds()


def _tree(root: int) -> list[int]:
    found, pending = [], [root]
    while pending:
        pid = pending.pop()
        found.append(pid)
        with suppress(OSError):
            for task in Path(f"/proc/{pid}/task").iterdir():
                pending += [int(child) for child in (task / "children").read_text().split()]
    return found


def _resident(pid: int) -> int:
    """Bytes of one process; 0 once it has gone."""
    with suppress(OSError, ProcessLookupError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def _proportional(pid: int) -> int:
    with suppress(OSError, ProcessLookupError):
        fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
        return int(fields["Pss"].split()[0]) * 1024
    return 0


if __name__ == "__main__":
    main()
