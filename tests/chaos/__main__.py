"""``python -m tests.chaos sqlite|postgresql``: epochs under random faults; every result against the undisturbed one.

Prints each epoch and fault, and at the end one line of JSON: epochs, faults, lost (not done in time), doubled (weights
sent twice, an epoch there twice), different (another result), and recovery: by how much (s) an epoch with faults took
longer than the median of those without; and by how much if only what followed its last fault is counted, for an epoch
meets many faults where one comes every few seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import sys
import threading
import time
import traceback
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.settings import Settings, get_settings
from app.store.epochs import Epochs
from app.store.records import FINAL_STAGES, Stage
from tests.chaos import faults
from tests.chaos.scene import DEMO, Scene, scene

# An epoch that takes longer (s) is lost.
LIMIT = 240.0

# Undisturbed epochs of each kind before the first fault.
QUIET = 2


@dataclass
class Ended:
    """One epoch that was run."""

    kind: str
    seconds: float
    verdict: str
    faults: list[str]
    since_last: float = 0.0
    """Seconds from the end of its last fault"""


@dataclass
class Run:
    """One run of chaos."""

    scene: Scene
    dice: random.Random
    pause: tuple[float, float]
    began: float = field(default_factory=time.monotonic)
    ended: list[Ended] = field(default_factory=list)
    faults: list[tuple[float, float, str]] = field(default_factory=list)
    only: frozenset[str] = frozenset()
    stop: threading.Event = field(default_factory=threading.Event)
    quiet: Counter[str] = field(default_factory=Counter)

    def say(self, *words: object) -> None:
        """Print a line with the time."""
        print(f"{time.monotonic() - self.began:7.1f}", *words, flush=True)

    def end(self, kind: str, since: float, verdict: str, what: object) -> None:
        """Note an epoch."""
        now, hits = time.monotonic(), [fault for fault in list(self.faults) if fault[1] > since]
        hit = [name for *_, name in hits]
        last = max((until for _, until, _ in hits), default=now)
        self.ended.append(Ended(kind, now - since, verdict, hit, now - last))
        self.quiet[kind] += not hit
        self.say(f"{kind} {what}: {verdict} in {self.ended[-1].seconds:.1f} s under {', '.join(hit) or 'no fault'}")

    def inject(self) -> None:
        """One fault after another, each kind once before any comes again."""
        bag: list[faults.Fault] = []
        while not self.stop.wait(self.dice.uniform(*self.pause)):
            if not bag:
                bag = [fault for fault in faults.of(self.scene) if fault.__name__ in self.only or not self.only]
                self.dice.shuffle(bag)
            fault, since = bag.pop(), time.monotonic()
            try:
                found = fault(self.scene, self.dice)
            except Exception as error:
                found = f"could not be caused: {error!r:.200}"
            self.faults.append((since, time.monotonic(), fault.__name__))
            self.say(f"  {fault.__name__} {found or ''} ({time.monotonic() - since:.1f} s)")

    def replays(self) -> None:
        """Replay the bundled recording again and again."""
        while not self.stop.is_set():
            since = time.monotonic()
            epoch_id = self._until_it_works(lambda: announce_replay(self.scene))
            verdict = self._follow(epoch_id, since)
            if verdict == "done":
                report = self._until_it_works(lambda epoch_id=epoch_id: result_of(self.scene, epoch_id))
                verdict = "same" if json.dumps(report, sort_keys=True) == self.scene.expected else "different"
            self.end("replay", since, verdict, epoch_id)

    def live(self) -> None:
        """Close one epoch after another on the chain, each once the weights of the one before are there."""
        world, number, expected = self.scene.world, self.scene.world.number, None
        while not self.stop.is_set():
            sent_before = len(world.chain.weight_extrinsics())
            world.next_epoch(number)
            since = time.monotonic()
            epoch_id = self._announced(number, since)
            verdict = "lost" if epoch_id is None else self._follow(epoch_id, since)
            while verdict == "done" and not self._sent(sent_before):
                if time.monotonic() - since > LIMIT:
                    verdict = "lost: no weights"
                time.sleep(0.2)
            if verdict == "done":
                # a second vector would come soon, if any
                time.sleep(2)
                report = self._until_it_works(lambda epoch_id=epoch_id: result_of(self.scene, epoch_id))
                found = [essence(report), world.chain.weights_of(68, world.validator)]
                expected = expected or found
                verdict = "same" if found == expected else "different"
            if self._sent(sent_before) > 1:
                verdict = "doubled"
            self.end("live", since, verdict, number)
            number += 1

    def _sent(self, before: int) -> int:
        return sum(sent["failure"] is None for sent in self.scene.world.chain.weight_extrinsics()[before:])

    def _announced(self, number: int, since: float) -> int | None:
        while time.monotonic() - since < LIMIT:
            with suppress(Exception), self.scene.store.reading() as session:
                found = Epochs(session).live(68, number)
                if found is not None:
                    return found
            time.sleep(0.2)
        return None

    def _follow(self, epoch_id: int, since: float) -> str:
        while time.monotonic() - since < LIMIT:
            with suppress(Exception), self.scene.store.reading() as session:
                epoch = Epochs(session).summary(epoch_id)
                if epoch.stage in FINAL_STAGES:
                    return "done" if epoch.stage is Stage.DONE else f"different: {epoch.stage.value}, {epoch.error}"
            time.sleep(0.2)
        return "lost"

    def _until_it_works(self, read: Any) -> Any:
        """Whatever the store suffers at this moment."""
        while True:
            try:
                return read()
            except Exception:
                if self.stop.is_set() and time.monotonic() - self.faults[-1][1] > LIMIT:
                    raise
                time.sleep(0.5)

    def summary(self) -> dict[str, Any]:
        """The figures."""
        calm = {kind: statistics.median([e.seconds for e in self.ended if e.kind == kind and not e.faults] or [0.0])
                for kind in ("replay", "live")}  # fmt: skip
        hit = [epoch for epoch in self.ended if epoch.faults]
        recovery = sorted(max(0.0, epoch.seconds - calm[epoch.kind]) for epoch in hit)
        after = sorted(max(0.0, epoch.since_last - calm[epoch.kind]) for epoch in hit)
        verdicts = Counter(epoch.verdict.split(":")[0] for epoch in self.ended)
        with self.scene.store.reading() as session:
            numbers = Counter(epoch.number for epoch in Epochs(session).recent(10_000, published_only=True))
        twice = sum(count > 1 for count in numbers.values())
        return {
            "store": self.scene.kind,
            "epochs": len(hit),
            "live": sum(epoch.kind == "live" for epoch in hit),
            "faults": len(self.faults),
            "kinds": len({name for *_, name in self.faults}),
            "lost": verdicts["lost"],
            "doubled": verdicts["doubled"] + twice,
            "different": verdicts["different"],
            "undisturbed median": {kind: round(seconds, 1) for kind, seconds in calm.items()},
            "recovery p50": round(_quantile(recovery, 0.5), 1),
            "recovery p95": round(_quantile(recovery, 0.95), 1),
            "after the last fault p50": round(_quantile(after, 0.5), 1),
            "after the last fault p95": round(_quantile(after, 0.95), 1),
            "slowest": round(max((epoch.seconds for epoch in hit), default=0.0), 1),
        }


def announce_replay(scene: Scene) -> int:
    """Announce a replay of the bundled recording and send its first message, which a fault may hit."""
    from app.epochs.recording import Recording
    from workers.epochs import open_epoch

    recording = Recording(DEMO)
    with scene.store.writing() as session:
        epoch_id = recording.announce(session, "recorded", get_settings().cluster_name, without_boltz=False)
    threading.Thread(target=lambda: _quietly(open_epoch.delay, epoch_id), daemon=True).start()
    return epoch_id


def _quietly(send: Any, epoch_id: int) -> None:
    with suppress(Exception):
        send(epoch_id)


def result_of(scene: Scene, epoch_id: int) -> dict[str, Any]:
    """An epoch's result.json."""
    from app.epochs.rules import build_report

    with scene.store.reading() as session:
        epochs = Epochs(session)
        return build_report(
            epochs.get(epoch_id), epochs.summary(epoch_id), epochs.submissions(epoch_id), epochs.warnings(epoch_id)
        )


