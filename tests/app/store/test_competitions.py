"""Queue, history, competitions, reputations and callers on both databases."""

from __future__ import annotations

import random
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import update

from app.clock import now
from app.competitions.profile import SEED
from app.competitions.standings import (
    by_uid,
    incentive_now,
    mark_of,
    model_standings,
    reputation_steps,
    take_next_model,
    weight_round,
)
from app.domain import ModelCommitment, ValidatorError
from app.settings import get_settings
from app.store.callers import Callers
from app.store.competitions import Competitions, UnknownCompetition
from app.store.database import Store
from app.store.metagraph import Metagraph
from app.store.model_priority import Candidate, Priority, priority, queue_order
from app.store.model_queue import ModelQueue, PostedScore, Refusal, ScoreHistory
from app.store.reputations import Reputations, WeightRounds
from app.store.scorings import Scorings, ScoringState
from app.store.tables.competitions import ModelRow, ReputationRow
from app.store.weight_submissions import WeightsState, WeightSubmissions
from tests.app.competitions.competition_fixtures import NETUID, SECOND, VALIDATOR, fill, miner, model, neurons, scored

ME, OTHER = VALIDATOR.ss58_address, SECOND.ss58_address
NOW = now()


def candidate(hotkey: str = "x", days: float | None = None, **facts: object) -> Candidate:
    last = None if days is None else NOW - timedelta(days=days)
    return Candidate(hotkey, is_new=bool(facts.pop("is_new", False)), last_scored_at=last, **facts)  # type: ignore[arg-type]


# -- the order --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "tier"),
    [
        (candidate(is_new=True, scores=20, days=1), Priority.NEW),
        (candidate(), Priority.NEVER_SCORED),
        (candidate(scores=10, days=1), Priority.NEVER_SCORED),
        (candidate(scores=11, days=1), Priority.HOPELESS),
        (candidate(scores=11, days=6), Priority.NEVER_SCORED),
        (candidate(scores=9, non_zero_scores=9, best_score=0.5, days=8), Priority.LONG_AGO),
        (candidate(scores=9, non_zero_scores=9, best_score=0.5, days=6), Priority.DUE),
        (candidate(scores=4, non_zero_scores=4, best_score=0.5, days=1), Priority.DUE),
        (candidate(scores=5, non_zero_scores=1, best_score=0.5, days=1), Priority.REST),
    ],
)
def test_each_tier_of_the_queue(model: Candidate, tier: Priority) -> None:
    assert priority(model, NOW) is tier


def test_tiers_go_in_order_and_the_top_score_first_within_the_third() -> None:
    models = [
        candidate("rest", scores=5, non_zero_scores=5, best_score=0.99, days=1),
        candidate("due", scores=2, non_zero_scores=2, best_score=0.5, days=1),
        candidate("hopeless", scores=11, days=1),
        candidate("old", scores=5, non_zero_scores=5, best_score=0.5, days=9),
        candidate("old top", scores=5, non_zero_scores=5, best_score=0.9, days=8),
        candidate("never", scores=1, days=1),
        candidate("new", is_new=True),
    ]
    expected = ["new", "never", "old top", "old", "hopeless", "due", "rest"]
    for seed in range(5):
        assert queue_order(models, NOW, random.Random(seed)) == expected


def test_chance_decides_within_a_tier() -> None:
    models = [candidate(name, is_new=True) for name in "abcdef"]
    assert len({tuple(queue_order(models, NOW, random.Random(seed))) for seed in range(20)}) > 10


def test_the_store_ranks_by_what_it_knows(store: Store) -> None:
    fill(store, 6)
    scored(store, 2, *[0.5] * 5)
    scored(store, 3, 0.5)
    scored(store, 4, *[0.0] * 11)
    scored(store, 5, *[0.5] * 5, days_ago=8)
    scored(store, 6, 0.0)
    taken = []
    with store.writing() as session:
        while (found := take_next_model(session, ME, {"voicebench"})) is not None:
            taken.append(found.uid)
    assert taken == [7, 6, 5, 4, 3, 2]


# -- taking, posting, releasing ---------------------------------------------------------------------------------------


