"""Stores of older versions: what they hold is still there, and an epoch under way goes on."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from alembic import command
from sqlalchemy import text

from app.clock import now
from app.epochs.facts import EpochFacts
from app.settings import get_settings
from app.store.claims import Claims
from app.store.database import Store, get_store
from app.store.epochs import Epochs
from app.store.evaluations import EVALUATE, Evaluations
from app.store.facts import Fact, FactKind, Facts, FactState, HubFile, Sequences, place_of
from app.store.records import Stage
from app.store.schema import _config, migrate
from chain.github_path import GitHubPath

HEADER = {
    "netuid": 68, "network": "test", "epoch_length": 361, "start_block": 361, "end_block": 722,
    "start_block_hash": "0x1", "end_block_hash": "0x2",
}  # fmt: skip

LIVE, REPLAY = "live:68:722:361", "recording:/somewhere"


def _at(store: Store, revision: str) -> None:
    config = _config()
    with store.engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


def _epoch(store: Store, run: str, source: str, stage: str) -> int:
    row = {
        "run": run, "source": source, "stage": stage, "header": json.dumps(HEADER), "live": source == LIVE, "at": now(),
    }  # fmt: skip
    with store.engine.begin() as connection:
        return int(
            connection.execute(
                text(
                    "INSERT INTO epochs (run, cluster, netuid, number, source, scores, publishes, stage, stage_times, "
                    "header, created_at, touched_at) VALUES (:run, 'c', 68, 1, :source, 'model', :live, :stage, "
                    "'{}', :header, :at, :at) RETURNING id"
                ),
                row,
            ).scalar_one()
        )


def _fact(store: Store, source: str, kind: str, key: str, value: bytes | None, state: str = "held") -> None:
    row = {"source": source, "kind": kind, "key": key, "state": state, "value": value, "at": now()}
    with store.engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO facts (source, kind, key, state, value, detail, fetched_at) "
                "VALUES (:source, :kind, :key, :state, :value, NULL, :at)"
            ),
            row,
        )


def test_facts_of_a_source_become_facts_of_its_epoch(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", store_url)
    get_settings.cache_clear()
    store = get_store()
    _at(store, "0008")
    live = _epoch(store, "68:722:x", LIVE, "examining")
    done = _epoch(store, "replay:1", REPLAY, "done")
    begun = _epoch(store, "replay:2", REPLAY, "examining")
    _fact(store, LIVE, "content", "o/r/main/f.txt", b"\x00bytes")
    _fact(store, LIVE, "revision", "Metanova/Mol-Rxn-DB", b"c0ffee")
    _fact(store, LIVE, "revision", "Metanova/Submission-Archive", b"abba")
    _fact(store, LIVE, "archive", "O15379", None)
    _fact(store, LIVE, "archive", "P1", None, "unavailable")
    _fact(store, "uniprot", "sequence", "O15379", b"MKV")
    _fact(store, "live:68:9:9", "content", "of no epoch", b"x")
    migrate(store)
    facts = EpochFacts(live)
    assert facts.content(GitHubPath("o", "r", "main", "f.txt")) == b"\x00bytes"
    files = facts.of_kind(FactKind.FILE)
    assert place_of(files["molecules.sqlite"]) == HubFile("Metanova/Mol-Rxn-DB", "c0ffee", "molecules.sqlite")
    assert place_of(files["archive/O15379_molecules.csv"]) == HubFile(
        "Metanova/Submission-Archive", "abba", "O15379_molecules.csv"
    )
    assert files["archive/P1_molecules.csv"] == Fact(FactState.UNAVAILABLE)
    with store.reading() as session:
        assert Sequences(session).get("O15379") == "MKV"
        assert Facts(session).all(done, FactKind.CONTENT) == {}
        summaries = {epoch: Epochs(session).summary(epoch) for epoch in (live, done, begun)}
    assert [summaries[epoch].publishes for epoch in (live, done, begun)] == [True, False, False]
    assert [summaries[epoch].stage for epoch in (live, done, begun)] == [Stage.EXAMINING, Stage.DONE, Stage.FAILED]
    assert "replay it again" in (summaries[begun].error or "")


def test_evaluations_under_way_become_work(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", store_url)
    monkeypatch.setenv("CLUSTER_NAME", "ours")
    get_settings.cache_clear()
    store = get_store()
    _at(store, "0014")
    with store.engine.begin() as connection:
        for name, state, finished_at in (("one", "scoring", None), ("two", "waiting", None), ("old", "failed", now())):
            connection.execute(
                text(
                    "INSERT INTO evaluations (id, hf_repo_id, competition_id, hotkey, block, slot, state, tries, "
                    "accepted_at, due_at, sends, finished_at) "
                    "VALUES (:id, 'a/b', 'voicebench', 'h', 1, :slot, :state, 1, :at, :at, 1, :finished_at)"
                ),
                {
                    "id": name,
                    "slot": None if finished_at else name,
                    "state": state,
                    "at": now(),
                    "finished_at": finished_at,
                },
            )
            connection.execute(
                text("INSERT INTO evaluation_samples (evaluation_id, number, sample) VALUES (:id, 0, '{}')"),
                {"id": name},
            )
        connection.execute(
            text(
                "INSERT INTO work (cluster, task, args, due_at, moved_at, claim, holder, claimed_at, attempts) "
                "VALUES ('ours', 'workers.weights.submit_round', '[\"m\"]', :at, :at, 'c', 'chain@a/1', :at, 1)"
            ),
            {"at": now()},
        )
    migrate(store)
    with store.writing() as session:
        records = {record.id: record for record in Evaluations(session).recent()}
        assert [records[name].phase.value for name in ("one", "two", "old")] == ["waiting", "waiting", "failed"]
        assert [len(Evaluations(session).samples(name)) for name in records] == [1, 1, 1]
        # what processes of the old version held is taken up again at once
        assert Claims(session).void("ours", {}) == 1
        assert {(work.task, work.args) for work in Claims(session).standing("ours", timedelta(seconds=-1))} == {
            (EVALUATE, ("one",)),
            (EVALUATE, ("two",)),
            ("workers.weights.submit_round", ("m",)),
        }
        assert Evaluations(session).begin("one", 2, "0", timedelta(hours=2)) is not None
