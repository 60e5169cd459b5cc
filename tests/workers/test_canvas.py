"""The canvas in eager mode, on both stores: open → examine → plan → score → close → weights."""

from __future__ import annotations

import csv
import json
import shutil
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from sqlalchemy import update
from sqlalchemy.exc import OperationalError
from tenacity import stop_after_attempt

from app.celery import app
from app.demo import RECORDING
from app.domain import PairScore, Protein, ScoringModel, ValidatorError
from app.epochs.examine import Examiner
from app.epochs.recording import Recording
from app.epochs.result import differences
from app.epochs.rules import build_report
from app.settings import get_settings
from app.store.claims import Claims, Piece, Work
from app.store.database import Store
from app.store.epochs import Epochs
from app.store.records import BatchRecord, PartState, Stage
from app.store.scores import Scores
from app.store.tables.epochs import EpochRow
from tests.conftest import DATA
from tests.stores import outstanding
from workers import scoring
from workers.epochs import close_epoch, open_epoch, plan_scoring
from workers.fetching import fetch_submissions
from workers.scoring import _Scoring, score_psichic
from workers.submissions import _examiner, examine_submission
from workers.upkeep import forget_old
from workers.weights import submit_weights

# the stores differ in their SQL alone, which the tests without this mark run on both
on_sqlite = pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)

# the published codes, but for internal_error
OCTOBER_2025 = {
    "path_malformed",
    "content_not_found",
    "content_too_large",
    "hash_mismatch",
    "format_invalid",
    "round_not_reached",
    "decryption_failed",
    "uid_mismatch",
    "wrong_molecule_count",
    "duplicate_names",
    "reaction_not_allowed",
    "not_in_database",
    "too_few_heavy_atoms",
    "rotatable_bonds",
    "already_used",
    "chemically_identical",
}


@pytest.fixture(autouse=True)
def eager() -> Iterator[None]:
    app.loader.import_default_modules()
    app.conf.update(task_always_eager=True, task_eager_propagates=True)
    yield
    app.conf.update(task_always_eager=False, task_eager_propagates=False)
    _examiner.cache_clear()
    scoring.forget_scorers()


def announce(store: Store, folder: Path = RECORDING) -> int:
    recording = Recording(folder)
    with store.writing() as session:
        return recording.announce(session, "recorded", "c")


def report(store: Store, epoch_id: int) -> dict[str, Any]:
    with store.reading() as session:
        epochs = Epochs(session)
        assert epochs.summary(epoch_id).stage is Stage.DONE, epochs.summary(epoch_id).error
        return build_report(
            epochs.get(epoch_id), epochs.summary(epoch_id), epochs.submissions(epoch_id), epochs.warnings(epoch_id)
        )


def run(store: Store, folder: Path = RECORDING) -> dict[str, Any]:
    epoch_id = announce(store, folder)
    open_epoch.delay(epoch_id)
    return report(store, epoch_id)


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    folder = tmp_path / "recording"
    shutil.copytree(RECORDING, folder)
    return folder


def test_the_example_recording_gives_its_known_answer(store: Store) -> None:
    expected = json.loads((DATA / "example.expected.json").read_text())
    result = run(store, DATA / "example")
    by_uid = {entry["uid"]: entry for entry in result["submissions"]}
    assert result["epoch"] == expected["epoch"]
    assert {key: result["challenge"][key] for key in expected["challenge"]} == expected["challenge"]
    refused = {str(uid): entry["rejection"]["code"] for uid, entry in by_uid.items() if entry["rejection"]}
    assert refused == expected["rejections"]
    assert not set(expected["outside"]) & by_uid.keys()
    for uid, wanted in expected["valid"].items():
        found = by_uid[int(uid)]
        for key in ("entropy", "psichic_score", "boltz_score", "entropy_boltz"):
            assert found[key] == pytest.approx(wanted[key], abs=1e-9), (uid, key)
        assert [molecule["smiles"] for molecule in found["molecules"][:5]] == wanted["first_smiles"]
        assert [m["score"] for m in found["molecules"][:5]] == pytest.approx(wanted["scores"], abs=1e-9)
    assert result["winners"] == expected["winners"]
    assert result["weights"] == expected["weights"]