def test_two_hundred_takers_at_once_get_two_hundred_models(store: Store) -> None:
    fill(store, 200)
    start = threading.Barrier(16)

    def take(worker: int) -> list[int]:
        found = []
        start.wait()
        while True:
            with store.writing() as session:
                # the same chance for all: everybody wants the same model first
                taken = ModelQueue(session, NETUID).take("voicebench", f"scorer{worker}", random.Random(7))
            if taken is None:
                return found
            found.append(taken.uid)

    with ThreadPoolExecutor(16) as pool:
        counts = Counter(uid for found in pool.map(take, range(16)) for uid in found)
    assert set(counts) == set(range(2, 202))
    assert set(counts.values()) == {1}


def test_only_who_took_a_model_may_post_and_only_once(store: Store) -> None:
    fill(store, 1)
    with store.writing() as session:
        queue = ModelQueue(session, NETUID)
        assert not queue.post(miner(2), 2, ME, PostedScore(0.9))
        assert queue.take("voicebench", ME) is not None
        assert queue.take("voicebench", OTHER) is None
        assert not queue.post(miner(2), 2, OTHER, PostedScore(0.9))
        assert not queue.post(miner(2), 3, ME, PostedScore(0.9))
        assert queue.post(miner(2), 2, ME, PostedScore(0.5, "h", {"commoneval": 0.4}, None))
        assert not queue.post(miner(2), 2, ME, PostedScore(0.6))
    with store.reading() as session:
        records = ScoreHistory(session).since(now() - timedelta(hours=1), 10)
        assert [(r.score, r.model_hash, r.metric_scores, r.scorer_hotkey) for r in records] == [
            (0.5, "h", {"commoneval": 0.4}, ME)
        ]
        (queued,) = ModelQueue(session, NETUID).models()
        assert (queued.is_new, queued.is_being_scored_by) == (False, None)


def test_the_history_only_grows(store: Store) -> None:
    fill(store, 1)
    scored(store, 2, *[0.1 * n for n in range(12)])
    with store.reading() as session:
        assert len(ScoreHistory(session).since(now() - timedelta(hours=1), 100)) == 12
        latest = ScoreHistory(session).latest()[miner(2)]
    assert [round(record.score, 1) for record in latest] == [round(0.1 * n, 1) for n in range(11, 1, -1)]


def test_a_model_under_scoring_for_too_long_returns(store: Store) -> None:
    fill(store, 2)
    with store.writing() as session:
        queue = ModelQueue(session, NETUID)
        stale, fresh = queue.take("voicebench", ME), queue.take("voicebench", ME)
        assert stale is not None
        assert fresh is not None
        session.execute(
            update(ModelRow)
            .where(ModelRow.hotkey == stale.commitment.hotkey)
            .values(taken_at=now() - timedelta(hours=2, seconds=1))
        )
    with store.writing() as session:
        assert ModelQueue(session, NETUID).release_stale(timedelta(hours=2)) == 1
    with store.writing() as session:
        queue = ModelQueue(session, NETUID)
        assert not queue.post(stale.commitment.hotkey, stale.uid, ME, PostedScore(0.5))
        again = queue.take("voicebench", OTHER)
        assert again is not None
        assert again.uid == stale.uid
        assert queue.post(fresh.commitment.hotkey, fresh.uid, ME, PostedScore(0.5))


def test_a_post_must_belong_to_its_own_taking(store: Store) -> None:
    fill(store, 1)
    with store.writing() as session:
        queue = ModelQueue(session, NETUID)
        first = queue.take("voicebench", ME)
        assert first is not None
        assert queue.release(miner(2), ME, first.taken_at)
        second = queue.take("voicebench", ME)
        assert second is not None
        assert not queue.post(miner(2), 2, ME, PostedScore(0.5), first.taken_at)
        assert not queue.release(miner(2), ME, first.taken_at)
        assert queue.post(miner(2), 2, ME, PostedScore(0.5), second.taken_at)


