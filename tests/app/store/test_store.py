"""The store on SQLite and on PostgreSQL."""

import os
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import func, inspect, select, text
from sqlalchemy.orm import Session

from app.clock import now
from app.domain import (
    Challenge,
    Commitment,
    EpochHeader,
    Molecule,
    Neuron,
    PairScore,
    Protein,
    Rejection,
    RejectionCode,
    ScoringModel,
)
from app.store import database
from app.store.database import Store, StoreError
from app.store.epochs import Epochs, UnknownEpoch
from app.store.records import Examination, PartState, Stage, WorkedOn
from app.store.reputations import WeightRounds
from app.store.schema import _config, current_revision, head_revision, migrate
from app.store.scores import Scores
from app.store.tables.base import Table
from app.store.tables.epochs import ScoreRow, WarningRow
from app.store.weight_submissions import WeightsState, WeightSubmissions

HEADER = EpochHeader(68, "finney", 361, 361, 722, "0x1", "0x2")
LEASE = timedelta(minutes=1)


PROJECT = Path(__file__).parents[3]


def announced_in(session: Session, run: str = "r") -> int:
    return Epochs(session).announce(run, HEADER, "recorded", "c")


def announced(store: Store, run: str = "r") -> int:
    with store.writing() as session:
        return announced_in(session, run)


def opened(store: Store, uids: tuple[int, ...] = (1, 2)) -> int:
    epoch_id = announced(store)
    with store.writing() as session:
        assert Epochs(session).open(
            epoch_id,
            header=HEADER,
            neurons=[Neuron(uid, f"h{uid}", "c", 1.0, True) for uid in uids],
            rules="quirks: []",
            rules_sha256="d",
            challenge=Challenge(("T",), ("A",), (4, 5)),
            proteins=[Protein("T", "MK"), Protein("A", None)],
            commitments=[(uid, Commitment(f"h{uid}", 400, "a/b/c/d.txt")) for uid in uids],
            warnings=["w"],
        )
    return epoch_id


def test_migrations_make_exactly_the_tables_of_the_code(store: Store) -> None:
    with store.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": False})
        assert compare_metadata(context, Table.metadata) == []
    assert current_revision(store) == head_revision()
    migrate(store)


def test_old_weight_submissions_and_rounds_are_kept(store_url: str) -> None:
    store = Store(store_url)
    config = _config()
    with store.engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0012")
        old = datetime(2026, 11, 1, tzinfo=UTC).isoformat(sep=" ")
        columns = {column["name"]: column for column in inspect(connection).get_columns("epochs")}
        needed = {"id": 7, "run": "68:7", "netuid": 68, "number": 7, "stage": "done", "publishes": True}
        given = needed | {
            name: old if "_at" in name else "{}" if name == "stage_times" else False if name == "without_boltz" else ""
            for name, column in columns.items()
            if name not in needed and not column["nullable"]
        }
        names, places = ", ".join(given), ", ".join(f":{name}" for name in given)
        connection.execute(text(f"INSERT INTO epochs ({names}) VALUES ({places})"), given)
        connection.execute(
            text(
                "INSERT INTO weight_submissions (epoch_id, state, vector, tries, detail, updated_at, failures) "
                "VALUES (7, 'set', :vector, 2, 'there', :old, :failures)"
            ),
            {"vector": '{"0":0.5,"3":0.5}', "failures": '["busy"]', "old": old},
        )
        for mark, state in (("m1", "submitted"), ("m2", "failed"), ("m3", "computed")):
            connection.execute(
                text(
                    "INSERT INTO model_weight_rounds (mark, weights, by_hotkey, state, detail, computed_at) "
                    "VALUES (:mark, :weights, :by_hotkey, :state, 'said', :old)"
                ),
                {"mark": mark, "weights": '{"4":1.0}', "by_hotkey": '{"hot":1.0}', "state": state, "old": old},
            )
    migrate(store)
    with store.reading() as session:
        kept = WeightSubmissions(session).get(7)
        rounds = {found.mark: found for found in WeightRounds(session).latest(5)}
    store.engine.dispose()
    assert kept is not None
    assert (kept.netuid, kept.state, kept.vector, kept.tries) == (68, WeightsState.SET, {0: 0.5, 3: 0.5}, 2)
    assert (kept.detail, kept.failures) == ("there", ("busy",))
    assert {mark: found.state.value for mark, found in rounds.items()} == {"m1": "set", "m2": "failed", "m3": "late"}
    assert rounds["m1"].by_hotkey == {"hot": 1.0}
    assert rounds["m2"].detail == "said"