@on_sqlite
def test_every_rejection_a_miner_can_cause_is_in_the_bundled_epoch(store: Store) -> None:
    result = run(store)
    refused = {entry["rejection"]["code"] for entry in result["submissions"] if entry["rejection"]}
    assert refused == OCTOBER_2025
    assert result["winners"] == {"psichic": 5, "boltz": 2}
    assert sum(result["weights"].values()) == pytest.approx(1.0)
    for entry in result["submissions"]:
        assert entry["status"] in {"valid", "rejected"}
        if entry["rejection"]:
            assert len(entry["rejection"]["message"]) > 20


def test_every_step_again_changes_nothing(store: Store) -> None:
    epoch_id = announce(store)
    open_epoch.delay(epoch_id)
    before = report(store, epoch_id)
    for again in (open_epoch, plan_scoring, close_epoch, submit_weights):
        again.delay(epoch_id)
    assert examine_submission.delay(epoch_id, 1).get() == {"status": "done before"}
    with store.reading() as session:
        batch = Epochs(session).batches(epoch_id, ScoringModel.PSICHIC)[0]
    assert score_psichic.delay(epoch_id, batch.id).get()["status"] == "done before"
    assert report(store, epoch_id) == before


def test_recorded_scores_are_asked_of_no_worker(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store has them since the import, so planning is followed by judging, and a second run says the same."""
    for task in ("score_psichic", "score_boltz"):
        monkeypatch.setattr(f"workers.scoring.{task}.run", None)
    assert run(store) == run(store)


@on_sqlite
def test_the_order_of_the_files_does_not_matter(store: Store, recording: Path) -> None:
    straight = run(store)
    for name in ("commitments.json", "metagraph.json"):
        rows = json.loads((recording / name).read_text())
        (recording / name).write_text(json.dumps(rows[::-1]))
    assert differences(straight, run(store, recording)) == []


@on_sqlite
def test_an_epoch_without_commitments_ends_without_weights(store: Store, recording: Path) -> None:
    (recording / "commitments.json").write_text("[]")
    result = run(store, recording)
    assert result["submissions"] == []
    assert result["weights"] is None
    assert result["winners"] == {"psichic": None, "boltz": None}
    assert any("no weights" in warning for warning in result["warnings"])


@on_sqlite
def test_a_molecule_without_a_score_costs_its_uid_the_sum_and_the_report_says_so(store: Store, recording: Path) -> None:
    with_all = run(store)
    lost = with_all["submissions"][0]["molecules"][3]["smiles"]
    path = recording / "scores" / "psichic.csv"
    rows = [row for row in csv.reader(path.read_text().splitlines()) if row[1] != lost]
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    result = run(store, recording)
    by_uid = {entry["uid"]: entry for entry in result["submissions"]}
    assert by_uid[1]["psichic_score"] == "-inf"
    assert by_uid[1]["molecules"][3]["score"] == "-inf"
    assert by_uid[1]["boltz_score"] == with_all["submissions"][0]["boltz_score"]
    assert any("psichic: 1 molecule(s) without a score (not_recorded)" in text for text in result["warnings"])


@on_sqlite
def test_an_unreadable_archive_is_judged_by_the_rules(store: Store, recording: Path) -> None:
    archive = recording / "archive" / "O15379_molecules.csv"
    archive.write_text("no such column\n")
    accepting = run(store, recording)
    assert any("taken as unused" in warning for warning in accepting["warnings"])
    assert {e["uid"]: e["status"] for e in accepting["submissions"]}[11] == "valid"
    rules = recording / "rules.yaml"
    rules.write_text(rules.read_text().replace("archive_unavailable: accept", "archive_unavailable: reject"))
    refusing = run(store, recording)
    assert not [e for e in refusing["submissions"] if e["status"] == "valid"]
    assert {e["uid"]: e["rejection"]["code"] for e in refusing["submissions"]}[1] == "already_used"


@on_sqlite
def test_a_weights_file_that_cannot_be_written_is_named_and_the_epoch_ends(
    store: Store, recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEIGHTS_FILE", str(tmp_path))
    get_settings.cache_clear()
    epoch_id = announce(store, recording)
    with store.writing() as session:
        session.execute(update(EpochRow).values(publishes=True))
    open_epoch.delay(epoch_id)
    (warning,) = [text for text in report(store, epoch_id)["warnings"] if "WEIGHTS_FILE" in text]
    assert f"WEIGHTS_FILE: '{tmp_path}' cannot be written (it is a folder); set it to a file" in warning


@on_sqlite
def test_a_broken_recording_fails_the_epoch_with_the_reason(store: Store, recording: Path) -> None:
    (recording / "molecules.sqlite").write_bytes(b"")
    epoch_id = announce(store, recording)
    assert open_epoch.delay(epoch_id).get() == {"status": "failed"}
    with store.reading() as session:
        assert "no table" in (Epochs(session).summary(epoch_id).error or "")


@on_sqlite
def test_a_fault_of_ours_refuses_one_submission_and_is_reported(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    examine = Examiner.examine

    def fail_for_two(self: Examiner, uid: int, commitment: Any) -> Any:
        if uid == 2:
            raise ZeroDivisionError("ours")
        return examine(self, uid, commitment)

    monkeypatch.setattr(Examiner, "examine", fail_for_two)
    result = run(store)
    by_uid = {entry["uid"]: entry for entry in result["submissions"]}
    assert by_uid[2]["rejection"]["code"] == "internal_error"
    assert by_uid[1]["status"] == "valid"
    assert any("UID 2" in warning and "ZeroDivisionError" in warning for warning in result["warnings"])


@on_sqlite
def test_a_submission_that_keeps_killing_its_worker_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    epoch_id = announce(store)
    with monkeypatch.context() as patch:
        patch.setattr("app.task.Step.deliver", lambda _: None)
        open_epoch.delay(epoch_id)
        fetch_submissions.delay(epoch_id)
    examining = Work(examine_submission.name, (epoch_id, 1))
    with store.writing() as session:
        for _ in range(3):
            Claims(session).take(examining, "killed", "w/1", timedelta(0))
    assert examine_submission.apply((epoch_id, 1), task_id="killed").get()["status"] == "rejected"
    with store.reading() as session:
        record = Epochs(session).submission(epoch_id, 1)
    assert record.state is PartState.REJECTED
    assert record.rejection is not None
    assert "ended its worker process 3 times" in record.rejection.message


class Flaky:
    """A scorer that fails on some molecules, or on every batch of more than one."""

    digest = "flaky"

    def __init__(self, bad: set[str]) -> None:
        self.bad = bad
        self.asked: list[tuple[str, ...]] = []

    def pair_scores(self, proteins: Sequence[Protein], smiles: Sequence[str]) -> list[PairScore]:
        self.asked.append(tuple(smiles))
        if self.bad & set(smiles):
            raise RuntimeError("device lost")
        return [PairScore(p.code, s, {"predicted_binding_affinity": 1.0}) for p in proteins for s in smiles]


def scored_with(
    store: Store, monkeypatch: pytest.MonkeyPatch, scorer: Any, *, attempts: int = 1, begun_alone: int | None = None
) -> dict[str, str | None]:
    """Score one batch of three molecules with a scorer; the error of each molecule."""
    epoch_id = announce(store)
    open_epoch.delay(epoch_id)
    with store.reading() as session:
        epoch = Epochs(session).get(epoch_id)
        record = Epochs(session).batches(epoch_id, ScoringModel.PSICHIC)[0]
    record = replace(record, smiles=("CC", "CN", "CO"), begun_alone=begun_alone)
    monkeypatch.setattr(scoring, "scorer_for", lambda *_: scorer)
    work = Work(score_psichic.name, (epoch_id, record.id))
    with store.writing() as session:
        Claims(session).add([work], "c")
        for _ in range(attempts):
            piece = Claims(session).take(work, "flaky", "w/1", timedelta(0))
    score_psichic.push_request(piece=piece)
    try:
        _, scores = _Scoring(epoch, record, score_psichic).run()
    finally:
        score_psichic.pop_request()
    proteins = [Protein(code, None) for code in epoch.challenge.proteins]
    with store.writing() as session:
        Scores(session).keep("flaky", proteins, scores)
        known = Scores(session).known("flaky", proteins, record.smiles)
    assert len(known) == 3 * len(proteins)
    return {smiles: known[proteins[0].code, smiles].error for smiles in record.smiles}


def batches_scored_by(scorer: Flaky, store: Store, monkeypatch: pytest.MonkeyPatch) -> list[BatchRecord]:
    """Run the demo epoch to its end with this scorer for PSICHIC; its batches, all of them scored."""
    monkeypatch.setattr(scoring, "scorer_for", lambda *_: scorer)
    with store.writing() as session:
        epoch_id = Recording(RECORDING).announce(session, "model", "c", without_boltz=True)
    open_epoch.delay(epoch_id)
    with store.reading() as session:
        batches = Epochs(session).batches(epoch_id, ScoringModel.PSICHIC)
        assert Epochs(session).summary(epoch_id).stage is Stage.DONE
        assert outstanding(session, epoch_id) == []
    assert {batch.state for batch in batches} == {PartState.SCORED}
    return batches


@on_sqlite
@pytest.mark.parametrize("bad", [False, True])
def test_batches_that_wait_are_scored_in_one_call(store: Store, monkeypatch: pytest.MonkeyPatch, bad: bool) -> None:
    """One call for all batches of the demo epoch; where it fails, each batch goes alone, and nothing else changes."""
    scorer = Flaky(set())
    if bad:
        together = scorer.pair_scores

        def small(proteins: Sequence[Protein], smiles: Sequence[str]) -> list[PairScore]:
            found = together(proteins, smiles)
            if len(smiles) > 32:
                raise RuntimeError("too many at once")
            return found

        monkeypatch.setattr(scorer, "pair_scores", small)
    batches = batches_scored_by(scorer, store, monkeypatch)
    assert len(batches) > 8
    sizes = [len(smiles) for smiles in scorer.asked]
    molecules = sum(len(batch.smiles) for batch in batches)
    if not bad:
        assert sizes == [512, molecules - 512] if molecules > 512 else [molecules]
    assert sum(size for size in sizes if size <= 32 or not bad) == molecules


@on_sqlite
def test_a_batch_that_fails_is_tried_molecule_by_molecule(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = Flaky({"CN"})
    errors = scored_with(store, monkeypatch, scorer)
    assert scorer.asked == [("CC", "CN", "CO"), ("CC",), ("CN",), ("CO",)]
    assert errors["CC"] is None
    assert errors["CO"] is None
    assert errors["CN"] == "failed_alone: RuntimeError: device lost"


@on_sqlite
def test_every_molecule_failing_is_the_installations_fault(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValidatorError, match="psichic fails on every molecule: RuntimeError: device lost"):
        scored_with(store, monkeypatch, Flaky({"CC", "CN", "CO"}))


@on_sqlite
def test_the_molecule_that_ends_its_process_is_found(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = Flaky(set())
    errors = scored_with(store, monkeypatch, scorer, attempts=3, begun_alone=1)
    assert scorer.asked == [("CC",), ("CO",)]
    assert (errors["CN"] or "").startswith("worker_lost")


def test_old_things_are_forgotten(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    run(store)
    assert forget_old.delay().get() == {"epochs": 0, "scores": 0, "facts": 0, "answers": 0, "files": 0}
    monkeypatch.setenv("RETENTION", "0")
    monkeypatch.setenv("FACTS_RETENTION", "0")
    get_settings.cache_clear()
    forgotten = forget_old.delay().get()
    assert forgotten["epochs"] == 1
    assert forgotten["files"] == 7
    assert forgotten["scores"] > 300


@on_sqlite
@pytest.mark.parametrize("bad", [False, True])
def test_two_lanes_score_a_groups_batches_once_each(store: Store, monkeypatch: pytest.MonkeyPatch, bad: bool) -> None:
    """Each batch in one call of few; what a lane cannot score is given back, and scored alone later."""
    monkeypatch.setattr(scoring, "_BATCHES_TOGETHER", 2)
    scorer, lanes = Flaky(set()), set()
    whole, failed, own = scorer.pair_scores, list[tuple[str, ...]](), threading.get_ident()

    def noted(proteins: Sequence[Protein], smiles: Sequence[str]) -> list[PairScore]:
        lanes.add(threading.get_ident())
        found = whole(proteins, smiles)
        if bad and not failed and threading.get_ident() != own:
            failed.append(tuple(smiles))
            raise RuntimeError("device lost")
        return found

    monkeypatch.setattr(scorer, "pair_scores", noted)
    batches = batches_scored_by(scorer, store, monkeypatch)
    assert len(failed) <= 2 if bad else not failed
    asked = [smiles for smiles in scorer.asked if smiles not in failed]
    assert sorted(text for smiles in asked for text in smiles) == sorted(text for b in batches for text in b.smiles)
    assert max(map(len, asked)) <= 64
    assert len(lanes) > 1


@on_sqlite
def test_a_store_that_stays_unavailable_is_told_as_itself(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be given back raises the store's own error, for which the task comes back."""
    monkeypatch.setattr(scoring, "stop_after_delay", lambda _: stop_after_attempt(1))
    together = scoring._Together.__new__(scoring._Together)
    together._task = score_psichic
    monkeypatch.setattr(Claims, "give_back", Mock(side_effect=OperationalError("", {}, Exception("gone"))))
    piece = Mock(spec=Piece)
    with pytest.raises(OperationalError):
        together._give_back([piece])