def test_a_model_committed_again_while_under_scoring_stays_new(store: Store) -> None:
    fill(store, 1)
    changed = ModelCommitment(miner(2), 500, model(2).model.__class__("maker", "other", "1", "beef", "h", "voicebench"))
    with store.writing() as session:
        queue = ModelQueue(session, NETUID)
        assert queue.take("voicebench", ME) is not None
        assert queue.register(2, changed, now())
        assert queue.post(miner(2), 2, ME, PostedScore(0.5))
        (queued,) = queue.models()
        assert queued.is_new
        assert queued.commitment == changed
        (record,) = ScoreHistory(session).since(now() - timedelta(hours=1), 10)
        # the score is of what was handed out, and does not count for the new version
        assert (record.model, record.block) == (model(2).model, 102)
        assert ScoreHistory(session).latest() == {}


def test_registering_again_changes_nothing_but_the_uid(store: Store) -> None:
    fill(store, 1)
    scored(store, 2, 0.5)
    with store.writing() as session:
        queue = ModelQueue(session, NETUID)
        assert not queue.register(2, model(2), now())
        assert not queue.models()[0].is_new
        assert queue.register(2, ModelCommitment(miner(2), 600, model(2).model), now())
        assert queue.models()[0].is_new


def test_whoever_leaves_the_metagraph_leaves_the_queue(store: Store) -> None:
    fill(store, 2)
    with store.writing() as session:
        Metagraph(session, NETUID).sync(2000, neurons(1))
        queue = ModelQueue(session, NETUID)
        assert [found.uid for found in queue.models()] == [2]
        assert queue.take("voicebench", ME) is not None
        assert queue.take("voicebench", ME) is None


def test_a_refusal_is_kept_until_the_miner_commits_a_model(store: Store) -> None:
    fill(store, 0)
    with store.writing() as session:
        Metagraph(session, NETUID).sync(2000, neurons(1))
        queue = ModelQueue(session, NETUID)
        queue.refuse(Refusal(miner(2), 2, 10, "gar\x00bage", "because"))
        queue.refuse(Refusal(miner(2), 2, 11, "garbage", "because of this"))
        assert [refusal.reason for refusal in queue.refusals()] == ["because of this"]
        queue.register(2, model(2), now())
        assert queue.refusals() == []


# -- competitions -----------------------------------------------------------------------------------------------------


def test_competitions_take_turns(store: Store) -> None:
    with store.writing() as session:
        Metagraph(session, NETUID).sync(1000, neurons(9))
        for name in ("o1", "v2v", "voicebench"):
            Competitions(session).add(name, 1.0, "test")
        for uid in range(2, 11):
            ModelQueue(session, NETUID).register(uid, model(uid, ["o1", "v2v", "voicebench"][uid % 3]), now())
    turns = []
    for _ in range(6):
        with store.writing() as session:
            taken = take_next_model(session, ME)
            assert taken is not None
            turns.append(taken.competition_id)
    assert turns == ["o1", "v2v", "voicebench"] * 2
    with store.writing() as session:
        Competitions(session).archive("v2v", "test")
        assert take_next_model(session, ME, {"v2v"}) is None
        assert [take_next_model(session, ME) is not None for _ in range(3)] == [True, True, False]


def test_a_model_that_was_just_given_back_comes_after_the_others(store: Store) -> None:
    fill(store, 2)
    handed_out = []
    for _ in range(6):
        with store.writing() as session:
            taken = take_next_model(session, ME)
            assert taken is not None
            handed_out.append(taken.uid)
            opened = Scorings(session).open("local:0", ME, taken)
            assert opened is not None
            ModelQueue(session, NETUID).release(taken.commitment.hotkey, ME, taken.taken_at)
            if len(handed_out) == 1:
                Scorings(session).finish(opened, ScoringState.RELEASED, None, "the judge does not answer")
            else:
                Scorings(session).finish(opened, ScoringState.SCORED, 0.5, None)
    # both are new; the first was given back, so the other has every turn for a while
    assert set(handed_out[1:]) == {5 - handed_out[0]}


