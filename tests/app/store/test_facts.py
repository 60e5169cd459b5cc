"""Facts, files, and weight submissions, on both databases."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import update

from app.clock import now
from app.domain import EpochHeader
from app.store.claims import Claims
from app.store.database import Store
from app.store.epochs import Epochs
from app.store.facts import Blobs, Fact, FactKind, Facts, FactState, Sequences, file_fact
from app.store.tables.facts import BlobRow, FactRow
from app.store.weight_submissions import WeightsState, WeightSubmissions

HEADER = EpochHeader(68, "test", 361, 6_000_181 - 361, 6_000_181, "0x01", "0x02")
MINUTE = timedelta(minutes=1)


def announced(store: Store, run: str = "68:16619") -> int:
    with store.writing() as session:
        return Epochs(session).announce(run, HEADER, "model", "tests", publishes=True)


def test_a_fact_stays_as_it_was_first_written(store: Store) -> None:
    epoch, other = announced(store), announced(store, "another")
    with store.writing() as session:
        Facts(session).keep(epoch, FactKind.CONTENT, {"a/b": Fact(FactState.HELD, b"\x00first")})
        Facts(session).keep(epoch, FactKind.CONTENT, {"a/b": Fact(FactState.ABSENT), "c": Fact(FactState.ABSENT)})
    with store.reading() as session:
        facts = Facts(session)
        assert facts.all(epoch, FactKind.CONTENT)["a/b"] == Fact(FactState.HELD, b"\x00first")
        assert facts.all(epoch, FactKind.CONTENT).keys() == {"a/b", "c"}
        assert facts.all(epoch, FactKind.PUSH_TIME) == {}
        assert facts.all(other, FactKind.CONTENT) == {}


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 5_000_000])
def test_a_file_comes_back_byte_for_byte_whatever_its_size(store: Store, tmp_path: Path, size: int) -> None:
    content = bytes(number * number % 251 for number in range(1000)) * (size // 1000 + 1)
    (tmp_path / "file").write_bytes(content[:size])
    with store.writing() as session:
        blob = Blobs(session).keep(tmp_path / "file")
        assert Blobs(session).keep(content[:size]) == blob
        assert b"".join(Blobs(session).read(blob)) == content[:size]


def test_facts_go_with_age_or_with_their_epoch_and_files_with_the_last_fact(store: Store) -> None:
    old, young = announced(store), announced(store, "young")
    with store.writing() as session:
        shared, own = Blobs(session).keep(b"in both epochs"), Blobs(session).keep(b"in the old one")
        Facts(session).keep(old, FactKind.FILE, {"a": file_fact(shared), "b": file_fact(own)})
        session.execute(update(FactRow).values(captured_at=now() - MINUTE))
        Facts(session).keep(young, FactKind.FILE, {"a": file_fact(shared), "b": Fact(FactState.ABSENT)})
        Sequences(session).keep("P1", "MKV")
        session.execute(update(BlobRow).values(kept_at=now() - MINUTE))
        assert Facts(session).delete_before(now() - MINUTE / 2, 1) == 1
        assert Facts(session).delete_before(now() - MINUTE / 2, 10) == 1
        Blobs(session).delete_unused(now() - MINUTE / 2, 10)
        assert list(Blobs(session).read(own)) == []
        assert list(Blobs(session).read(shared)) == [b"in both epochs"]
        assert Sequences(session).get("P1") == "MKV", "a sequence belongs to no epoch"
    with store.writing() as session:
        Epochs(session).fail(young, "over")
        Epochs(session).delete_before(now() + MINUTE, 10)
        assert Facts(session).all(young, FactKind.FILE) == {}


def test_a_file_that_is_kept_again_is_young_again(store: Store) -> None:
    with store.writing() as session:
        blob = Blobs(session).keep(b"x")
        session.execute(update(BlobRow).values(kept_at=now() - MINUTE))
        Blobs(session).keep(b"x")
        Blobs(session).delete_unused(now() - MINUTE / 2, 10)
        assert list(Blobs(session).read(blob)) == [b"x"]
        for name in (b"a", b"b"):
            Blobs(session).keep(name)
        assert [Blobs(session).delete_unused(now() + MINUTE, 2) for _ in range(3)] == [2, 1, 0]


def test_a_submission_tells_what_was_sent_and_how_it_ended(store: Store) -> None:
    header = EpochHeader(68, "test", 361, 6_000_181 - 361, 6_000_181, "0x01", "0x02")
    with store.writing() as session:
        epoch = Epochs(session).announce("68:16619", header, "model", "tests", publishes=True)

    with store.writing() as session:
        submissions = WeightSubmissions(session)
        begun = submissions.begin(68, epoch_id=epoch)
        assert submissions.begin(68, epoch_id=epoch) == begun
        assert (begun.state, begun.tries) == (WeightsState.COMPUTED, 0)
        submissions.about_to_send(
            begun.id, {0: 0.5, 3: 0.5}, {0: 65535, 3: 65535}, block=6_000_190, last_update=17, reveal_round=42
        )
        submissions.waits(begun.id, WeightsState.SENT, "unknown: no answer")
    with store.reading() as session:
        found = WeightSubmissions(session).get(epoch)
    assert found is not None
    assert (found.state, found.tries, found.sent_at_block, found.last_update_before) == ("sent", 1, 6_000_190, 17)
    assert (found.sent, found.reveal_round) == ({0: 65535, 3: 65535}, 42)
    assert found.failures == ("unknown: no answer",)
    with store.writing() as session:
        WeightSubmissions(session).settle(begun.id, WeightsState.SET, "there", extrinsic="6000191-0001")
    with store.reading() as session:
        found = WeightSubmissions(session).get(epoch)
    assert found is not None
    assert found.vector == {0: 0.5, 3: 0.5}
    assert found.extrinsic == "6000191-0001"


def test_missed_epochs_are_known_and_final(store: Store) -> None:
    header = EpochHeader(68, "test", 361, 361, 722, "0x0", "0x0")
    with store.writing() as session:
        epochs = Epochs(session)
        epochs.announce_missed("68:1", header, "tests")
        epochs.announce_missed("68:1", header, "tests")
        assert epochs.newest_headers(68, 1000) == []
        assert Claims(session).holders("tests") == set()
        assert Claims(session).standing("tests", timedelta(seconds=-1)) == []
        assert epochs.live(68, 1) is not None
        assert epochs.live(68, 2) is None
        assert [epoch.number for epoch in epochs.recent(published_only=True)] == [1]


def test_the_newest_epoch_of_each_network_and_no_later_one(store: Store) -> None:
    def header(network: str, number: int) -> EpochHeader:
        return EpochHeader(68, network, 361, 361 * number, 361 * (number + 1), f"0x{number}", f"0x{network}{number}")

    with store.writing() as session:
        epochs = Epochs(session)
        for found in (header("test", 8), header("finney", 3), header("finney", 4)):
            epochs.announce(found.end_block_hash, found, "model", "tests", publishes=True)
        replayed = header("finney", 5)
        epochs.announce("replay:1", replayed, "model", "tests")
        epochs.announce("21:4", replace(header("finney", 6), netuid=21), "model", "tests", publishes=True)
        assert epochs.newest_headers(68, 10_000) == [header("finney", 4), header("test", 8)]
        assert epochs.newest_headers(68, 361 * 5 - 1) == [header("finney", 3)]
        again = epochs.announce("0xtest4", header("test", 4), "model", "tests", publishes=True)
        assert epochs.live(68, 4) == again
