"""Evaluations in the store, on both databases: one model a slot, one try at work, every end written once."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update

from app.clock import now
from app.settings import get_settings
from app.store.claims import ClaimLost, Claims, Piece, Refused, Work
from app.store.database import Store
from app.store.evaluations import (
    EVALUATE,
    MOST_TRIES,
    EvaluationEnd,
    EvaluationInputs,
    EvaluationPhase,
    EvaluationRecord,
    Evaluations,
)
from app.store.tables.evaluations import EvaluationRow
from app.store.tables.work import WorkRow
from tests.app.store.evaluation_claims import LIMIT, SILENCE, begun, finished

INPUTS = EvaluationInputs("maker/model2", "voicebench", "5Miner", 102)
GRACE = timedelta(minutes=2)
COMPLETED = EvaluationEnd(EvaluationPhase.COMPLETED, 0.5, None, {"ifeval": 0.4}, [{"prompt": "a"}, {"prompt": "b"}])


def accept(store: Store, *slots: str) -> str:
    found = accepted(store, *slots)
    assert found
    return found


def accepted(store: Store, *slots: str) -> str | None:
    with store.writing() as session:
        found = Evaluations(session).accept(INPUTS, slots or ("0",))
        if found is not None:
            Claims(session).add([Work(EVALUATE, (found,))], get_settings().cluster_name)
        return found


def claimed(store: Store, evaluation_id: str, holder: str = "gpu@a/1") -> Piece:
    with store.writing() as session:
        return begun(session, evaluation_id, holder)


def get(store: Store, evaluation_id: str) -> EvaluationRecord:
    with store.reading() as session:
        record = Evaluations(session).get(evaluation_id)
    assert record is not None
    return record


def finish(store: Store, evaluation_id: str, piece: Piece, end: EvaluationEnd = COMPLETED) -> None:
    with store.writing() as session:
        finished(session, evaluation_id, piece, end)


def overdue(store: Store) -> list[str]:
    with store.writing() as session:
        return Evaluations(session).end_overdue(LIMIT, GRACE, SILENCE)


def age(store: Store, evaluation_id: str, **ages: float) -> None:
    """Set instants of an evaluation to so many seconds ago; its claim ends with its heartbeat."""
    values: dict[str, Any] = {name: now() - timedelta(seconds=seconds) for name, seconds in ages.items()}
    with store.writing() as session:
        session.execute(update(EvaluationRow).where(EvaluationRow.id == evaluation_id).values(**values))
        if "heartbeat_at" in values:
            session.execute(update(WorkRow).values(held_until=values["heartbeat_at"] + SILENCE))


def test_a_slot_holds_one_model_until_it_is_over(store: Store) -> None:
    first, second = accept(store, "0", "1"), accept(store, "0", "1")
    assert accepted(store, "0", "1") is None
    assert {get(store, first).slot, get(store, second).slot} == {"0", "1"}
    finish(store, first, claimed(store, first))
    third = accept(store, "0", "1")
    assert get(store, third).slot == "0"
    with store.reading() as session:
        assert [record.id for record in Evaluations(session).in_slots(["0", "1"])] == [second, third]
        latest = Evaluations(session).latest()
    assert latest is not None
    assert latest.id == third


def test_many_at_once_get_no_slot_twice(store: Store) -> None:
    found: list[str | None] = []
    threads = [threading.Thread(target=lambda: found.append(accepted(store, "0", "1", "2"))) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([name for name in found if name]) == 3


def test_the_end_is_written_once_with_its_samples(store: Store) -> None:
    one = accept(store)
    piece = claimed(store, one)
    with store.writing() as session:
        Evaluations(session).note_revision(one, "c0ffee")
    bad = replace(COMPLETED, metric_scores={"nan": float("nan"), "deep": [{"inf": float("inf")}]})
    finish(store, one, piece, bad)
    with pytest.raises(ClaimLost):
        finish(store, one, piece, replace(COMPLETED, score=0.9))
    with store.writing() as session:
        Evaluations(session).finish(one, replace(COMPLETED, score=0.8))
        Evaluations(session).beat(one)
    record = get(store, one)
    assert (record.phase, record.score, record.revision) == (EvaluationPhase.COMPLETED, 0.5, "c0ffee")
    assert record.metric_scores == {"nan": "nan", "deep": [{"inf": "inf"}]}
    assert record.slot is None
    assert record.finished_at is not None
    with store.reading() as session:
        assert Evaluations(session).samples(one) == [{"prompt": "a"}, {"prompt": "b"}]


def test_one_try_is_at_work_at_a_time_and_a_silent_one_is_followed_by_the_next(store: Store) -> None:
    one = accept(store)
    first = claimed(store, one)
    with store.writing() as session:
        assert Claims(session).take(Work(EVALUATE, (one,)), "another", "gpu@b/2", SILENCE) is Refused.BUSY
    age(store, one, heartbeat_at=61, begun_at=100)
    begun_at = get(store, one).begun_at
    second = claimed(store, one, "gpu@b/2")
    assert get(store, one).name == f"{one}-2"
    assert get(store, one).begun_at == begun_at
    with store.writing() as session:
        assert not Claims(session).renew(first)
        assert Claims(session).renew(second)
    with pytest.raises(ClaimLost):
        finish(store, one, first, EvaluationEnd(EvaluationPhase.FAILED, 0.0, "its container was removed"))
    finish(store, one, second)
    with store.writing() as session:
        assert Claims(session).take(Work(EVALUATE, (one,)), "another", "gpu@a/1", SILENCE) is Refused.DONE
        assert Evaluations(session).begin(one, 3, "0", LIMIT) is None
        assert Evaluations(session).begin("nobody", 1, "0", LIMIT) is None


def test_a_model_that_ends_its_worker_each_time_is_released_too(store: Store) -> None:
    one = accept(store)
    for _ in range(MOST_TRIES):
        claimed(store, one)
    with store.writing() as session:
        assert Evaluations(session).begin(one, MOST_TRIES + 1, "0", LIMIT) is None
    assert (get(store, one).phase, get(store, one).score) == (EvaluationPhase.RELEASED, None)
    assert "its worker was lost each time" in (get(store, one).error or "")


def test_an_evaluation_waits_unless_somebody_holds_it(store: Store) -> None:
    dead, alive = accept(store, "0"), accept(store, "1")
    assert (get(store, dead).phase, get(store, dead).error) == (EvaluationPhase.WAITING, None)
    piece = claimed(store, dead)
    assert get(store, dead).phase is EvaluationPhase.SCORING
    age(store, dead, heartbeat_at=61)
    claimed(store, alive, "gpu@b/2")
    assert get(store, alive).phase is EvaluationPhase.SCORING
    assert (get(store, dead).phase, get(store, dead).slot) == (EvaluationPhase.WAITING, "0")
    assert "not heard of" in (get(store, dead).error or "")
    with store.writing() as session:
        claims = Claims(session)
        assert claims.void(get_settings().cluster_name, {}) == 1
        assert claims.standing(get_settings().cluster_name, SILENCE) == [Work(EVALUATE, (dead,))]
        assert not claims.renew(piece)


def test_a_worker_that_stops_lets_go_of_what_it_holds(store: Store) -> None:
    ours, theirs = accept(store, "0"), accept(store, "1")
    piece = claimed(store, ours)
    claimed(store, theirs, "gpu@another/1")
    with store.writing() as session:
        claims = Claims(session)
        assert claims.void_at("gpu@a", EVALUATE) == ["gpu@a/1"]
        assert claims.standing(get_settings().cluster_name, SILENCE) == [Work(EVALUATE, (ours,))]
    with pytest.raises(ClaimLost):
        finish(store, ours, piece)
    assert get(store, theirs).phase is EvaluationPhase.SCORING


@pytest.mark.parametrize(
    ("tries", "phase", "score"), [(1, EvaluationPhase.TIMEOUT, 0.0), (2, EvaluationPhase.RELEASED, None)]
)
def test_what_its_own_limit_did_not_end_is_ended(
    store: Store, tries: int, phase: EvaluationPhase, score: float | None
) -> None:
    one = accept(store)
    for _ in range(tries):
        claimed(store, one)
    age(store, one, begun_at=7200 + 90, heartbeat_at=30)
    assert overdue(store) == []
    age(store, one, begun_at=7200 + 121)
    assert overdue(store) == [one]
    assert (get(store, one).phase, get(store, one).score, get(store, one).slot) == (phase, score, None)


@pytest.mark.parametrize(
    ("heard_ago", "phase", "score"),
    [(60, EvaluationPhase.TIMEOUT, 0.0), (3000, EvaluationPhase.RELEASED, None)],
)
def test_a_worker_that_the_limit_ended_did_not_die_before_it(
    store: Store, heard_ago: float, phase: EvaluationPhase, score: float | None
) -> None:
    one = accept(store)
    claimed(store, one)
    age(store, one, begun_at=7200 - 60, heartbeat_at=heard_ago)
    assert overdue(store) == []
    # killed a minute after the limit, and silent for another
    age(store, one, begun_at=7200 + 110, heartbeat_at=heard_ago)
    assert overdue(store) == [one]
    assert (get(store, one).phase, get(store, one).score) == (phase, score)


def test_what_no_worker_takes_is_released_at_the_limit(store: Store) -> None:
    one = accept(store)
    age(store, one, accepted_at=7321)
    assert overdue(store) == [one]
    assert "no gpu worker" in (get(store, one).error or "")
    assert get(store, one).score is None


def test_old_evaluations_go_with_their_samples_and_unfinished_ones_stay(store: Store) -> None:
    one, two = accept(store, "0"), accept(store, "1")
    finish(store, one, claimed(store, one))
    age(store, one, finished_at=100, accepted_at=200)
    age(store, two, accepted_at=200)
    with store.writing() as session:
        assert Evaluations(session).delete_before(now() - timedelta(seconds=50), 10) == 1
        assert Evaluations(session).samples(one) == []
        assert [record.id for record in Evaluations(session).recent()] == [two]
        session.execute(update(EvaluationRow).values(finished_at=now()))
        assert Evaluations(session).delete_before(now() + timedelta(days=1), 0) == 0
        assert Evaluations(session).delete_before(now() + timedelta(days=1), 1) == 1


@pytest.mark.parametrize(
    ("heard_ago", "phase", "score"),
    [(5, EvaluationPhase.TIMEOUT, 0.0), (3000, EvaluationPhase.RELEASED, None)],
)
def test_a_try_that_begins_after_the_limit_ends_it(
    store: Store, heard_ago: float, phase: EvaluationPhase, score: float | None
) -> None:
    """The limit ended the first try's process, and its message came again before anybody had looked."""
    one = accept(store)
    claimed(store, one)
    age(store, one, begun_at=7200 + 70, heartbeat_at=heard_ago)
    with store.writing() as session:
        assert Evaluations(session).begin(one, 2, "0", LIMIT) is None
    assert (get(store, one).phase, get(store, one).score, get(store, one).slot) == (phase, score, None)


def test_what_is_overdue_is_no_work_any_more(store: Store) -> None:
    one = accept(store)
    piece = claimed(store, one)
    age(store, one, begun_at=7200 + 121, heartbeat_at=1)
    assert overdue(store) == [one]
    with pytest.raises(ClaimLost):
        finish(store, one, piece)
    with store.reading() as session:
        assert Claims(session).holders(get_settings().cluster_name) == set()