def essence(report: dict[str, Any]) -> list[Any]:
    """What is the same in every live epoch here: who was rejected and why, and who won."""
    codes = {s["uid"]: s["rejection"]["code"] for s in report["submissions"] if s["rejection"]}
    return [codes, report["winners"]]


def _quantile(values: list[float], share: float) -> float:
    return values[min(len(values) - 1, int(share * len(values)))] if values else 0.0


def main() -> None:
    """Run chaos as the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos")
    parser.add_argument("store", choices=("sqlite", "postgresql"))
    parser.add_argument("--seconds", type=float, default=600.0, help="how long faults happen")
    parser.add_argument(
        "--pause", type=float, nargs=2, default=(0.2, 5.0), help="between two faults, at least and most"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--faults", nargs="*", default=[], help="only these")
    parser.add_argument("--folder", type=Path, required=True, help="a folder that is not there yet")
    chosen = parser.parse_args()
    with scene(chosen.store, chosen.folder.resolve()) as running:
        run = Run(running, random.Random(chosen.seed), tuple(chosen.pause), only=frozenset(chosen.faults))
        run.say(
            f"{chosen.store}, seed {chosen.seed}, disk {'of its own' if running.small_disk else 'shared: not filled'}"
        )
        runners = [threading.Thread(target=_keep_on, args=(run, work), daemon=True)
                   for work in (run.replays, run.replays, run.live)]  # fmt: skip
        for runner in runners:
            runner.start()
        while run.quiet["replay"] < QUIET or run.quiet["live"] < QUIET:
            time.sleep(0.5)
        run.say("now with faults")
        injector = threading.Thread(target=run.inject, daemon=True)
        injector.start()
        time.sleep(chosen.seconds)
        run.stop.set()
        run.say("no more faults; what runs may finish")
        for thread in (injector, *runners):
            thread.join(LIMIT + 60)
        summary = run.summary()
        logs = chosen.folder.with_name(f"{chosen.folder.name}-logs")
        shutil.rmtree(logs, ignore_errors=True)
        shutil.copytree(running.cluster.logs, logs)
    print(json.dumps(summary), flush=True)
    sys.exit(bool(summary["lost"] or summary["doubled"] or summary["different"]))


def _keep_on(run: Run, work: Any) -> None:
    while not run.stop.is_set():
        try:
            work()
        except Exception:
            run.say(traceback.format_exc())
            time.sleep(1)


if __name__ == "__main__":
    # nothing of the developer's own settings counts
    for name in set(os.environ) - {"LOG_LEVEL"}:
        if name.lower() in Settings.model_fields:
            del os.environ[name]
    main()
