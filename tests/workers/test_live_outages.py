"""An epoch in a bad world: in this process, from the watcher's beat to the weights."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.epochs.capture import Capture
from app.epochs.facts import EpochFacts, MemorySheet
from app.epochs.recording import Recording
from app.settings import get_settings
from app.store.database import get_store
from app.store.epochs import Epochs
from app.store.facts import FactKind, HubFile, place_of
from app.store.records import Stage
from chain.epochs import ClosedEpoch
from chain.github import GitHub
from chain.github_path import GitHubPath
from chain.submission import parse_submission
from tests.chain import internet
from tests.chain.nodes import address
from tests.chain.world import EXAMPLE, World
from tests.stores import migrated, outstanding
from tests.workers.bad_world import bad_world, report_of
from tests.workers.live_scene import delivered
from workers.epochs import open_epoch
from workers.fetching import fetch_submissions
from workers.scoring import forget_scorers
from workers.submissions import _examiner
from workers.watch import watch_epoch

# what is wrong with the other submissions, in a good world; UIDs 3 and 5 are sound
CLEAN = {
    8: "duplicate_names",
    13: "already_used",
    17: "hash_mismatch",
    18: "content_not_found",
    22: "round_not_reached",
    23: "decryption_failed",
}


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    uids = frozenset(CLEAN) | {3, 5}
    with bad_world(tmp_path, monkeypatch, uids, FETCH_BUDGET="PT1S", OPEN_BUDGET="PT20S") as scene:
        scene.publish(through_sdk=False)
        scene.close_epoch()
        yield scene


def concluded(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run the epoch as messages would, retries and all; its report."""
    with monkeypatch.context() as patch:
        patch.setattr("app.task.Step.deliver", lambda _: None)
        result = watch_epoch.delay().get()
        assert result["status"] == "announced", result
        with get_store().reading() as session:
            epoch_id = Epochs(session).recent(1)[0].id
        delivered(open_epoch, epoch_id)
    delivered(fetch_submissions, epoch_id)
    return report_of(epoch_id)


def codes(report: dict[str, Any]) -> dict[int, str]:
    return {entry["uid"]: entry["rejection"]["code"] for entry in report["submissions"] if entry["rejection"]}


def _github_broken_for_one(scene: World) -> str:
    path = next(entry["data"] for entry in scene.commitments if entry["uid"] == 3)
    scene.github.faults[f"/raw/{path}"] = internet.status(500)
    return path


