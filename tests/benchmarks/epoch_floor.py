"""What an epoch's work costs without a cluster: the same steps in plain processes, no Celery, Redis or store.

    python -m tests.benchmarks.epoch_floor RECORDING PROCESSES

Opens the recording, examines every submission in as many processes, plans, takes the recorded scores, judges. Prints
the seconds of each step and the winners, which are those of the cluster.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from functools import cache, partial
from itertools import chain
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from app.domain import Commitment, Protein
from app.epochs.examine import Examiner
from app.epochs.judge import judge
from app.epochs.opening import opening_of
from app.epochs.plan import plan_batches
from app.epochs.recorded_scores import RECORDED, recorded_proteins, score_tables, with_what_was_not_recorded
from app.epochs.recording import Recording
from app.epochs.rules import rules_of
from app.epochs.scores import EpochScores
from app.store.records import Examination, OpenEpoch, PartState, Stage, SubmissionRecord


@cache
def _examiner(folder: Path) -> Examiner:
    facts = Recording(folder).facts
    opening = opening_of(facts)
    return Examiner(facts, opening.rules, opening.challenge)


def _examine(folder: Path, one: tuple[int, Commitment]) -> tuple[int, Commitment, Examination]:
    return (*one, _examiner(folder).examine(*one))


def floor(folder: Path, processes: int) -> dict[str, Any]:
    """Seconds of each step, their total, and the winners."""
    seconds: dict[str, float] = {}
    begun = before = time.perf_counter()

    def done(step: str) -> None:
        nonlocal before
        seconds[step], before = time.perf_counter() - before, time.perf_counter()

    opening = opening_of(Recording(folder).facts)
    done("open")
    with get_context("spawn").Pool(processes) as pool:
        examine = partial(_examine, folder)
        found = sorted(pool.imap_unordered(examine, opening.commitments, chunksize=2), key=lambda one: one[0])
    done("examine")
    nothing: tuple[None, ...] = (None,) * 6
    submissions = [
        SubmissionRecord(
            uid,
            commitment,
            PartState.REJECTED if seen.rejection else PartState.VALID,
            seen.push_time,
            seen.rejection,
            seen.entropy,
            seen.molecules,
            *nothing,
            tracks=seen.tracks,
        )
        for uid, commitment, seen in found
    ]
    epoch = OpenEpoch(
        id=1,
        scores=RECORDED,
        publishes=False,
        without_boltz=False,
        stage=Stage.SCORING,
        header=opening.header,
        neurons=opening.neurons,
        rules_text=opening.rules_text,
        parameters=opening.rules.parameters.model_dump(mode="json"),
        rules_sha256=opening.rules_digest,
        challenge=opening.challenge,
        proteins=opening.proteins,
    )
    batches = plan_batches(epoch, submissions)
    done("plan")
    scores = EpochScores()
    tables = {table.model: table for table in score_tables(folder / "scores")}
    for model, items in batches.items():
        proteins: tuple[Protein, ...] = recorded_proteins(model, rules_of(epoch).proteins(epoch, model))
        known = {
            # Boltz-2's table names no protein
            (code, pair.smiles): replace(pair, protein=code)
            for pairs in tables[model].molecules()
            for pair in pairs
            if (code := pair.protein or proteins[0].code)
        }
        smiles = list(chain.from_iterable(items))
        scores.add(model, with_what_was_not_recorded(known, proteins, smiles).values())
    done("score")
    winners = dict(judge(epoch, submissions, scores).winners)
    done("judge")
    return {"seconds": seconds, "total": time.perf_counter() - begun, "winners": winners}


if __name__ == "__main__":
    print(json.dumps(floor(Path(sys.argv[1]), int(sys.argv[2]))))