def test_baselines_are_history_and_changes_are_logged(store: Store) -> None:
    with store.writing() as session:
        competitions = Competitions(session)
        competitions.add("v1", 0.7, "ann")
        competitions.set_baseline("v1", 0.5, "bob")
        competitions.set_baseline("v1", 0.6, "carl")
        competitions.archive("v1", "dora")
        with pytest.raises(UnknownCompetition, match="v1"):
            competitions.set_baseline("v1", 0.7, "eve")
        competitions.add("v1", 0.8, "fay")
        with pytest.raises(ValidatorError, match="runs already"):
            competitions.add("v1", 0.9, "gus")
        (record,) = competitions.all()
        assert (record.reward_percentage, record.baseline and record.baseline.score) == (0.8, 0.6)
        log = [(c.changed_by, c.action, c.detail) for c in competitions.changes()]
    assert log == [
        ("fay", "add", "share 0.8, 100.0 % of all rewards"),
        ("dora", "archive", ""),
        ("carl", "set-baseline", "0.6"),
        ("bob", "set-baseline", "0.5"),
        ("ann", "add", "share 0.7, 100.0 % of all rewards"),
    ]


# -- standings, weights, reputation -----------------------------------------------------------------------------------


def test_standings_weigh_penalise_and_catch_copies(store: Store) -> None:
    fill(store, 4)
    with store.writing() as session:
        queue = ModelQueue(session, NETUID)
        queue.register(5, model(5, digest="hash2"), now())
        queue.note_repository(miner(3), model(3).model, now())
        queue.note_repository(miner(2), model(2).model, now() - timedelta(days=9))
    scored(store, 2, 0.8)
    scored(store, 2, 0.4, by=OTHER)
    scored(store, 3, 0.9)
    scored(store, 5, 0.9)
    with store.reading() as session:
        standings = {standing.model.uid: standing for standing in model_standings(session, SEED)}
    assert standings[2].score == pytest.approx((0.8 * 30 + 0.4 * 90) / 120)
    assert standings[3].score == 0.001
    assert standings[3].is_penalised
    assert standings[4].score is None
    assert standings[5].score == 0.0
    assert standings[5].is_copy


def test_a_zero_is_not_lifted_to_the_penalty(store: Store) -> None:
    fill(store, 1)
    scored(store, 2, 0.0)
    with store.writing() as session:
        ModelQueue(session, NETUID).note_repository(miner(2), model(2).model, now())
        (standing,) = model_standings(session, SEED)
    assert standing.score == 0.0


def test_weights_from_the_store_and_their_ema(store: Store) -> None:
    fill(store, 2)
    scored(store, 2, 0.9)
    with store.writing() as session:
        Competitions(session).set_baseline("voicebench", 0.5, "test")
        settings = get_settings().model_copy(update={"netuid": NETUID})
        first = incentive_now(session, settings)
        WeightRounds(session).keep(weight_round("2026-11-22T01:20", first))
        WeightRounds(session).keep(weight_round("2026-11-22T01:20", first))
        assert first.weights[2] == pytest.approx(1.0)
        assert WeightRounds(session).previous()[miner(2)] == pytest.approx(1.0)
    scored(store, 3, *[0.9])
    with store.writing() as session:
        second = incentive_now(session, settings)
        # new: 2 and 3 half each; 0.9·1 + 0.1·0.5 = 0.95
        assert second.weights[2] == pytest.approx(0.95)
        WeightRounds(session).keep(weight_round("2026-11-22T01:40", second))
        submissions = WeightSubmissions(session)
        submissions.settle(submissions.begin(NETUID, mark="2026-11-22T01:40").id, WeightsState.SET, "in block 7")
        (latest,) = WeightRounds(session).latest()
        assert (latest.mark, latest.state, latest.pools["voicebench"]["above"]) == (
            "2026-11-22T01:40",
            WeightsState.SET,
            [2, 3],
        )
        moved = [n for n in neurons(2) if n.uid != 3]
        Metagraph(session, NETUID).sync(1001, moved)
        registered = Metagraph(session, NETUID).read().hotkeys
        assert set(by_uid(latest.by_hotkey, {hotkey: uid for uid, hotkey in registered.items()})) == {2}
        submissions.begin(NETUID, mark="2026-11-22T01:20")
        assert WeightRounds(session).delete_before(now() + timedelta(days=1), 10) == 1
        assert submissions.at("2026-11-22T01:20") is None
        assert submissions.at("2026-11-22T01:40") is not None
        assert WeightRounds(session).previous()[miner(2)] == pytest.approx(0.95)


