"""What the pages read of the competitions, on both databases."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import update

from app.clock import now
from app.competitions.standings import take_next_model
from app.store.competitions import Competitions, UnknownCompetition
from app.store.database import Store
from app.store.model_queue import ModelQueue, Refusal, ScoreHistory
from app.store.reputations import WeightRound, WeightRounds
from app.store.scorings import Scorings
from app.store.tables.competitions import WeightRoundRow
from app.store.weight_submissions import WeightsState, WeightSubmissions
from tests.app.competitions.competition_fixtures import NETUID, VALIDATOR, fill, miner, scored


def test_a_competition_its_baselines_in_order_and_one_that_never_was(store: Store) -> None:
    with store.writing() as session:
        competitions = Competitions(session)
        for name in ("o1", "voicebench"):
            competitions.add(name, 0.5, "ann")
        for score in (0.4, 0.6, 0.5):
            competitions.set_baseline("o1", score, "ann")
        competitions.set_baseline("voicebench", 0.1, "ann")
        competitions.archive("o1", "ann")
    with store.reading() as session:
        found = Competitions(session).get("o1")
        assert found.archived_at is not None
        assert found.baseline is not None
        assert found.baseline.score == 0.5
        assert [baseline.score for baseline in Competitions(session).baselines("o1")] == [0.4, 0.6, 0.5]
        with pytest.raises(UnknownCompetition, match="'o2'"):
            Competitions(session).get("o2")


def test_scores_of_one_miner_and_of_one_competition_newest_first(store: Store) -> None:
    fill(store, 2)
    scored(store, 2, 0.1, 0.2, 0.3)
    scored(store, 3, 0.9)
    scored(store, 3, 0.8, days_ago=9)
    with store.reading() as session:
        history = ScoreHistory(session)
        assert [record.score for record in history.of_miner(miner(2), 2)] == [0.3, 0.2]
        week = now() - timedelta(days=7)
        assert [record.score for record in history.of_competition("voicebench", week, 3)] == [0.9, 0.3, 0.2]
        assert history.of_competition("o1", week, 3) == []


def test_a_refusal_says_when(store: Store) -> None:
    before = now()
    with store.writing() as session:
        ModelQueue(session, NETUID).refuse(Refusal(miner(2), 2, 10, "garbage", "because"))
    with store.reading() as session:
        (refusal,) = ModelQueue(session, NETUID).refusals()
    assert refusal.refused_at is not None
    assert before <= refusal.refused_at <= now()


def test_scorings_of_one_miner(store: Store) -> None:
    fill(store, 3)
    with store.writing() as session:
        for scorer in ("a", "b", "c"):
            taken = take_next_model(session, VALIDATOR.ss58_address)
            assert taken is not None
            Scorings(session).open(scorer, VALIDATOR.ss58_address, taken)
    with store.reading() as session:
        (scoring,) = Scorings(session).of_miner(miner(3))
    assert scoring.uid == 3


def test_rounds_before_an_instant_and_who_held_which_uid(store: Store) -> None:
    at = now()
    with store.writing() as session:
        rounds = WeightRounds(session)
        for hours in (3, 2, 1):
            weights = {2: 0.75, 3: 0.25}
            by_hotkey = {f"owner{hours}": 0.75, "other": 0.25}
            rounds.keep(WeightRound(f"mark{hours}", weights, by_hotkey, {}, [], []))
            session.execute(
                update(WeightRoundRow)
                .where(WeightRoundRow.mark == f"mark{hours}")
                .values(computed_at=at - timedelta(hours=hours))
            )
        submissions = WeightSubmissions(session)
        submissions.settle(submissions.begin(21, mark="mark1").id, WeightsState.SET, "block 5")
    with store.reading() as session:
        rounds = WeightRounds(session)
        assert [found.mark for found in rounds.before(at - timedelta(minutes=90), 5)] == ["mark2", "mark3"]
        (latest,) = rounds.latest()
    assert latest.hotkeys == {2: "owner1", 3: "other"}
    assert latest.finished_at is not None