def test_a_store_of_a_newer_version_is_refused(store: Store) -> None:
    with store.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StoreError, match="upgrade celery-validator"):
        migrate(store)


def test_announcing_a_run_twice_gives_one_epoch(store: Store) -> None:
    assert announced(store) == announced(store)


def test_opening_twice_changes_nothing(store: Store) -> None:
    epoch_id = opened(store)
    with store.writing() as session:
        again = Epochs(session).open(
            epoch_id,
            header=HEADER,
            neurons=[],
            rules="",
            rules_sha256="",
            challenge=Challenge((), (), ()),
            proteins=[],
            commitments=[],
            warnings=[],
        )
    assert not again
    with store.reading() as session:
        epoch = Epochs(session).get(epoch_id)
        assert epoch.challenge == Challenge(("T",), ("A",), (4, 5))
        assert epoch.antitargets == (Protein("A", None),)
        assert Epochs(session).pending_uids(epoch_id) == [1, 2]
        assert Epochs(session).warnings(epoch_id) == ["w"]


def test_a_transaction_is_all_there_or_not_at_all(store: Store) -> None:
    epoch_id = announced(store)
    with pytest.raises(RuntimeError), store.writing() as session:
        Epochs(session).fail(epoch_id, "x")
        raise RuntimeError
    with store.reading() as session:
        assert Epochs(session).summary(epoch_id).stage is Stage.ANNOUNCED


def test_what_an_examination_found_is_read_back(store: Store) -> None:
    epoch_id = opened(store)
    molecule = Molecule("rxn:4:1:2", "CC", "KEY")
    with store.writing() as session:
        epochs = Epochs(session)
        epochs.record_examination(epoch_id, 1, Examination("t", (molecule,), 0.5))
        record = epochs.submission(epoch_id, 1)
        assert record.state is PartState.VALID
        assert record.molecules == (molecule,)


def test_untrusted_text_with_nul_and_lone_surrogates_is_kept_readable(store: Store) -> None:
    epoch_id = opened(store)
    refusal = Rejection(RejectionCode.NOT_IN_DATABASE, "m\x00\ud800", "n\x00", 3)
    with store.writing() as session:
        Epochs(session).record_examination(epoch_id, 1, Examination("", rejection=refusal))
    with store.reading() as session:
        kept = Epochs(session).submission(epoch_id, 1).rejection
    assert kept == Rejection(RejectionCode.NOT_IN_DATABASE, "m\ufffd?", "n\ufffd", 3)


def test_scores_are_kept_once_and_found_by_digest(store: Store) -> None:
    proteins = [Protein("T", "MK"), Protein("U", "MK"), Protein("A", None)]
    with store.writing() as session:
        Scores(session).keep(
            "digest", proteins, [PairScore("T", "CC", {"x": 0.1 + 0.2}), PairScore("A", "CC", error="no_sequence: A")]
        )
        Scores(session).keep("digest", proteins, [PairScore("T", "CC", {"x": 9.0})])
    with store.reading() as session:
        known = Scores(session).known("digest", proteins, ["CC", "CCC"])
        assert Scores(session).known("other", proteins, ["CC"]) == {}
    assert known["T", "CC"].metrics == {"x": 0.1 + 0.2}
    # two entries with one sequence share their scores
    assert known["U", "CC"].metrics == {"x": 0.1 + 0.2}
    assert known["A", "CC"].error == "no_sequence: A"
    assert len(known) == 3


