"""The one judgement: each combination of evidence has its condition; page, metrics and healthcheck agree."""

from __future__ import annotations

import html
import itertools
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import update
from typer.testing import CliRunner

from app import judgement
from app.api.application import create_app
from app.api.metrics import ClusterState
from app.api.pages import home
from app.cli import cli
from app.domain import MODELS_NETUID, MOLECULES_NETUID, QueueName
from app.judgement import Cluster, Condition, Evidence, Part, judge
from app.observability.broker import LiveWorker, QueueDepth
from app.settings import get_settings
from app.store.database import Store
from app.store.epoch_views import EpochLine
from app.store.records import EpochSummary, PartState, Stage
from app.store.tables.epochs import EpochRow
from app.store.weight_submissions import WEIGHTS_FINE, WEIGHTS_TROUBLE, LastWeights, WeightsState
from app.weights import ReadVerdict
from chain.weights import WeightsParameters, WeightsVerdict
from tests.app.page_stores import full_epoch

AT = datetime(2026, 11, 26, 12, tzinfo=UTC)
DEPTHS = dict.fromkeys(QueueName, QueueDepth(0, 0))
EVERYONE = tuple(LiveWorker(f"{name}@here", (name.value,)) for name in QueueName)
GOOD, BAD, DOUBT = Condition.HEALTHY, Condition.TROUBLE, Condition.UNKNOWN


def line(
    stage: Stage = Stage.DONE,
    *,
    live: bool = True,
    minutes: float = 20,
    counts: Mapping[PartState, int] | None = None,
    number: int = 19_000,
) -> EpochLine:
    at = AT - timedelta(minutes=minutes)
    summary = EpochSummary(
        id=1, run="r", cluster="c", netuid=68, number=number, scores="model", publishes=live, stage=stage, error=None,
        psichic_winner=None, boltz_winner=None, weights=None, created_at=at, touched_at=at, closed_at=None,
        stage_times={},
    )  # fmt: skip
    return EpochLine(summary, counts or {}, None, None)


def read(*, objections: tuple[str, ...] = (), unknown: tuple[str, ...] = (), minutes: float = 5) -> ReadVerdict:
    parameters = WeightsParameters(MOLECULES_NETUID, "5F", 1, uid=3)
    return ReadVerdict(WeightsVerdict(parameters, objections, unknown), AT - timedelta(minutes=minutes))


def last(state: WeightsState, hours: float = 0) -> LastWeights:
    return LastWeights("epoch 19000", state, None, AT - timedelta(hours=hours), None)


# each part alone: what is known of it, and the condition that follows
CLUSTERS = {
    "served": (Cluster(DEPTHS, EVERYONE), GOOD),
    "slow broker": (Cluster(None, None), DOUBT),
    "dead broker": (Cluster(None, None, "ConnectionError: refused"), BAD),
    "slow workers": (Cluster(DEPTHS, None), DOUBT),
    "no gpu": (Cluster(DEPTHS, EVERYONE[:2]), BAD),
    "no worker": (Cluster(DEPTHS, ()), BAD),
}
EPOCHS: dict[str, tuple[tuple[EpochLine, ...], Condition]] = {
    "none": ((), DOUBT),
    "first one runs": ((line(Stage.SCORING),), DOUBT),
    "one runs": ((line(Stage.SCORING), line()), GOOD),
    "done": ((line(),), GOOD),
    "only a replay": ((line(live=False),), DOUBT),
    "a failed replay": ((line(Stage.FAILED, live=False), line()), GOOD),
    "a refused replay": ((line(live=False, counts={PartState.REJECTED: 5}), line()), GOOD),
    "failed": ((line(Stage.FAILED), line()), BAD),
    "missed": ((line(), line(Stage.MISSED)), BAD),
    "late": ((line(Stage.SCORING, minutes=61), line()), BAD),
    "all refused": ((line(counts={PartState.REJECTED: 5}),), BAD),
    "few refused": ((line(counts={PartState.REJECTED: 4}),), GOOD),
    "some valid": ((line(counts={PartState.REJECTED: 50, PartState.VALID: 1}),), GOOD),
}
WEIGHTS: dict[str, tuple[LastWeights | None, Condition]] = {
    "none": (None, DOUBT),
    "replayed": (last(WeightsState.RECORDED), DOUBT),
    **{state.value: (last(state), GOOD) for state in WEIGHTS_FINE},
    **{f"old {state.value}": (last(state, 4.1), BAD) for state in (WeightsState.SET, WeightsState.SENT)},
    **{state.value: (last(state), BAD) for state in WEIGHTS_TROUBLE},
    **{s.value: (last(s), DOUBT) for s in (WeightsState.COMPUTED, WeightsState.SENT, WeightsState.INCLUDED)},
}
VERDICTS: dict[str, tuple[ReadVerdict | None, Condition]] = {
    "never asked": (None, DOUBT),
    "accepted": (read(), GOOD),
    "no permit": (read(objections=("no permit",)), BAD),
    "old refusal": (read(objections=("no stake",), minutes=90), BAD),
    "runtime does not tell": (read(unknown=("the stake threshold",)), DOUBT),
    "old": (read(minutes=60), DOUBT),
}

