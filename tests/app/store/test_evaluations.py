"""Evaluations in the store, on both databases: one model a slot, one try at work, every end written once."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update

from app.clock import now
from app.store.database import Store
from app.store.evaluations import (
    MOST_TRIES,
    ClaimResult,
    EvaluationEnd,
    EvaluationInputs,
    EvaluationPhase,
    EvaluationRecord,
    Evaluations,
    EvaluationTry,
)
from app.store.tables.evaluations import EvaluationRow

INPUTS = EvaluationInputs("maker/model2", "voicebench", "5Miner", 102)
SILENCE = timedelta(seconds=60)
LIMIT = timedelta(hours=2)
GRACE = timedelta(minutes=2)
COMPLETED = EvaluationEnd(EvaluationPhase.COMPLETED, 0.5, None, {"ifeval": 0.4}, [{"prompt": "a"}, {"prompt": "b"}])


def accept(store: Store, *slots: str) -> str | None:
    with store.writing() as session:
        return Evaluations(session).accept(INPUTS, slots or ("0",))


def claimed(store: Store, evaluation_id: str) -> EvaluationTry:
    with store.writing() as session:
        assert Evaluations(session).claim(evaluation_id, "gpu@a/1", "0", SILENCE) is ClaimResult.CLAIMED
        record = Evaluations(session).get(evaluation_id)
    assert record is not None
    return EvaluationTry(evaluation_id, record.tries)


def get(store: Store, evaluation_id: str) -> EvaluationRecord:
    with store.reading() as session:
        record = Evaluations(session).get(evaluation_id)
    assert record is not None
    return record


def finish(store: Store, of: EvaluationTry, end: EvaluationEnd = COMPLETED) -> bool:
    with store.writing() as session:
        return Evaluations(session).finish(of, end)


def age(store: Store, evaluation_id: str, **ages: float) -> None:
    """Set instants of an evaluation to so many seconds ago."""
    with store.writing() as session:
        values: dict[str, Any] = {name: now() - timedelta(seconds=seconds) for name, seconds in ages.items()}
        session.execute(update(EvaluationRow).where(EvaluationRow.id == evaluation_id).values(**values))


def test_a_slot_holds_one_model_until_it_is_over(store: Store) -> None:
    first, second = accept(store, "0", "1"), accept(store, "0", "1")
    assert first
    assert second
    assert accept(store, "0", "1") is None
    assert {get(store, first).slot, get(store, second).slot} == {"0", "1"}
    assert finish(store, claimed(store, first))
    third = accept(store, "0", "1")
    assert third
    assert get(store, third).slot == "0"
    with store.reading() as session:
        assert [record.id for record in Evaluations(session).in_slots(["0", "1"])] == [second, third]
        latest = Evaluations(session).latest()
    assert latest is not None
    assert latest.id == third


def test_many_at_once_get_no_slot_twice(store: Store) -> None:
    found: list[str | None] = []
    threads = [threading.Thread(target=lambda: found.append(accept(store, "0", "1", "2"))) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([name for name in found if name]) == 3


def test_the_end_is_written_once_with_its_samples(store: Store) -> None:
    one = accept(store)
    assert one
    of = claimed(store, one)
    with store.writing() as session:
        Evaluations(session).note_revision(of, "c0ffee")
    bad = replace(COMPLETED, metric_scores={"nan": float("nan"), "deep": [{"inf": float("inf")}]})
    assert finish(store, of, bad)
    assert not finish(store, of, replace(COMPLETED, score=0.9))
    record = get(store, one)
    assert (record.phase, record.score, record.revision) == (EvaluationPhase.COMPLETED, 0.5, "c0ffee")
    assert record.metric_scores == {"nan": "nan", "deep": [{"inf": "inf"}]}
    assert record.slot is None
    assert record.finished_at is not None
    with store.reading() as session:
        assert Evaluations(session).samples(one) == [{"prompt": "a"}, {"prompt": "b"}]


def test_one_try_is_at_work_at_a_time_and_a_silent_one_is_followed_by_the_next(store: Store) -> None:
    one = accept(store)
    assert one
    first = claimed(store, one)
    with store.writing() as session:
        assert Evaluations(session).claim(one, "gpu@b/2", "0", SILENCE) is ClaimResult.BUSY
    age(store, one, heartbeat_at=61, begun_at=100)
    begun = get(store, one).begun_at
    second = claimed(store, one)
    assert (second.number, second.name) == (2, f"{one}-2")
    assert get(store, one).begun_at == begun
    with store.writing() as session:
        evaluations = Evaluations(session)
        assert not evaluations.beat(first)
        assert evaluations.beat(second)
    assert not finish(store, first, EvaluationEnd(EvaluationPhase.FAILED, 0.0, "its container was taken away"))
    assert finish(store, second)
    with store.writing() as session:
        assert Evaluations(session).claim(one, "gpu@a/1", "0", SILENCE) is ClaimResult.OVER
        assert Evaluations(session).claim("nobody", "gpu@a/1", "0", SILENCE) is ClaimResult.OVER


def test_a_model_that_ends_its_worker_each_time_is_released_too(store: Store) -> None:
    one = accept(store)
    assert one
    for _ in range(MOST_TRIES):
        claimed(store, one)
        age(store, one, heartbeat_at=61)
    with store.writing() as session:
        assert Evaluations(session).claim(one, "gpu@a/1", "0", SILENCE) is ClaimResult.OVER
    assert get(store, one).phase is EvaluationPhase.RELEASED


def test_dead_tries_lose_their_claim_and_are_sent_again(store: Store) -> None:
    dead, alive = accept(store, "0"), accept(store, "1")
    assert dead
    assert alive
    of = claimed(store, dead)
    claimed(store, alive)
    age(store, dead, heartbeat_at=61)
    with store.writing() as session:
        assert Evaluations(session).void_dead(SILENCE) == [dead]
        assert Evaluations(session).unsent() == [(dead, INPUTS)]
        assert Evaluations(session).unsent() == []
        assert not Evaluations(session).beat(of)
    assert get(store, dead).slot == "0"
    assert "not heard of" in (get(store, dead).error or "")


def test_a_worker_that_stops_lets_go_of_what_it_holds(store: Store) -> None:
    ours, theirs = accept(store, "0"), accept(store, "1")
    assert ours
    assert theirs
    of = claimed(store, ours)
    with store.writing() as session:
        Evaluations(session).claim(theirs, "gpu@another/1", "0", SILENCE)
        assert Evaluations(session).void_held_by("gpu@a") == ["gpu@a/1"]
        assert Evaluations(session).unsent() == [(ours, INPUTS)]
    assert not finish(store, of)
    assert get(store, theirs).phase is EvaluationPhase.SCORING


def test_a_lost_message_is_sent_again_ever_more_rarely(store: Store) -> None:
    one = accept(store)
    assert one

    def unsent() -> bool:
        with store.writing() as session:
            return bool(Evaluations(session).unsent())

    assert not unsent()
    for patience in (60, 120, 240):
        age(store, one, sent_at=patience - 1, due_at=patience - 1)
        assert not unsent()
        age(store, one, sent_at=patience, due_at=patience)
        assert unsent()
    claimed(store, one)
    age(store, one, sent_at=3600)
    assert not unsent()


@pytest.mark.parametrize(
    ("tries", "phase", "score"), [(1, EvaluationPhase.TIMEOUT, 0.0), (2, EvaluationPhase.RELEASED, None)]
)
def test_what_its_own_limit_did_not_end_is_ended(
    store: Store, tries: int, phase: EvaluationPhase, score: float | None
) -> None:
    one = accept(store)
    assert one
    for _ in range(tries):
        age(store, one, heartbeat_at=61)
        claimed(store, one)
    age(store, one, begun_at=7200 + 119, heartbeat_at=30)
    with store.writing() as session:
        assert Evaluations(session).end_overdue(LIMIT, GRACE, SILENCE) == []
    age(store, one, begun_at=7200 + 121)
    with store.writing() as session:
        assert Evaluations(session).end_overdue(LIMIT, GRACE, SILENCE) == [one]
    assert (get(store, one).phase, get(store, one).score, get(store, one).slot) == (phase, score, None)


@pytest.mark.parametrize(
    ("heard_ago", "phase", "score"),
    [(60, EvaluationPhase.TIMEOUT, 0.0), (3000, EvaluationPhase.RELEASED, None)],
)
def test_a_worker_that_the_limit_ended_did_not_die_before_it(
    store: Store, heard_ago: float, phase: EvaluationPhase, score: float | None
) -> None:
    one = accept(store)
    assert one
    claimed(store, one)
    age(store, one, begun_at=7200 - 1, heartbeat_at=heard_ago)
    with store.writing() as session:
        assert Evaluations(session).end_overdue(LIMIT, GRACE, SILENCE) == []
    # killed a minute after the limit, and silent for another
    age(store, one, begun_at=7200 + 110, heartbeat_at=heard_ago)
    with store.writing() as session:
        assert Evaluations(session).end_overdue(LIMIT, GRACE, SILENCE) == [one]
    assert (get(store, one).phase, get(store, one).score) == (phase, score)


def test_what_no_worker_takes_is_released_at_the_limit(store: Store) -> None:
    one = accept(store)
    assert one
    age(store, one, accepted_at=7321)
    with store.writing() as session:
        assert Evaluations(session).end_overdue(LIMIT, GRACE, SILENCE) == [one]
    assert "no gpu worker" in (get(store, one).error or "")
    assert get(store, one).score is None


def test_old_evaluations_go_with_their_samples_and_unfinished_ones_stay(store: Store) -> None:
    one, two = accept(store, "0"), accept(store, "1")
    assert one
    assert two
    finish(store, claimed(store, one))
    age(store, one, finished_at=100, accepted_at=200)
    age(store, two, accepted_at=200)
    with store.writing() as session:
        assert Evaluations(session).delete_before(now() - timedelta(seconds=50)) == 1
        assert Evaluations(session).samples(one) == []
        assert [record.id for record in Evaluations(session).recent()] == [two]
