"""A recording with a missing or malformed file is one clear error that names it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from app.demo import RECORDING
from app.domain import PSICHIC_METRIC, Protein, ScoringModel
from chain.github_path import GitHubPath
from chain.sources import ContentNotFound, ContentTooLarge, RoundNotReached, SignatureUnverified, SourceError
from chain.sources.recorded import RecordedSource
from chain.sources.scores import RecordedScorer


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
    RecordedSource(recording).check()
    damage(recording)
    with pytest.raises(SourceError, match=message):
        RecordedSource(recording).check()


def test_a_folder_is_needed(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="is not a folder"):
        RecordedSource(tmp_path / "nowhere")


def test_content_is_read_within_its_folder_and_its_limit(recording: Path) -> None:
    source = RecordedSource(recording)
    contents = recording / "github" / "contents"
    (contents / "o" / "r" / "main").mkdir(parents=True)
    with (contents / "o" / "r" / "main" / "huge.txt").open("wb") as stream:
        # a sparse gigabyte: reading it would be noticed
        stream.truncate(1 << 30)
    with pytest.raises(ContentTooLarge):
        source.content(GitHubPath("o", "r", "main", "huge.txt"))
    (contents / "o" / "r" / "main" / "link.txt").symlink_to("/etc/hostname")
    for file in ("link.txt", "../../../../../rules.yaml", "none.txt", "x" * 300 + ".txt", "."):
        with pytest.raises(ContentNotFound):
            source.content(GitHubPath("o", "r", "main", file))


def test_a_signature_is_proven_before_it_is_used(recording: Path) -> None:
    assert len(RecordedSource(recording).signature(1000)) == 96
    with pytest.raises(RoundNotReached):
        RecordedSource(recording).signature(1001)
    change("drand.json", lambda d: d["signatures"].update({"1001": d["signatures"]["1000"]}))(recording)
    with pytest.raises(SignatureUnverified, match="round 1001 does not verify"):
        RecordedSource(recording).signature(1001)


def test_sequences_outside_the_pool(recording: Path) -> None:
    (recording / "sequences.fasta").write_text(">EXTRA some words\nMKV\nLLA\n")
    source = RecordedSource(recording)
    assert source.sequence("EXTRA") == "MKVLLA"
    assert "EXTRA" not in source.protein_pool()
    assert source.sequence("NOBODY") is None
    assert len(source.sequence("O15379") or "") == 428


def scores(folder: Path, text: str, model: ScoringModel = ScoringModel.PSICHIC) -> RecordedScorer:
    (folder / f"{model.value}.csv").write_text(text)
    return RecordedScorer(folder, model)


def test_recorded_scores_answer_like_a_model(tmp_path: Path) -> None:
    scorer = scores(tmp_path, "protein,smiles,predicted_binding_affinity\nP,CC,1.5\nP,CN,-inf\n")
    pairs = scorer.pair_scores([Protein("P", None), Protein("Q", None)], ["CC", "CN"])
    assert [(pair.protein, pair.smiles) for pair in pairs] == [("P", "CC"), ("P", "CN"), ("Q", "CC"), ("Q", "CN")]
    assert pairs[0].metrics == {PSICHIC_METRIC: 1.5}
    assert all(pair.error and not pair.metrics for pair in pairs[1:])
    boltz = scores(tmp_path, "smiles,a,b\nCC,0.5,0.25\n", ScoringModel.BOLTZ)
    assert boltz.pair_scores([Protein("P", None)], ["CC"])[0].metrics == {"a": 0.5, "b": 0.25}
    assert boltz.digest != scorer.digest


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
        scores(tmp_path, text).check()