ALL = list(itertools.product(CLUSTERS.items(), EPOCHS.items(), WEIGHTS.items(), VERDICTS.items()))


def evidence(**changed: Any) -> Evidence:
    found = Evidence(
        cluster=CLUSTERS["served"][0],
        netuid=MOLECULES_NETUID,
        live=True,
        sets_weights=True,
        recent=EPOCHS["done"][0],
        done_at=AT - timedelta(minutes=20),
        last_weights=last(WeightsState.SET),
        round_at=None,
        verdict=read(),
        at=AT,
    )
    return replace(found, **changed)


def test_every_combination_is_trouble_before_doubt_and_doubt_before_health() -> None:
    assert len(ALL) == len(CLUSTERS) * len(EPOCHS) * len(WEIGHTS) * len(VERDICTS)
    assert {state for _, (found, _) in WEIGHTS.items() if found for state in [found.state]} == set(WeightsState)
    for combination in ALL:
        names = [name for name, _ in combination]
        (cluster, recent, weights, verdict), expected = zip(*(found for _, found in combination), strict=True)
        judged = judge(evidence(cluster=cluster, recent=recent, last_weights=weights, verdict=verdict))
        whole = BAD if BAD in expected else DOUBT if DOUBT in expected else GOOD
        assert judged.condition is whole, names
        assert judged.of(Part.EPOCHS) is expected[1], names
        assert judged.of(Part.WEIGHTS) is expected[2], names
        assert judged.of(Part.ACCEPTANCE) is expected[3], names
        assert all(finding.reason.strip() for finding in judged.findings)
        # the page shows them one after the other
        assert all(reason.endswith(".") for reason in judged.reasons(GOOD)), names
        assert judged.reasons(whole), "a condition without a reason"


def test_a_fresh_cluster_is_not_known_yet() -> None:
    fresh = evidence(cluster=Cluster(None, None), recent=(), last_weights=None, verdict=None, done_at=None)
    for live in (True, False):
        judged = judge(replace(fresh, live=live))
        assert judged.condition is DOUBT
        assert "The workers have not answered yet." in judged.reasons(DOUBT)
        assert not judged.reasons(BAD)


def test_a_replaying_cluster_is_healthy_without_weights_of_its_own() -> None:
    replay = evidence(live=False, recent=(line(live=False),), last_weights=None, verdict=None, done_at=None)
    assert judge(replay).condition is GOOD
    assert judge(replay).of(Part.WEIGHTS) is None


def test_nothing_for_hours_is_trouble() -> None:
    assert judge(evidence(done_at=AT - timedelta(hours=4))).of(Part.EPOCHS) is BAD


