"""The profiles: what a validator does beside the document's, and beside OMEGA's own."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from app.clock import now
from app.competitions.benchmarks import capability, plan_of, scorable
from app.competitions.profile import OMEGA_V4, SEED, alpha_of
from app.competitions.standings import incentive_now, model_standings, weight_round
from app.domain import ReportedScore
from app.settings import Settings
from app.store.capabilities import Capabilities
from app.store.competitions import Competitions, GivenBenchmark
from app.store.database import Store
from app.store.reputations import WeightRounds
from chain.incentive.models import latest_score
from chain.model_metadata import UnreadableMetadata, parse_model_id
from tests.app.competitions.competition_fixtures import SECOND, fill, scored

on_sqlite = pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)

OMEGA = {"competition_profile": "omega-v4"}


def settings(**values: Any) -> Settings:
    return Settings(_env_file=None, netuid=21, **values)


# -- one report counts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reports", "score", "by"),
    [
        ([("a", 0.5), ("b", 0.9)], 0.5, "a"),
        ([("a", 0.0), ("b", 0.9), ("a", 0.2)], 0.9, "b"),
        ([("gone", 0.5), ("b", 0.9)], 0.9, "b"),
        ([("a", 0.0), ("b", 0.0)], 0.0, "a"),
    ],
)
def test_the_latest_report_above_zero_counts_alone(reports: list[tuple[str, float]], score: float, by: str) -> None:
    found = latest_score([ReportedScore(*one) for one in reports], {"a": 1.0, "b": 99.0})
    assert found.score == score
    assert [(item.report.scorer, item.share) for item in found.reports] == [(by, 1.0)]


def test_without_a_report_there_is_no_score() -> None:
    assert latest_score([], {"a": 1.0}).score is None
    assert latest_score([ReportedScore("gone", 0.5)], {"a": 1.0}).score is None


@on_sqlite
def test_the_profiles_weigh_the_same_reports_differently(store: Store) -> None:
    fill(store, 1)
    scored(store, 2, 0.8)
    scored(store, 2, 0.4, by=SECOND.ss58_address)
    with store.reading() as session:
        (seed,), (omega,) = model_standings(session, SEED), model_standings(session, OMEGA_V4)
    # the stake-weighted mean of 30,000 and 90,000
    assert seed.score == pytest.approx(0.5)
    assert omega.score == 0.4


# -- the weights ------------------------------------------------------------------------------------------------------


def test_the_ema_is_off_unless_alpha_is_set() -> None:
    assert alpha_of(settings()) == 0.9
    assert alpha_of(settings(**OMEGA)) == 0.0
    assert alpha_of(settings(**OMEGA, alpha=0.5)) == 0.5
    assert alpha_of(settings(alpha=0.0)) == 0.0


def keep(store: Store, mark: str, **values: Any) -> None:
    with store.writing() as session:
        WeightRounds(session).keep(weight_round(mark, incentive_now(session, settings(**values))))


@on_sqlite
@pytest.mark.parametrize("baseline", [None, 0.0])
def test_without_a_baseline_above_zero_the_last_weights_are_sent_again(store: Store, baseline: float | None) -> None:
    fill(store, 3)
    scored(store, 2, 0.9)
    with store.writing() as session:
        Competitions(session).set_baseline("voicebench", 0.5, "test")
    keep(store, "2026-11-22T01:00", **OMEGA)
    with store.writing() as session:
        if baseline is None:
            Competitions(session).add("v4", 1.0, "test")
        else:
            Competitions(session).set_baseline("voicebench", baseline, "test")
    scored(store, 3, 0.95)
    with store.reading() as session:
        last = WeightRounds(session).previous()
        found = incentive_now(session, settings(**OMEGA))
        assert found.by_hotkey == pytest.approx(last)
        assert "has no baseline above 0: the last round's weights are sent again" in found.warnings[0]
        # the document's rule goes on with what has one
        assert incentive_now(session, settings()).by_hotkey != pytest.approx(last)


@on_sqlite
def test_an_empty_store_burns_nothing(store: Store) -> None:
    fill(store, 3)
    with store.writing() as session:
        Competitions(session).set_baseline("voicebench", 0.5, "test")
    with store.reading() as session:
        found = incentive_now(session, settings(**OMEGA, burn_uid=2))
        assert found.weights == {}
        assert incentive_now(session, settings(burn_uid=2)).weights == {0: 0.0, 1: 0.0, 2: 1.0, 3: 0.0, 4: 0.0}


# -- commitments ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["a:b:1:c:h:v4:seventh", "a:b:1:c:h:v4:7:8:9"])
def test_further_fields_are_ignored_where_the_profile_does(text: str) -> None:
    assert parse_model_id(text, open_ended=True) == parse_model_id("a:b:1:c:h:v4")
    with pytest.raises(UnreadableMetadata, match="fields, not 6"):
        parse_model_id(text)


@pytest.mark.parametrize("epoch", ["None", ""])
def test_an_epoch_must_be_named_where_the_profile_wants_it(epoch: str) -> None:
    assert parse_model_id(f"a:b:{epoch}:c:h:v4").epoch is None
    with pytest.raises(UnreadableMetadata, match="names no epoch"):
        parse_model_id(f"a:b:{epoch}:c:h:v4", open_ended=True)
    with pytest.raises(UnreadableMetadata, match="5 fields"):
        parse_model_id("a:b:1:c:h", open_ended=True)


# -- benchmarks -------------------------------------------------------------------------------------------------------


@on_sqlite
def test_an_id_maps_to_a_benchmark_of_the_operator_or_of_the_profile(store: Store) -> None:
    with store.writing() as session:
        for name in ("v4", "mine", "voicebench"):
            Competitions(session).add(name, 1.0, "test")
        Competitions(session).set_benchmark("mine", GivenBenchmark("v2v", {"voice_share": 0.5}), "test")

        def name(one: str, **values: Any) -> str | None:
            plan = plan_of(session, settings(**values), one)
            return plan and plan.name

        assert [name(one) for one in ("v4", "mine", "voicebench", "other")] == [None, "v2v", "voicebench", None]
        assert [name(one, **OMEGA) for one in ("v4", "mine", "other")] == ["voicebench+mos", "v2v", None]
        Competitions(session).set_benchmark("v4", GivenBenchmark("o1", {}), "test")
        assert name("v4", **OMEGA) == "o1"
        Competitions(session).set_benchmark("v4", None, "test")
        assert name("v4", **OMEGA) == "voicebench+mos"


def test_the_profile_s_plans_can_be_carried_out() -> None:
    for profile in (SEED, OMEGA_V4):
        for plan in profile.benchmarks.values():
            plan.parameters()


@on_sqlite
def test_a_node_knows_what_its_workers_found(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with store.writing() as session:
        here = settings()
        assert "has no benchmark here" in (capability(session, here, "v9").objection or "")
        unknown = capability(session, here, "v2v")
        assert (unknown.objection, unknown.checked_at) == (None, None)
        Capabilities(session).note("v2v", "v2v", "ASR_MODEL: no such folder")
        Capabilities(session).note("o1", "o1", None)
        session.flush()
        assert capability(session, here, "v2v").objection == "ASR_MODEL: no such folder"
        assert capability(session, here, "o1").checked_at is not None
        assert scorable(session, here, {"v2v", "o1", "v9", "voicebench"}) == {"o1", "voicebench"}
        # another benchmark since: nothing is known of it
        Competitions(session).add("v2v", 1.0, "test")
        Competitions(session).set_benchmark("v2v", GivenBenchmark("o1", {}), "test")
        assert capability(session, here, "v2v").objection is None
    later = now() + timedelta(hours=4)
    monkeypatch.setattr("app.competitions.benchmarks.now", lambda: later)
    with store.reading() as session:
        assert capability(session, here, "o1").checked_at is None
