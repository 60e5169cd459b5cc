"""Many workers keep scores of the same molecules at once, each in an order of its own."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from sqlalchemy import func, select

from app.domain import PairScore, Protein
from app.store.database import Store
from app.store.scores import Scores
from app.store.tables.epochs import ScoreRow

WRITERS = 8
ROUNDS = 6
MOLECULES = 120


def test_opposite_orders_never_lock_each_other_out(store: Store) -> None:
    proteins = [Protein(f"P{index}", "MK") for index in range(4)]
    together = threading.Barrier(WRITERS)

    def write(writer: int) -> None:
        for number in range(ROUNDS):
            molecules = [f"C{number}N{index}" for index in range(MOLECULES)]
            if writer % 2:
                molecules.reverse()
            pairs = [PairScore(protein.code, smiles, {"a": 1.0}) for smiles in molecules for protein in proteins]
            together.wait(60)
            with store.writing() as session:
                Scores(session).keep("model", proteins, pairs)

    with ThreadPoolExecutor(WRITERS) as pool:
        for done in [pool.submit(write, writer) for writer in range(WRITERS)]:
            done.result()
    with store.reading() as session:
        assert session.execute(select(func.count()).select_from(ScoreRow)).scalar_one() == ROUNDS * MOLECULES