def test_weights_that_are_not_to_be_set_ask_for_no_verdict() -> None:
    judged = judge(evidence(sets_weights=False, verdict=None, last_weights=last(WeightsState.NOT_SET)))
    assert (judged.condition, judged.of(Part.ACCEPTANCE)) == (GOOD, None)


def sampled(name: str) -> dict[tuple[str, ...], float]:
    return {
        tuple(sample.labels.values()): sample.value
        for family in ClusterState().collect()
        for sample in family.samples
        if sample.name == name
    }


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("sets_weights", [True, False])
@pytest.mark.parametrize("name", VERDICTS)
def test_the_alert_on_refused_weights_says_what_the_page_says(
    name: str, sets_weights: bool, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdict, condition = VERDICTS[name]
    found = evidence(verdict=verdict, sets_weights=sets_weights)
    for module in (home, __import__("app.api.metrics", fromlist=["gather"])):
        monkeypatch.setattr(module, "gather", lambda *_: found)
        monkeypatch.setattr(module, "cluster", lambda *_: found.cluster)
    fires = sampled("validator_condition").get(("acceptance", "trouble"), 0.0) == 1
    assert fires == (sets_weights and condition is BAD)
    known = {GOOD: [1.0], BAD: [0.0], DOUBT: []}[condition] if sets_weights else []
    assert list(sampled("validator_weights_accepted").values()) == known
    with TestClient(create_app()) as client:
        page = client.get("/", headers={"Accept": "text/html"}).text
    shown = page.split('id="acceptance"')[1].split("<h2")[0].split("<details>")[0]
    assert ("badge bad" in shown) == fires
    assert ("badge good" in shown) == (sets_weights and condition is GOOD)


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
def test_many_replays_do_not_hide_the_live_epochs(store: Store) -> None:
    first = full_epoch(store, 2, 2, number=1)
    for number in range(2, 8):
        full_epoch(store, 2, 2, number=number)
    with store.writing() as session:
        session.execute(update(EpochRow).where(EpochRow.id != first).values(publishes=False))
    with store.reading() as session:
        found = judgement.gather(session, get_settings(), CLUSTERS["served"][0])
    assert found.live
    assert [line.live for line in found.judged] == [True]
    assert "No live epoch has ended here yet." not in judge(found).reasons(DOUBT)


@pytest.mark.parametrize(
    ("minutes", "condition"), [(None, DOUBT), (10.0, GOOD), (90.0, BAD)], ids=["none", "a new one", "an old one"]
)
def test_the_models_subnet_is_judged_by_its_rounds(minutes: float | None, condition: Condition) -> None:
    at = None if minutes is None else AT - timedelta(minutes=minutes)
    judged = judge(evidence(netuid=MODELS_NETUID, recent=(), done_at=None, round_at=at))
    assert judged.of(Part.EPOCHS) is condition


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("name", CLUSTERS)
def test_page_metrics_and_healthcheck_agree(name: str, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = CLUSTERS[name]
    for module in (home, judgement, __import__("app.api.metrics", fromlist=["cluster"])):
        monkeypatch.setattr(module, "cluster", lambda *_: found)
    with TestClient(create_app()) as client:
        said = client.get("/now.json").json()
        page = client.get("/", headers={"Accept": "text/html"}).text
    assert said["condition"] != "healthy", "no epoch has ended"
    assert f">{said['condition']}<" in page
    assert all(
        html.escape(one["reason"], quote=False) in page for one in said["findings"] if one["condition"] != "healthy"
    )
    assert ">healthy<" not in page
    asked = CliRunner().invoke(cli, ["healthcheck", "validator"])
    assert asked.exit_code == {"trouble": 1, "not known yet": 3}[said["condition"]], asked.output
    samples = sampled("validator_condition")
    by_part = {finding["part"]: finding["condition"] for finding in said["findings"]}
    names = {"healthy": "healthy", "trouble": "trouble", "not known yet": "unknown"}
    assert {part for (part, condition), one in samples.items() if one} == set(by_part)
    assert all(samples[part, names[condition]] == 1 for part, condition in by_part.items())
