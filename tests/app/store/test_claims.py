"""One piece of work, one claim: what every task of the cluster relies on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import pytest

from app.clock import now
from app.store.claims import ClaimLost, Claims, Piece, Refused, Work
from app.store.database import Store
from tests.stores import migrated

CLUSTER = "tests"
LEASE = timedelta(minutes=5)
PART, OTHER = (Work("workers.scoring.score_psichic", (7, number), part_of="judge(7)") for number in (1, 2))
LAST = Work("workers.epochs.close_epoch", (7,), waits_for="judge(7)")


@pytest.fixture
def claims(store: Store) -> Iterator[Claims]:
    migrated(store)
    with store.writing() as session:
        yield Claims(session)


def taken(claims: Claims, work: Work, claim: str = "t1", holder: str = "w/1", lease: timedelta = LEASE) -> Piece:
    piece = claims.take(work, claim, holder, lease)
    assert isinstance(piece, Piece)
    return piece


def test_a_claim_holds_off_others_but_not_its_own_redelivery(claims: Claims) -> None:
    claims.add([PART], CLUSTER)
    assert taken(claims, PART).attempts == 1
    assert claims.take(PART, "t2", "w/2", LEASE) is Refused.BUSY
    assert taken(claims, PART, holder="w/3", lease=timedelta(0)).attempts == 2
    # a claim that nobody renewed expires
    assert taken(claims, PART, "t2").attempts == 3


def test_what_was_put_off_is_taken_by_whoever_comes_back_for_it(claims: Claims) -> None:
    claims.add([PART], CLUSTER)
    later = now() + timedelta(minutes=1)
    assert claims.give_back(taken(claims, PART), later, comes_back=True)
    # a second message, sent when the first seemed lost: it does not begin a second chain
    assert claims.take(PART, "t2", "w/2", LEASE) is Refused.PUT_OFF
    assert claims.give_back(taken(claims, PART), now(), comes_back=True)
    # the first was lost: what is due anybody takes
    assert taken(claims, PART, "t3").attempts == 3
    assert claims.give_back(taken(claims, PART, "t3"), later)
    assert taken(claims, PART, "t4").attempts == 5


def test_what_is_finished_or_was_never_asked_for_is_done(claims: Claims) -> None:
    assert claims.take(PART, "t1", "w/1", LEASE) is Refused.DONE
    claims.add([PART, PART], CLUSTER)
    claims.finish(taken(claims, PART))
    assert claims.take(PART, "t1", "w/1", LEASE) is Refused.DONE


@pytest.mark.parametrize("by", ["t1", "t2"])
def test_a_claim_that_was_taken_over_finishes_nothing(claims: Claims, by: str) -> None:
    """By another message, or by the same one, delivered again while the first was only slow."""
    claims.add([PART], CLUSTER)
    slow = taken(claims, PART, lease=timedelta(0))
    quick = taken(claims, PART, by)
    assert not claims.renew(slow)
    assert not claims.give_back(slow, now())
    with pytest.raises(ClaimLost):
        claims.finish(slow)
    assert claims.renew(quick)
    claims.finish(quick)


def test_a_renewed_claim_holds_for_its_lease_again(claims: Claims) -> None:
    claims.add([PART], CLUSTER)
    piece = taken(claims, PART, lease=timedelta(0))
    assert claims.renew(replace(piece, lease=LEASE))
    assert claims.take(PART, "t2", "w/2", LEASE) is Refused.BUSY
    assert claims.void(CLUSTER, {}) == 0


def test_what_follows_a_group_waits_for_all_of_it(claims: Claims) -> None:
    claims.add([LAST, PART, OTHER], CLUSTER)
    assert claims.take(LAST, "t9", "w/1", LEASE) is Refused.WAITING
    claims.finish(taken(claims, PART))
    assert claims.take(LAST, "t9", "w/1", LEASE) is Refused.WAITING
    claims.finish(taken(claims, OTHER))
    assert taken(claims, LAST, "t9").attempts == 1


def test_given_back_work_counts_its_attempts_unless_told_otherwise(claims: Claims) -> None:
    claims.add([PART], CLUSTER)
    claims.give_back(taken(claims, PART), now())
    claims.give_back(taken(claims, PART), now(), uncounted=True)
    assert taken(claims, PART).attempts == 2


def test_standing_work_is_found_whatever_its_kind_and_only_once(claims: Claims) -> None:
    claims.add([LAST, PART, OTHER, Work("workers.reports.deliver_report", (7, "results"))], CLUSTER)
    assert claims.standing(CLUSTER, timedelta(minutes=1)) == []
    assert len(claims.standing(CLUSTER, timedelta(seconds=-1))) == 4
    assert claims.standing(CLUSTER, timedelta(minutes=1)) == []
    assert claims.standing("another cluster on this store", timedelta(seconds=-1)) == []


def test_work_that_is_not_due_or_in_progress_does_not_stand(claims: Claims) -> None:
    claims.add([PART, OTHER], CLUSTER)
    taken(claims, PART)
    claims.give_back(taken(claims, OTHER, "t2"), now() + timedelta(hours=1))
    assert claims.standing(CLUSTER, timedelta(seconds=-1)) == []


def test_dead_processes_lose_their_claims_and_living_ones_keep_them(claims: Claims) -> None:
    claims.add([PART, OTHER], CLUSTER)
    taken(claims, PART, holder="gpu@here/5")
    taken(claims, OTHER, "t2", holder="gpu@here/6")
    before = now() - timedelta(minutes=1)
    assert claims.holders(CLUSTER) == {"gpu@here/5", "gpu@here/6"}
    # nobody answered, which proves nobody dead
    assert claims.void(CLUSTER, {}) == 0
    assert claims.void(CLUSTER, {"gpu@here/5": before, "gpu@here/6": before}) == 0
    assert claims.void(CLUSTER, {"gpu@here/5": before}) == 1
    # an hour of a model's evaluation is not lost to an answer that was late
    assert claims.void(CLUSTER, {"gpu@elsewhere/1": before}, [PART.task]) == 0
    # what a dead process held is sent in the same round
    assert claims.standing(CLUSTER, timedelta(minutes=1)) == [OTHER]


def test_a_claim_older_than_its_holder_is_a_former_process_and_an_old_one_expires(claims: Claims) -> None:
    claims.add([PART], CLUSTER)
    taken(claims, PART, holder="cpu@container/5")
    assert claims.void(CLUSTER, {"cpu@container/5": now() + timedelta(minutes=1)}) == 1
    taken(claims, PART, holder="cpu@container/5", lease=timedelta(0))
    assert claims.void(CLUSTER, {}) == 1
