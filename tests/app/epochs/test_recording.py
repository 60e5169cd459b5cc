"""A recording with a missing or malformed file is one clear error that names it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from app.demo import RECORDING
from app.domain import PSICHIC_METRIC, PairScore, Protein, ScoringModel
from app.epochs.facts import EpochFacts, StoredSheet
from app.epochs.recorded_scores import (
    NOT_RECORDED,
    ScoreTable,
    keep_scores,
    recorded_proteins,
    with_what_was_not_recorded,
)
from app.epochs.recording import Recording
from app.store.database import Store
from app.store.epochs import Epochs
from app.store.facts import Fact, FactKind, FactState
from app.store.scores import Scores
from chain.github_path import GitHubPath
from chain.sources import (
    ArchiveUnavailable,
    ContentNotFound,
    ContentTooLarge,
    Outage,
    RoundNotReached,
    SignatureUnverified,
    SourceError,
)


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    folder = tmp_path / "recording"
    shutil.copytree(RECORDING, folder)
    return folder


def change(name: str, edit: Callable[[dict], object]) -> Callable[[Path], None]:  # type: ignore[type-arg]
    def apply(folder: Path) -> None:
        document = json.loads((folder / name).read_text())
        edit(document)
        (folder / name).write_text(json.dumps(document))

    return apply


def write(name: str, text: str | bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(text.encode() if isinstance(text, str) else text) and None


FAULTS: list[tuple[Callable[[Path], object], str]] = [
    *(
        (lambda folder, name=name: (folder / name).unlink(), f"{name} is missing")
        for name in (
            "recording.json",
            "metagraph.json",
            "commitments.json",
            "drand.json",
            "proteins.fasta",
            "rules.yaml",
        )
    ),
    (write("recording.json", "{"), "recording.json is not JSON"),
    (write("recording.json", "[1]"), "schema None is unknown"),
    (change("recording.json", lambda d: d.update(schema=2)), "schema 2 is unknown"),
    (change("recording.json", lambda d: d.update(end_block=5)), "are not one epoch of 361 blocks"),
    (change("recording.json", lambda d: d.update(start_block_hash="zz")), "start_block_hash"),
    (change("recording.json", lambda d: d.pop("netuid")), "netuid: Field required"),
    (write("metagraph.json", "[" * 100_000), "metagraph.json is not JSON"),
    *(
        (write(name, "[" + "9" * 5_000 + "]"), f"{name} is not JSON: .*digits")
        for name in ("recording.json", "metagraph.json", "commitments.json", "drand.json", "github/push_times.json")
    ),
    (change("metagraph.json", lambda d: d[3].update(stake=float("nan"))), "metagraph.json is not JSON: NaN"),
    (change("commitments.json", lambda d: d[0].update(data="\ud800")), "commitments.json is not JSON: .*surrogate"),
    (change("drand.json", lambda d: d.update(chain="\x1b[2J")), "drand.json: chain '⟨U"),
    (change("metagraph.json", lambda d: d[3].update(uid="x")), "metagraph.json: 3.uid"),
    (change("metagraph.json", lambda d: d.append(d[0])), "UID 0 stands there more than once"),
    (change("commitments.json", lambda d: d.append(d[0])), "hotkey .* stands there more than once"),
    (write("commitments.json", "\xff".encode("latin-1")), "commitments.json is not UTF-8"),
    (change("drand.json", lambda d: d.update(chain="abc")), "is not quicknet"),
    (write("drand.json", '{"chain": 1}'), "drand.json: chain"),
    (write("proteins.fasta", "MKV\n"), "before the first '>ENTRY'"),
    (write("proteins.fasta", ">\nMKV\n"), "names no protein"),
    (write("github/push_times.json", "[]"), "push_times.json"),
]


@pytest.mark.parametrize(("damage", "message"), FAULTS)
def test_each_fault_is_named(recording: Path, damage: Callable[[Path], object], message: str) -> None:
    Recording(recording)
    damage(recording)
    with pytest.raises(SourceError, match=message) as caught:
        Recording(recording)
    assert str(recording) in str(caught.value), "the user's own path is named"


def test_a_folder_is_needed(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="is not a folder"):
        Recording(tmp_path / "nowhere")


def with_commitment(folder: Path, *paths: str) -> None:
    rows = [{"hotkey": f"5{number}", "block": 1, "data": path} for number, path in enumerate(paths)]
    (folder / "commitments.json").write_text(json.dumps(rows))


def test_content_is_read_within_its_folder_and_its_limit(recording: Path) -> None:
    folder = recording / "github" / "contents" / "o" / "r" / "main"
    folder.mkdir(parents=True)
    with (folder / "huge.txt").open("wb") as stream:
        # a sparse gigabyte: reading it would be noticed
        stream.truncate(1 << 30)
    (folder / "link.txt").symlink_to("/etc/hostname")
    absent = ("link.txt", "none.txt", "x" * 300 + ".txt")
    with_commitment(recording, *(f"o/r/main/{file}" for file in ("huge.txt", *absent)))
    facts = Recording(recording).facts
    with pytest.raises(ContentTooLarge):
        facts.content(GitHubPath("o", "r", "main", "huge.txt"))
    for file in absent:
        with pytest.raises(ContentNotFound):
            facts.content(GitHubPath("o", "r", "main", file))
    for file in ("../../../../../rules.yaml", "."):
        with pytest.raises(Outage, match="was not captured"):
            facts.content(GitHubPath("o", "r", "main", file))


def test_a_signature_is_proven_before_it_is_used(recording: Path) -> None:
    assert len(Recording(recording).facts.signature(1000)) == 96
    change("drand.json", lambda d: d["signatures"].update({"1001": d["signatures"]["1000"]}))(recording)
    with pytest.raises(SignatureUnverified, match="round 1001 does not verify"):
        Recording(recording).facts.signature(1001)


def test_a_round_without_a_signature_was_not_reached_if_a_file_is_sealed_to_it(recording: Path) -> None:
    change("drand.json", lambda d: d["signatures"].clear())(recording)
    facts = Recording(recording).facts
    with pytest.raises(RoundNotReached):
        facts.signature(1000)
    # of a round that nobody asked for nothing is known
    with pytest.raises(Outage, match="was not captured"):
        facts.signature(1001)


def test_sequences_outside_the_pool(recording: Path) -> None:
    (recording / "sequences.fasta").write_text(">EXTRA some words\nMKV\nLLA\n")
    facts = Recording(recording).facts
    assert facts.sequence("EXTRA") == "MKVLLA"
    assert "EXTRA" not in facts.protein_pool()
    assert facts.sequence("NOBODY") is None
    assert len(facts.sequence("O15379") or "") == 428


def test_recorded_outages_are_suffered_again(recording: Path) -> None:
    path = json.loads((recording / "commitments.json").read_text())[0]["data"]
    outages = {"warnings": ["w"], "contents": {path: "GitHub was silent"}, "signatures": {"7": "no"}, "archive": "gone"}
    (recording / "outages.json").write_text(json.dumps(outages))
    facts = Recording(recording).facts
    assert facts.warnings() == ("w",)
    owner, repository, branch, file = path.split("/", 3)
    with pytest.raises(Outage, match="GitHub was silent"):
        facts.content(GitHubPath(owner, repository, branch, file))
    with pytest.raises(Outage, match="no"):
        facts.signature(7)
    with pytest.raises(ArchiveUnavailable, match="gone"):
        facts.file("archive/O15379_molecules.csv")


def test_an_imported_recording_needs_its_folder_no_more(recording: Path, store: Store) -> None:
    for name in ("msa/O15379.a3m", "scores/shared.json", "tnp.csv"):
        (recording / name).parent.mkdir(exist_ok=True)
        (recording / name).write_text(f"the text of {name}")
    read = Recording(recording)
    path = GitHubPath(*read.facts.commitments()[0].data.split("/", 3))
    database = read.facts.molecule_database().read_bytes()
    with store.writing() as session:
        epoch_id = read.announce(session, "recorded", "tests")
        summary = Epochs(session).summary(epoch_id)
    assert not summary.publishes
    content, header = read.facts.content(path), read.header
    shutil.rmtree(recording)
    facts = EpochFacts(epoch_id)
    assert facts.header() == header
    assert facts.content(path) == content
    assert facts.molecule_database().read_bytes() == database
    assert facts.molecule_database().name == "molecules.sqlite"
    for name in ("msa/O15379.a3m", "scores/shared.json", "tnp.csv"):
        found = facts.file(name)
        assert found is not None
        assert found.read_text() == f"the text of {name}"
    assert facts.files("scores") == ("scores/shared.json",)
    assert facts.file("scores/psichic.csv") is None, "score tables are in the score table"
    assert facts.file("igblast.csv") is None


def test_a_malformed_table_imports_nothing(recording: Path, store: Store) -> None:
    (recording / "scores" / "boltz.csv").write_text("a,b\n")
    read = Recording(recording)
    with pytest.raises(SourceError, match="lacks column"), store.writing() as session:
        read.announce(session, "recorded", "tests")
    with store.reading() as session:
        assert Epochs(session).recent() == []


def test_a_file_that_the_store_has_lost_is_named(recording: Path, store: Store) -> None:
    with store.writing() as session:
        epoch_id = Recording(recording).announce(session, "model", "tests")
        session.connection().exec_driver_sql("DELETE FROM blobs")
    with pytest.raises(SourceError, match=r"no longer holds molecules\.sqlite"):
        EpochFacts(epoch_id).molecule_database()


def table(folder: Path, text: str, model: ScoringModel = ScoringModel.PSICHIC) -> ScoreTable:
    (folder / f"{model.value}.csv").write_text(text)
    return ScoreTable(folder, model)


def test_recorded_scores_are_kept_under_a_digest_of_their_own(tmp_path: Path, store: Store) -> None:
    psichic = table(tmp_path, "protein,smiles,predicted_binding_affinity\nP,CC,1.5\nP,CN,-inf\nP,CO,\n")
    boltz = table(tmp_path, "smiles,a,b\nCC,0.5,0.25\n", ScoringModel.BOLTZ)
    (tmp_path / "failures.csv").write_text(
        "model,protein,smiles,error\npsichic,P,CN,worker_lost: it died\npsichic,P,CC,never\n"
    )
    with store.writing() as session:
        digests = keep_scores(session, (psichic, boltz))
    assert {name: (fact.value or b"").decode() for name, fact in digests.items()} == {
        "psichic": psichic.digest,
        "boltz": boltz.digest,
    }
    assert psichic.digest != boltz.digest
    with store.reading() as session:
        known = Scores(session).known(psichic.digest, [Protein("P", None)], ["CC", "CN", "CO"])
        any_protein = Scores(session).known(
            boltz.digest, recorded_proteins(ScoringModel.BOLTZ, [Protein("P", "MKV"), Protein("Q", None)]), ["CC"]
        )
    assert known == {
        ("P", "CC"): PairScore("P", "CC", {PSICHIC_METRIC: 1.5}),
        ("P", "CN"): PairScore("P", "CN", error="worker_lost: it died"),
    }
    assert [any_protein[code, "CC"].metrics for code in ("P", "Q")] == [{"a": 0.5, "b": 0.25}] * 2


def test_what_was_not_recorded_has_no_score() -> None:
    known = {("P", "CC"): PairScore("P", "CC", {PSICHIC_METRIC: 1.5})}
    pairs = with_what_was_not_recorded(known, [Protein("P", None), Protein("Q", None)], ["CC", "CN"])
    assert list(pairs) == [("P", "CC"), ("P", "CN"), ("Q", "CC"), ("Q", "CN")]
    assert [pair.error for pair in pairs.values()] == [None, *[NOT_RECORDED] * 3]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("protein,smiles\nP,CC\n", "lacks column.* predicted_binding_affinity"),
        ("protein,smiles,predicted_binding_affinity\nP,CC,high\n", "line 2 holds a score that is not a number"),
        ("protein,smiles,predicted_binding_affinity\nP,CC,1,2\n", "line 2 has another number of columns"),
        ("protein,smiles,predicted_binding_affinity\nP,CC\n", "line 2 has another number of columns"),
    ],
)
def test_a_malformed_score_table_names_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        table(tmp_path, text).check()


def test_the_store_keeps_what_the_recording_says_of_itself(recording: Path, store: Store) -> None:
    with store.writing() as session:
        epoch_id = Recording(recording).announce(session, "recorded", "tests")
    held = StoredSheet(epoch_id).all(FactKind.SCORES)
    assert held["psichic"].value == ScoreTable(recording / "scores", ScoringModel.PSICHIC).digest.encode()
    assert StoredSheet(epoch_id).all(FactKind.CAPTURED).keys() == {"opening", "submissions"}
    assert Fact(FactState.NOT_REACHED) in StoredSheet(epoch_id).all(FactKind.SIGNATURE).values()
