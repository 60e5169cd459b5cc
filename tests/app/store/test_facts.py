"""Facts and weight submissions under one claim at a time, on both databases."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from app.clock import now
from app.domain import EpochHeader
from app.store.claims import Claims
from app.store.database import Store
from app.store.epochs import Epochs
from app.store.facts import Fact, FactKind, Facts, FactState
from app.store.weight_submissions import WeightsState, WeightSubmissions

SOURCE = "live:68:6000181:361"
MINUTE = timedelta(minutes=1)


def test_a_fact_stays_as_it_was_first_written(store: Store) -> None:
    with store.writing() as session:
        Facts(session).keep(SOURCE, FactKind.CONTENT, {"a/b": Fact(FactState.HELD, b"\x00first")})
        Facts(session).keep(SOURCE, FactKind.CONTENT, {"a/b": Fact(FactState.ABSENT), "c": Fact(FactState.ABSENT)})
    with store.reading() as session:
        facts = Facts(session)
        assert facts.get(SOURCE, FactKind.CONTENT, "a/b") == Fact(FactState.HELD, b"\x00first")
        assert facts.get(SOURCE, FactKind.CONTENT, "x") is None
        assert facts.get(SOURCE, FactKind.PUSH_TIME, "a/b") is None
        assert sorted(facts.all(SOURCE, FactKind.CONTENT)) == ["a/b", "c"]


def test_old_facts_go_and_sequences_stay(store: Store) -> None:
    with store.writing() as session:
        facts = Facts(session)
        facts.keep(SOURCE, FactKind.CONTENT, {"a": Fact(FactState.HELD, b"x")})
        facts.keep("uniprot", FactKind.SEQUENCE, {"P1": Fact(FactState.HELD, b"MKV")})
        assert facts.delete_before(now() + MINUTE, 10) == 1
        assert facts.get("uniprot", FactKind.SEQUENCE, "P1") is not None


def test_a_submission_tells_what_was_sent_and_how_it_ended(store: Store) -> None:
    header = EpochHeader(68, "test", 361, 6_000_181 - 361, 6_000_181, "0x01", "0x02")
    with store.writing() as session:
        epoch = Epochs(session).announce("68:16619", header, SOURCE, "model", "tests", publishes=True)

    with store.writing() as session:
        submissions = WeightSubmissions(session)
        assert submissions.begin(epoch).tries == 0
        submissions.about_to_send(epoch, {0: 0.5, 3: 0.5}, 6_000_190, 17)
        submissions.failed_try(epoch, "unknown: no answer", may_arrive=True)
    with store.reading() as session:
        found = WeightSubmissions(session).get(epoch)
    assert found is not None
    assert (found.tries, found.sent_at_block, found.last_update_before) == (1, 6_000_190, 17)
    assert found.failures == ("unknown: no answer",)
    with store.writing() as session:
        submissions = WeightSubmissions(session)
        submissions.failed_try(epoch, "refused", may_arrive=False)
        submissions.settle(epoch, WeightsState.SET, "there", {0: 0.5, 3: 0.5}, "6000191-0001", "0xab")
    with store.reading() as session:
        found = WeightSubmissions(session).get(epoch)
    assert found is not None
    assert found.sent_at_block is None
    assert found.vector == {0: 0.5, 3: 0.5}
    assert found.extrinsic == "6000191-0001"


def test_missed_epochs_are_known_and_final(store: Store) -> None:
    header = EpochHeader(68, "test", 361, 361, 722, "0x0", "0x0")
    with store.writing() as session:
        epochs = Epochs(session)
        epochs.announce_missed("68:1", header, "live:68:722:361", "tests")
        epochs.announce_missed("68:1", header, "live:68:722:361", "tests")
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
            epochs.announce(
                found.end_block_hash, found, f"live:68:{found.end_block}:361", "model", "tests", publishes=True
            )
        replayed = header("finney", 5)
        epochs.announce("replay:1", replayed, "recording:/somewhere", "model", "tests")
        epochs.announce(
            "21:4", replace(header("finney", 6), netuid=21), "live:21:2527:361", "model", "tests", publishes=True
        )
        assert epochs.newest_headers(68, 10_000) == [header("finney", 4), header("test", 8)]
        assert epochs.newest_headers(68, 361 * 5 - 1) == [header("finney", 3)]
        again = epochs.announce("0xtest4", header("test", 4), "live:68:1805:361", "model", "tests", publishes=True)
        assert epochs.live(68, 4) == again