def test_githubs_outage_is_ours_and_said(scene: World, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _github_broken_for_one(scene)
    report = concluded(monkeypatch)
    assert codes(report) == CLEAN | {3: "internal_error"}
    assert any(path in sentence and "status 500" in sentence for sentence in report["warnings"])
    assert any("UID 3 was refused for a fault of this validator" in sentence for sentence in report["warnings"])
    assert report["winners"]["psichic"] not in {3, None}
    assert len(scene.chain.weight_extrinsics()) == 1


def test_a_passing_outage_costs_nothing(scene: World, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.github.faults["/raw"] = internet.first(4, internet.status(503))
    scene.drand[0].faults["/"] = internet.hang(2)
    report = concluded(monkeypatch)
    assert codes(report) == CLEAN
    assert report["winners"]["psichic"] == 3


def test_a_lying_drand_endpoint_is_named(scene: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for signature in scene.drand[0].signatures:
        scene.drand[0].signatures[signature] = "ab" * 48
    report = concluded(monkeypatch)
    assert codes(report) == CLEAN
    assert any(scene.drand[0].url in sentence and "lies" in sentence for sentence in report["warnings"])
    assert report["winners"]["psichic"] == 3


def test_no_drand_at_all_refuses_nobody_silently(scene: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for drand in scene.drand:
        drand.faults["/"] = internet.status(500)
    report = concluded(monkeypatch)
    assert set(codes(report).values()) <= {"internal_error", "hash_mismatch", "content_not_found", "format_invalid"}
    assert any("no drand signature could be fetched" in sentence for sentence in report["warnings"])
    assert report["weights"] is None
    assert scene.chain.weight_extrinsics() == []


def test_the_chains_own_pulses_stand_in(scene: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for drand in scene.drand:
        drand.faults["/"] = internet.status(500)
    for drand_round, signature in scene.drand[0].signatures.items():
        scene.chain.pulse(int(drand_round), signature)
    report = concluded(monkeypatch)
    refused = codes(report)
    # whether the round of UID 22 was reached nobody says, so it is not the miner's fault
    assert refused.pop(22) == "internal_error"
    assert refused == {uid: code for uid, code in CLEAN.items() if uid != 22}


def test_unknown_push_times_are_no_refusal(scene: World, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.github.faults["/api"] = internet.status(403, X_RateLimit_Remaining="0", X_RateLimit_Reset="9999999999")
    start = time.monotonic()
    report = concluded(monkeypatch)
    assert time.monotonic() - start < 25
    assert codes(report) == CLEAN
    assert {entry["push_time"] for entry in report["submissions"]} == {""}
    assert any("8 push times" in s and "not asked for" in s and "set GITHUB_TOKEN" in s for s in report["warnings"])


def test_another_rdkit_than_the_rules_is_said(scene: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.epochs.rules.importlib.metadata.version", lambda _: "2026.9.1")
    report = concluded(monkeypatch)
    assert any("RDKit 2026.9.1 is installed" in s and "RDKit 2024.9.4" in s for s in report["warnings"])


def test_a_token_that_github_refuses_is_said_and_done_without(scene: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_TOKEN", "expired")
    monkeypatch.setenv("FETCH_BUDGET", "PT20S")
    get_settings.cache_clear()
    scene.github.faults["/api"] = internet.refuse_token()
    # one file comes in a second round of asking, in which no token is used any more
    path = next(entry["data"] for entry in scene.commitments if entry["uid"] == 3)
    scene.github.faults[f"/raw/{path}"] = internet.first(3, internet.status(503))
    report = concluded(monkeypatch)
    assert codes(report) == CLEAN
    assert {entry["push_time"] for entry in report["submissions"]} != {""}
    assert [sentence for sentence in report["warnings"] if "GITHUB_TOKEN" in sentence] == [
        "GitHub refuses GITHUB_TOKEN (status 401): push times were asked for without it; renew it"
    ]


def test_uniprot_away_means_the_pools_sequence(scene: World, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.uniprot.faults["/"] = internet.status(500)
    report = concluded(monkeypatch)
    assert codes(report) == CLEAN
    assert any("taken from the pool" in sentence for sentence in report["warnings"])


def test_an_archive_that_cannot_be_read_follows_the_rules(scene: World, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.hub.faults["/api/datasets/Metanova/Submission-Archive"] = internet.status(500)
    report = concluded(monkeypatch)
    assert codes(report) == {uid: code for uid, code in CLEAN.items() if uid != 13}
    assert any("Submission-Archive" in s and "archive_unavailable" in s for s in report["warnings"])


def test_the_hub_coming_back_late_opens_the_epoch_late(scene: World, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.hub.faults["/api/datasets/Metanova/Mol-Rxn-DB"] = internet.first(4, internet.status(500))
    report = concluded(monkeypatch)
    assert codes(report) == CLEAN
    assert report["winners"]["psichic"] == 3
    assert any("opened late" in s and "Mol-Rxn-DB" in s for s in report["warnings"])


def test_a_gigabyte_from_github_is_too_large(scene: World, monkeypatch: pytest.MonkeyPatch) -> None:
    path = next(entry["data"] for entry in scene.commitments if entry["uid"] == 3)
    scene.github.faults[f"/raw/{path}"] = internet.endless()
    report = concluded(monkeypatch)
    assert codes(report) == CLEAN | {3: "content_too_large"}


def test_one_path_of_many_miners_is_asked_for_once(scene: World, monkeypatch: pytest.MonkeyPatch) -> None:
    path = next(entry["data"] for entry in scene.commitments if entry["uid"] == 3)
    for uid in (0, 1, 2):
        # written into the past, before the epoch's end
        scene.chain.commit(68, address(f"//hotkey{uid}"), path.encode(), scene.header["start_block"] + 20 + uid)
    report = concluded(monkeypatch)
    assert {uid: codes(report)[uid] for uid in (0, 1, 2)} == dict.fromkeys((0, 1, 2), "uid_mismatch")
    assert scene.github.count(f"/raw/{path}") == 1
    assert len(scene.github.requests) == len(set(scene.github.requests))
    assert all(len(set(drand.requests)) == len(drand.requests) for drand in scene.drand)


def test_a_new_revision_in_mid_epoch_changes_nothing(scene: World, monkeypatch: pytest.MonkeyPatch) -> None:
    database = "Metanova/Mol-Rxn-DB"
    frozen = scene.hub.revision(database)
    concluded(monkeypatch)
    scene.hub.datasets[database]["CHANGES.md"] = b"a newer one"
    assert scene.hub.revision(database) != frozen
    facts = EpochFacts(1).of_kind(FactKind.FILE)
    assert place_of(facts["molecules.sqlite"]) == HubFile(database, frozen, "molecules.sqlite")
    # and UniProt is never asked again for what it said
    before = len(scene.uniprot.requests)
    assert before
    Capture(ClosedEpoch(68, scene.header["end_block"], 361), sheet := MemorySheet()).opening()
    assert EpochFacts(sheet).sequence("O15379")
    assert len(scene.uniprot.requests) == before


def _model_fails_on_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One molecule of UID 5 has no score, for a reason that the models gave."""
    shutil.copytree(EXAMPLE / "scores", folder)
    rows = [line.split(",") for line in (folder / "psichic.csv").read_text().splitlines()]
    protein, smiles = rows[-1][:2]
    left = [row for row in rows if row[:2] != [protein, smiles]]
    (folder / "psichic.csv").write_text("\n".join(",".join(row) for row in left) + "\n")
    (folder / "failures.csv").write_text(
        f"model,protein,smiles,error\npsichic,{protein},{smiles},worker_lost: it ended its worker\n"
    )
    monkeypatch.setenv("REHEARSAL_SCORES", str(folder))
    get_settings.cache_clear()


def test_a_recording_repeats_the_outage(scene: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from app.epochs.recording import record
    from app.epochs.result import differences

    _github_broken_for_one(scene)
    scene.uniprot.faults["/"] = internet.status(500)
    scene.hub.faults["/api/datasets/Metanova/Mol-Rxn-DB"] = internet.first(4, internet.status(500))
    scene.hub.faults["/api/datasets/Metanova/Submission-Archive"] = internet.status(500)
    _model_fails_on_one(tmp_path / "scores", monkeypatch)
    report = concluded(monkeypatch)
    assert len(report["warnings"]) >= 5
    assert any("1 molecule(s) without a score (worker_lost)" in sentence for sentence in report["warnings"])
    scene.hub.faults.clear()
    written = record(scene.number, tmp_path / "recording")
    assert written.result
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "elsewhere"))
    get_settings.cache_clear()
    migrated(get_store())
    # another store numbers its epochs from 1 again
    _examiner.cache_clear()
    forget_scorers()
    with get_store().writing() as session:
        replay = Recording(tmp_path / "recording").announce(session, "recorded", "tests")
    open_epoch.delay(replay)
    assert differences(report, report_of(replay)) == []


HUGE = {"negative": b"(-0x" + b"f" * 3600 + b", b'')", "positive": b"(0x" + b"f" * 3600 + b", b'')"}


@pytest.mark.parametrize("which", HUGE)
def test_one_miners_file_stops_nobody_else(scene: World, monkeypatch: pytest.MonkeyPatch, which: str) -> None:
    content = HUGE[which]
    path = f"evil/repo/main/{hashlib.sha256(content).hexdigest()[:20]}.txt"
    scene.github.contents[path] = content
    scene.chain.commit(68, address("//hotkey0"), path.encode(), scene.header["start_block"] + 20)
    report = concluded(monkeypatch)
    refused = codes(report)
    assert refused.pop(0) in {"format_invalid", "round_not_reached"}
    assert refused == CLEAN
    assert report["winners"]["psichic"] == 3


def test_a_fault_of_ours_with_one_miner_costs_that_miner_alone(scene: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a loop over miners meets in one of them: here while fetching, parsing and examining."""
    path_of = {entry["uid"]: entry["data"] for entry in scene.commitments}
    fetch, parse = GitHub.content, parse_submission

    def fetch_but_one(self: GitHub, path: GitHubPath) -> bytes:
        if str(path) == path_of[8]:
            raise ZeroDivisionError("fetching")
        return fetch(self, path)

    def parse_but_one(content: bytes) -> Any:
        if content == scene.github.contents[path_of[3]]:
            raise ZeroDivisionError("parsing")
        return parse(content)

    monkeypatch.setattr(GitHub, "content", fetch_but_one)
    monkeypatch.setattr("app.epochs.capture.parse_submission", parse_but_one)
    monkeypatch.setattr("app.epochs.examine.parse_submission", parse_but_one)
    report = concluded(monkeypatch)
    assert codes(report) == CLEAN | {3: "internal_error", 8: "internal_error"}
    assert report["winners"]["psichic"] == 5
    assert any("UID 3" in sentence and "ZeroDivisionError" in sentence for sentence in report["warnings"])


@pytest.mark.parametrize(
    ("text", "sentence"),
    [(b"burn: 1", "burn"), (b"quirks: 2024-99-99", "rules.yaml"), (b"\xff", "RULES_FILE"), (b"[", "is not YAML")],
)
def test_rules_that_cannot_be_read_end_the_epoch(
    scene: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: bytes, sentence: str
) -> None:
    (tmp_path / "rules.yaml").write_bytes(text)
    monkeypatch.setenv("RULES_FILE", str(tmp_path / "rules.yaml"))
    get_settings.cache_clear()
    watch_epoch.delay().get()
    with get_store().reading() as session:
        (summary,) = Epochs(session).recent(5)
        left = outstanding(session, summary.id)
    assert summary.stage is Stage.FAILED
    assert sentence in (summary.error or "")
    assert "workers.epochs.open_epoch" not in left


def test_an_epoch_nobody_judged_is_recorded_from_the_network(scene: World, tmp_path: Path) -> None:
    from app.epochs.recording import RecorderError, record
    from chain.github_path import parse_github_path

    written = record(scene.number, tmp_path / "recording")
    assert not written.result
    assert written.submissions == len(scene.commitments)
    recording = Recording(tmp_path / "recording").facts
    assert recording.header().end_block_hash == scene.header["end_block_hash"]
    path = parse_github_path(next(entry["data"] for entry in scene.commitments if entry["uid"] == 3))
    assert recording.content(path) == scene.github.contents[str(path)]
    assert recording.push_time(path) == scene.github.push_times[str(path)]
    assert recording.signature(1000) == scene.drand[0].signatures["1000"]
    with pytest.raises(RecorderError, match="is not empty"):
        record(scene.number, tmp_path / "recording")
    with pytest.raises(RecorderError, match="has not closed"):
        record(scene.number + 5, tmp_path / "future")