def test_a_molecule_is_one_row_for_all_proteins_of_a_panel(store: Store) -> None:
    proteins = [Protein(f"P{number}", f"MK{'A' * number}") for number in range(9)]
    scores = [
        PairScore(protein.code, smiles, {"predicted_binding_affinity": number + 0.1})
        for number, protein in enumerate(proteins)
        for smiles in ("CC", "CN")
    ]
    with store.writing() as session:
        Scores(session).keep("digest", proteins, scores)
        assert session.execute(select(func.count()).select_from(ScoreRow)).scalar_one() == 2
    with store.reading() as session:
        known = Scores(session).known("digest", proteins[::-1], ["CN", "CC", "CO"])
    assert sorted(known.values(), key=lambda score: (score.protein, score.smiles)) == sorted(
        scores, key=lambda score: (score.protein, score.smiles)
    )


def test_old_scores_go_in_slices(store: Store) -> None:
    scores = [PairScore("T", "C" * number, {"x": 1.0}) for number in range(1, 8)]
    with store.writing() as session:
        Scores(session).keep("d", [Protein("T", "M")], scores)
    gone = []
    while not gone or gone[-1]:
        with store.writing() as session:
            gone.append(Scores(session).forget(now() + timedelta(days=1), 3))
    assert gone == [3, 3, 1, 0]


def test_batches_are_planned_in_order_and_finished(store: Store) -> None:
    epoch_id = opened(store)
    with store.writing() as session:
        epochs = Epochs(session)
        planned = epochs.plan(epoch_id, {ScoringModel.PSICHIC: [("C", "CC")], ScoringModel.BOLTZ: [("C",)]})
        assert [model for model, _ in planned] == [ScoringModel.PSICHIC, ScoringModel.BOLTZ]
        epochs.finish_batch(planned[0][1], "digest", WorkedOn("gpu@here/5", now()))
        progress = epochs.progress(epoch_id)
    assert progress.batches == {"psichic": 1, "boltz": 1}
    assert progress.batches_done == {"psichic": 1, "boltz": 0}


def test_old_finished_epochs_and_scores_are_forgotten(store: Store) -> None:
    epoch_id = opened(store)
    with store.writing() as session:
        Scores(session).keep("d", [Protein("T", "M")], [PairScore("T", "C", {"x": 1.0})])
        Epochs(session).fail(epoch_id, "over")
    with store.writing() as session:
        assert Epochs(session).delete_before(now() - timedelta(days=1), 10) == 0
        assert Epochs(session).delete_before(now() + timedelta(days=1), 10) == 1
        assert Scores(session).forget(now() + timedelta(days=1), 10) == 1
        with pytest.raises(UnknownEpoch, match="epoch list"):
            Epochs(session).summary(epoch_id)


def test_a_forked_child_opens_connections_of_its_own(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(database._stores, "of the parent", store)
    with store.writing() as session:
        session.add(WarningRow(epoch_id=announced_in(session), text="w"))
        session.flush()
        if (child := os.fork()) == 0:
            status = 1
            with suppress(Exception), store.reading() as own:
                # on the parent's connection the row would be there, and the parent's transaction end here
                status = own.execute(select(func.count()).select_from(WarningRow)).scalar_one() + len(database._stores)
            os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
    with store.reading() as session:
        assert session.execute(select(func.count()).select_from(WarningRow)).scalar_one() == 1


def test_a_worker_imports_nothing_that_does_not_survive_a_fork() -> None:
    program = """
import sys
from app.celery import app
app.loader.import_default_modules()
assert len(app.tasks) > 20
print(*sorted({"torch", "rdkit", "numpy", "boltz", "grpc"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=PROJECT)
    assert done.stdout.strip() == ""


def test_a_store_that_does_not_answer_is_a_sentence() -> None:
    store = Store("postgresql+psycopg://u:secret@127.0.0.1:1/none?connect_timeout=1")
    with pytest.raises(StoreError, match="does not answer") as caught:
        migrate(store)
    assert "secret" not in str(caught.value)