def test_reputation_steps_once_a_day(store: Store) -> None:
    fill(store, 3)
    scored(store, 2, 0.9)
    scored(store, 3, 0.1)
    with store.writing() as session:
        assert reputation_steps(session, SEED, "2026-11-22") == []
        Competitions(session).set_baseline("voicebench", 0.5, "test")
        Reputations(session).step(reputation_steps(session, SEED, "2026-11-22"))
        assert reputation_steps(session, SEED, "2026-11-22") == []
        Reputations(session).step(reputation_steps(session, SEED, "2026-11-23"))
        found = {hotkey: record.reputation for hotkey, record in Reputations(session).all().items()}
        assert found == pytest.approx({miner(2): 0.5025 * 0.995 + 0.005, miner(3): 0.4975 * 0.995})
        assert [step.day for step in Reputations(session).history(miner(2))] == ["2026-11-22", "2026-11-23"]


def test_reputations_of_the_departed_are_kept_for_thirty_days(store: Store) -> None:
    fill(store, 3)
    with store.writing() as session:
        Competitions(session).set_baseline("voicebench", 0.5, "test")
    for uid in (2, 3, 4):
        scored(store, uid, 0.9)
    with store.writing() as session:
        Reputations(session).step(reputation_steps(session, SEED, "2026-11-22"))
        for uid, left in ((2, timedelta(days=31)), (3, timedelta(days=30, minutes=1)), (4, timedelta(days=29))):
            session.execute(
                update(ReputationRow).where(ReputationRow.hotkey == miner(uid)).values(registered_at=now() - left)
            )
        assert Reputations(session).note_registered([miner(2)], timedelta(days=30)) == 1
        assert set(Reputations(session).all()) == {miner(2), miner(4)}
        assert Reputations(session).history(miner(3)) == []


def test_marks_are_twenty_minutes_apart() -> None:
    instant = NOW.replace(hour=3)
    assert [mark_of(instant.replace(minute=m))[-5:] for m in (0, 19, 20, 59)] == ["03:00", "03:00", "03:20", "03:40"]


# -- callers and scorings ---------------------------------------------------------------------------------------------


def test_a_signature_is_used_once_however_many_try(store: Store) -> None:
    def use(_: int) -> bool:
        with store.writing() as session:
            return Callers(session).use_signature("digest", now() + timedelta(minutes=1))

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(use, range(16))) == 1


def test_requests_are_counted_per_hotkey_and_forgotten(store: Store) -> None:
    def count(_: int) -> int:
        with store.writing() as session:
            return Callers(session).count_request("me")

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(count, range(8))) == list(range(1, 9))
    with store.writing() as session:
        assert Callers(session).count_request("another") == 1
        Callers(session).use_signature("old", now() - timedelta(seconds=1))
        Callers(session).use_signature("valid", now() + timedelta(minutes=1))
        assert Callers(session).forget_old() == 1
        assert not Callers(session).use_signature("valid", now() + timedelta(minutes=1))


def test_a_scorer_works_on_one_model_at_a_time(store: Store) -> None:
    fill(store, 4)

    def begin(_: int) -> int | None:
        with store.writing() as session:
            taken = ModelQueue(session, NETUID).take("voicebench", ME)
            assert taken is not None
            return Scorings(session).open("http://gpu", ME, taken)

    with ThreadPoolExecutor(4) as pool:
        opened = [found for found in pool.map(begin, range(4)) if found is not None]
    assert len(opened) == 1
    with store.writing() as session:
        scorings = Scorings(session)
        assert scorings.idle(["http://gpu", "http://other"]) == ["http://other"]
        scorings.finish(opened[0], ScoringState.RELEASED, None, "x" * 5000)
        assert scorings.idle(["http://gpu"]) == ["http://gpu"]
        assert scorings.resting("http://gpu", timedelta(minutes=1)) == {"voicebench"}
        assert scorings.resting("http://other", timedelta(minutes=1)) == set()
        assert scorings.resting("http://gpu", timedelta(0)) == set()
        scorings.finish(opened[0], ScoringState.SCORED, 0.5, None)
        found = scorings.get(opened[0])
        assert found is not None
        assert found.state is ScoringState.RELEASED
