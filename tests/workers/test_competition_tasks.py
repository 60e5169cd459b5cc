"""The model competitions' jobs: chain → queue → scorers → history → weights → chain."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from celery.exceptions import Retry
from celery.schedules import crontab
from sqlalchemy import select, update

import beat_schedule
import workers.weights
from app.celery import ROUTES
from app.celery import app as celery_app
from app.clock import now
from app.competitions.model_folders import model_folder
from app.competitions.profile import SEED
from app.competitions.standings import model_standings
from app.domain import Commitment, Neuron, QueueName, ValidatorError
from app.observability.task_arguments import short_name
from app.settings import Settings, get_settings
from app.store.competitions import Competitions
from app.store.database import Store, get_store
from app.store.evaluations import EvaluationEnd, EvaluationInputs, EvaluationPhase, Evaluations
from app.store.metagraph import Metagraph
from app.store.model_queue import ModelQueue, PostedScore, ScoreHistory, ScoreRecord
from app.store.reputations import Reputations, WeightRound, WeightRounds
from app.store.scorings import Scoring, Scorings, ScoringState
from app.store.tables.competitions import ModelRow, ModelScoringRow
from app.store.tables.work import WorkRow
from app.store.weight_submissions import WeightsState
from app.task import Step
from chain.hotkey import KeypairSigner
from chain.model_chain import ChainMetagraph, SubtensorModelChain
from chain.subtensor import ChainUnavailable, Subtensor
from tests.app.competitions.competition_fixtures import NETUID, VALIDATOR, fill, miner, model, neurons, scored
from tests.app.store.evaluation_claims import begun, finished
from tests.chain.fake_subtensor import FakeChain, FakeNode
from tests.chain.nodes import KeyedWallet, subnet
from tests.chain.scoring_node import ScoringNode
from workers import competitions as jobs
from workers import upkeep

on_sqlite = pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)


class MemoryChain:
    """A chain in memory."""

    def __init__(self, neurons: Sequence[Neuron], commitments: Mapping[int, tuple[int, str]]) -> None:
        self.neurons = tuple(neurons)
        self.committed = {miner(uid): Commitment(miner(uid), block, text) for uid, (block, text) in commitments.items()}
        self.block = 1000
        self.fault: ValidatorError | None = None

    def current_block(self) -> int:
        self._check()
        return self.block

    def metagraph(self, netuid: int) -> ChainMetagraph:
        assert netuid == NETUID
        self._check()
        return ChainMetagraph(self.block, self.neurons)

    def commitments(self, netuid: int) -> Sequence[Commitment]:
        self._check()
        return list(self.committed.values())

    def _check(self) -> None:
        if self.fault is not None:
            raise self.fault


@pytest.fixture
def setting(monkeypatch: pytest.MonkeyPatch, store_url: str) -> Callable[..., None]:
    """Changes settings by their environment variables."""

    def change(**values: object) -> None:
        for name, value in values.items():
            monkeypatch.setenv(name.upper(), str(value))
        get_settings.cache_clear()

    change(netuid=NETUID)
    return change


@pytest.fixture(autouse=True)
def own_hotkey(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "own_signer", lambda: KeypairSigner(VALIDATOR))


@pytest.fixture
def chain(store: Store, setting: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> MemoryChain:
    """A chain with four miners, one of each kind; the store knows the competition only."""
    with store.writing() as session:
        Competitions(session).add("voicebench", 1.0, "test")
    texts = {
        2: (102, model(2).model.text),
        3: (103, "not a model"),
        4: (1000, model(4).model.text),
        5: (105, model(5, "nope").model.text),
    }
    found = MemoryChain(neurons(4), texts)
    monkeypatch.setattr(jobs, "open_chain", lambda: found)
    return found


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """Messages that would go to the broker; tests/cluster sends them for real."""
    messages: list[tuple[str, Any]] = []
    monkeypatch.setattr(
        Step, "deliver", lambda step: messages.extend((short_name(one.task), *one.args) for one in step._messages)
    )
    return messages


# -- the timetable ----------------------------------------------------------------------------------------------------


def test_every_job_of_the_document_is_in_the_timetable_of_subnet_21() -> None:
    timetable = beat_schedule.timetable(Settings(netuid=21, clean_period_minutes=7, update_delay_minutes=3))
    jobs_of = {entry["task"].removeprefix("workers.competitions."): entry["schedule"] for entry in timetable.values()}
    assert jobs_of["sync_metagraph"] == timedelta(minutes=5)
    assert jobs_of["update_models"] == timedelta(minutes=3)
    assert jobs_of["clean_models"] == timedelta(minutes=7)
    assert jobs_of["release_stale"] == timedelta(minutes=1)
    assert jobs_of["score_next_models"] <= timedelta(minutes=1)
    assert jobs_of["set_model_weights"] == crontab(minute="0,20,40")
    assert "update_reputations" in jobs_of
    assert all("expires" in entry["options"] for entry in timetable.values())
    assert {entry["task"] for entry in timetable.values()} <= set(ROUTES)
    others = beat_schedule.timetable(Settings(netuid=68))
    assert not any(entry["task"].startswith("workers.competitions") for entry in others.values())


def test_whoever_writes_to_the_chain_is_on_its_queue() -> None:
    for task in ("sync_metagraph", "update_models", "set_model_weights"):
        assert ROUTES[f"workers.competitions.{task}"] is QueueName.CHAIN


# -- chain → store ----------------------------------------------------------------------------------------------------


def test_metagraph_and_commitments_come_into_the_store(
    chain: MemoryChain, store: Store, sent: list[tuple[str, Any]]
) -> None:
    assert jobs.sync_metagraph()["neurons"] == 6
    assert jobs.update_models() == {"status": "updated", "block": 1000, "new": 1, "known": 0, "refused": 3}
    assert sent == [("check_repository", miner(2))]
    with store.reading() as session:
        (queued,) = ModelQueue(session, NETUID).models()
        refusals = {refusal.uid: refusal.reason for refusal in ModelQueue(session, NETUID).refusals()}
        assert Metagraph(session, NETUID).read().block == 1000
    assert (queued.uid, queued.commitment, queued.is_new) == (2, model(2), True)
    assert timedelta(hours=2) < now() - queued.committed_at < timedelta(hours=4)
    assert "1 fields" in refusals[3]
    assert "0 s old" in refusals[4]
    assert "'nope'" in refusals[5]
    chain.block = 1001
    assert jobs.update_models()["new"] == 1
    assert jobs.update_models() == {"status": "updated", "block": 1001, "new": 0, "known": 2, "refused": 2}


def test_the_minimum_age_is_a_setting(chain: MemoryChain, setting: Callable[..., None], sent: list[Any]) -> None:
    setting(min_age="PT3H")
    jobs.sync_metagraph()
    assert jobs.update_models()["new"] == 0
    chain.block = 103 + 900
    assert jobs.update_models()["new"] == 1


@on_sqlite
def test_a_chain_that_is_away_is_logged_and_left_for_the_next_tick(
    chain: MemoryChain, store: Store, sent: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    jobs.sync_metagraph()
    chain.fault = ChainUnavailable("no endpoint answers")
    assert jobs.sync_metagraph()["status"] == "failed"
    assert jobs.update_models()["status"] == "failed"
    assert "no endpoint answers" in caplog.text
    with store.reading() as session:
        assert len(Metagraph(session, NETUID).read().neurons) == 6


@on_sqlite
def test_offline_never_asks_the_chain(
    chain: MemoryChain, setting: Callable[..., None], store: Store, sent: list[Any]
) -> None:
    setting(offline="true")
    chain.fault = ChainUnavailable("asked")
    fill_scores(store)
    assert jobs.sync_metagraph() == {"status": "offline"}
    assert jobs.update_models() == {"status": "offline"}
    assert submitted("m").state is WeightsState.NOT_SET


# -- Hugging Face -----------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(setting: Callable[..., None]) -> Iterator[dict[str, Any]]:
    """A Hugging Face hub on loopback: repository → createdAt, or a status code."""
    repositories: dict[str, Any] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.split("?")[0].removeprefix("/api/models/")
            found = repositories.get(name, 404)
            code = found if isinstance(found, int) else 200
            answer = {"id": name, "_id": "1", "createdAt": found} if code == 200 else {"error": "no"}
            content = json.dumps(answer).encode()
            self.send_response(code)
            if code == 404:
                self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    setting(hf_endpoint=f"http://127.0.0.1:{server.server_address[1]}")
    yield repositories
    server.shutdown()
    thread.join()
    server.server_close()


@on_sqlite
def test_a_repository_made_after_its_commitment_is_penalised(hub: dict[str, Any], store: Store) -> None:
    fill(store, 4)
    for uid in range(2, 6):
        scored(store, uid, 0.9)
    hub["maker/model2"] = "2020-01-01T00:00:00.000Z"
    hub["maker/model3"] = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.000Z}"
    hub["maker/model5"] = 500
    found = {uid: jobs.check_repository(miner(uid)) for uid in range(2, 6)}
    assert found[2] == {"status": "checked", "created_at": "2020-01-01T00:00:00+00:00"}
    assert found[4] == {"status": "checked", "created_at": None}
    assert found[5]["status"] == "failed"
    with store.reading() as session:
        scores = {standing.model.uid: standing.score for standing in model_standings(session, SEED)}
        checked = {queued.uid: queued.repository_checked_at for queued in ModelQueue(session, NETUID).models()}
    assert scores == {2: 0.9, 3: 0.001, 4: 0.9, 5: 0.9}
    assert checked[5] is None
    assert jobs.check_repository(miner(77)) == {"status": "gone"}


@on_sqlite
def test_a_hub_that_is_away_is_asked_again(setting: Callable[..., None], store: Store) -> None:
    fill(store, 1)
    setting(hf_endpoint="http://127.0.0.1:1")
    found = jobs.check_repository(miner(2))
    assert (found["status"], "maker/model2" in found["error"]) == ("failed", True)
    with store.reading() as session:
        assert ModelQueue(session, NETUID).models()[0].repository_checked_at is None


# -- scoring ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def nodes(store: Store, setting: Callable[..., None]) -> Iterator[list[ScoringNode]]:
    """Two GPU nodes, five models."""
    fill(store, 5)
    with ScoringNode(VALIDATOR.ss58_address) as one, ScoringNode(VALIDATOR.ss58_address) as two:
        setting(run_api="true", scoring_api_url=f"{one.url},{two.url}")
        yield [one, two]


def follow(scoring_id: int, trouble: int | None = None) -> float | None:
    """One run of the task; the pause (s) until it comes back. ``trouble``: so many failures went before."""
    mine = (WorkRow.task == jobs.follow_scoring.name) & (WorkRow.args == f"[{scoring_id}]")
    if trouble is not None:
        with get_store().writing() as session:
            session.execute(update(WorkRow).where(mine).values(attempts=trouble))
    try:
        assert jobs.follow_scoring(scoring_id)["status"] in {"ended", "done before"}
    except Retry:
        with get_store().reading() as session:
            due = session.execute(select(WorkRow.due_at).where(mine)).scalar_one()
        return (due - now()).total_seconds()
    return None


def scoring(store: Store, scoring_id: int) -> Scoring:
    with store.reading() as session:
        found = Scorings(session).get(scoring_id)
    assert found is not None
    return found


def history(store: Store) -> list[ScoreRecord]:
    with store.reading() as session:
        return ScoreHistory(session).since(now() - timedelta(days=1), 100)


def held(store: Store) -> list[int]:
    with store.reading() as session:
        return [queued.uid for queued in ModelQueue(session, NETUID).models() if queued.is_being_scored_by]


def age(store: Store, by: timedelta) -> None:
    """Let time pass for everything under scoring."""
    with store.writing() as session:
        for row in session.query(ModelScoringRow).all():
            row.taken_at -= by
            row.looked_at -= by
            row.started_at = row.started_at and row.started_at - by
        for taken in session.query(ModelRow).filter(ModelRow.taken_at.is_not(None)).all():
            assert taken.taken_at is not None
            taken.taken_at -= by


def test_two_scorers_work_side_by_side(nodes: list[ScoringNode], store: Store, sent: list[tuple[str, Any]]) -> None:
    opened = jobs.score_next_models()["opened"]
    assert len(opened) == 2
    assert jobs.score_next_models()["opened"] == []
    assert sent == [("follow_scoring", opened[0]), ("follow_scoring", opened[1])]
    assert all(follow(scoring_id) is not None for scoring_id in opened)
    uids = [scoring(store, scoring_id).uid for scoring_id in opened]
    assert [node.started[0]["hf_repo_id"] for node in nodes] == [f"maker/model{uid}" for uid in uids]
    assert sorted(held(store)) == sorted(uids)
    nodes[0].answer = {"status": "completed", "score": 0.75, "metric_scores": {"ifeval": 1.0}}
    assert follow(opened[0]) is None
    assert follow(opened[1]) is not None
    (record,) = history(store)
    assert (record.uid, record.score, record.metric_scores, record.error, record.scorer_hotkey) == (
        uids[0],
        0.75,
        {"ifeval": 1.0},
        None,
        VALIDATOR.ss58_address,
    )
    (again,) = jobs.score_next_models()["opened"]
    assert scoring(store, again).scorer == nodes[0].url
    # a message that comes twice does nothing twice
    assert follow(opened[0]) is None
    assert len(history(store)) == 1


@on_sqlite
@pytest.mark.parametrize("status", ["failed", "timeout"])
def test_a_failure_is_a_zero_with_its_error_kept(
    nodes: list[ScoringNode], store: Store, sent: list[Any], status: str
) -> None:
    first, _ = jobs.score_next_models()["opened"]
    follow(first)
    nodes[0].answer = {"status": status, "error": "the image does not build"}
    assert follow(first) is None
    (record,) = history(store)
    assert (record.score, record.error) == (0.0, "the image does not build")
    found = scoring(store, first)
    assert (found.state, found.score, found.error) == (ScoringState.FAILED, 0.0, "the image does not build")


@on_sqlite
def test_a_model_that_takes_too_long_gets_a_zero(nodes: list[ScoringNode], store: Store, sent: list[Any]) -> None:
    first, _ = jobs.score_next_models()["opened"]
    follow(first)
    age(store, timedelta(hours=1, minutes=58))
    assert follow(first) is not None
    age(store, timedelta(minutes=1))
    assert follow(first) is None
    (record,) = history(store)
    assert (record.score, record.error) == (0.0, "not scored within 2:00:00")


@on_sqlite
@pytest.mark.parametrize(("minutes", "kept"), [(5, 1), (7, 0)])
def test_a_model_that_the_scorer_began_late_had_not_all_of_the_time(
    nodes: list[ScoringNode], store: Store, sent: list[Any], minutes: int, kept: int
) -> None:
    first, _ = jobs.score_next_models()["opened"]
    follow(first)
    age(store, timedelta(hours=2))
    began = scoring(store, first).taken_at + timedelta(minutes=minutes)
    nodes[0].answer = {"status": "scoring", "started_at": began.isoformat()}
    assert follow(first) is None
    assert [record.score for record in history(store)] == [0.0] * kept
    assert scoring(store, first).uid not in held(store)


@on_sqlite
def test_a_busy_scorer_gives_the_model_back_and_rests(nodes: list[ScoringNode], store: Store, sent: list[Any]) -> None:
    nodes[0].busy = nodes[1].busy = True
    for scoring_id in jobs.score_next_models()["opened"]:
        assert follow(scoring_id) is None
        assert scoring(store, scoring_id).state is ScoringState.RELEASED
        assert "already scoring" in str(scoring(store, scoring_id).error)
    assert held(store) == []
    assert history(store) == []
    assert jobs.score_next_models()["opened"] == []
    with store.writing() as session:
        session.execute(update(ModelScoringRow).values(finished_at=now() - timedelta(minutes=2)))
    assert len(jobs.score_next_models()["opened"]) == 2


@on_sqlite
@pytest.mark.parametrize("status", [410, 409])
def test_a_node_that_gives_up_or_refuses_goes_on_with_another_competition(
    nodes: list[ScoringNode], store: Store, setting: Callable[..., None], sent: list[Any], status: int
) -> None:
    setting(scoring_api_url=nodes[0].url)
    (first,) = jobs.score_next_models()["opened"]
    if status == 410:
        follow(first)
    nodes[0].broken = status
    assert follow(first) is None
    ended = scoring(store, first)
    assert (ended.state, ended.score) == (ScoringState.RELEASED, None)
    assert {410: "gave the model up: broken", 409: "cannot evaluate the model: broken"}[status] in str(ended.error)
    assert (held(store), history(store)) == ([], [])
    # the scorer is free, and this competition rests
    assert jobs.score_next_models()["opened"] == []
    with store.writing() as session:
        Competitions(session).add("o1", 1.0, "test")
        ModelQueue(session, NETUID).register(6, model(6, "o1"), now() - timedelta(days=1))
    nodes[0].broken, nodes[0].working_on = None, None
    (second,) = jobs.score_next_models()["opened"]
    assert (scoring(store, second).competition_id, scoring(store, second).uid) == ("o1", 6)
    assert follow(second) is not None
    # and the model is taken again once its competition has rested
    with store.writing() as session:
        session.execute(update(ModelScoringRow).values(finished_at=now() - timedelta(minutes=2), busy_scorer=None))
    (third,) = jobs.score_next_models()["opened"]
    assert scoring(store, third).competition_id == "voicebench"


@on_sqlite
def test_a_start_whose_answer_was_lost_is_recognised(nodes: list[ScoringNode], store: Store, sent: list[Any]) -> None:
    first, _ = jobs.score_next_models()["opened"]
    follow(first)
    with store.writing() as session:
        Scorings(session).start_again(first, "killed before it could note the task")
    assert follow(first) is not None
    found = scoring(store, first)
    assert (found.state, found.task_id) == (ScoringState.SCORING, None)
    assert len(nodes[0].started) == 1
    nodes[0].answer = {"status": "completed", "score": 0.5}
    assert follow(first) is None
    assert [record.score for record in history(store)] == [0.5]


@on_sqlite
def test_a_start_whose_answer_was_lost_is_recognised_before_a_worker_is_at_it(
    nodes: list[ScoringNode], store: Store, sent: list[Any]
) -> None:
    first, _ = jobs.score_next_models()["opened"]
    follow(first)
    nodes[0].answer = {"status": "scoring", "started_at": None}
    nodes[0].busy = True
    with store.writing() as session:
        Scorings(session).start_again(first, "killed before it could note the task")
    assert follow(first) is not None
    assert scoring(store, first).state is ScoringState.SCORING


@on_sqlite
def test_an_api_that_is_away_is_asked_again_with_growing_pauses_and_costs_no_model_its_score(
    nodes: list[ScoringNode], store: Store, sent: list[Any]
) -> None:
    first, _ = jobs.score_next_models()["opened"]
    follow(first)
    nodes[0].broken = 503
    # half to all of 5, 10, 20, 40, … seconds, and no more than 5 minutes
    pauses = [follow(first) for _ in range(9)]
    for number, pause in enumerate(pauses):
        longest = min(5.0 * 2**number, 300.0)
        assert pause is not None
        assert longest / 2 - 1 < pause <= longest
    assert "503" in str(scoring(store, first).error)
    age(store, timedelta(hours=2))
    assert follow(first) is None
    assert scoring(store, first).state is ScoringState.RELEASED
    assert history(store) == []
    assert scoring(store, first).uid not in held(store)


@on_sqlite
def test_a_scorer_that_never_takes_the_model_gives_it_back(
    nodes: list[ScoringNode], store: Store, sent: list[Any]
) -> None:
    nodes[0].broken = "silent"
    first, _ = jobs.score_next_models()["opened"]
    looks = 0
    while follow(first) is not None:
        looks += 1
    assert looks == 4
    assert scoring(store, first).state is ScoringState.RELEASED


@on_sqlite
def test_a_scorer_that_forgot_the_model_gets_it_again(nodes: list[ScoringNode], store: Store, sent: list[Any]) -> None:
    first, _ = jobs.score_next_models()["opened"]
    follow(first)
    nodes[0].working_on = None
    assert follow(first) is not None
    assert len(nodes[0].started) == 1
    age(store, timedelta(minutes=2))
    follow(first)
    follow(first)
    assert len(nodes[0].started) == 2
    nodes[0].answer = {"status": "completed", "score": 0.5}
    assert follow(first) is None
    assert [record.score for record in history(store)] == [0.5]


@on_sqlite
def test_a_score_that_comes_after_the_model_was_taken_back_is_not_kept(
    nodes: list[ScoringNode], store: Store, sent: list[Any]
) -> None:
    first, _ = jobs.score_next_models()["opened"]
    follow(first)
    with store.writing() as session:
        assert ModelQueue(session, NETUID).release_stale(timedelta(0)) == 2
    nodes[0].answer = {"status": "completed", "score": 0.5}
    assert follow(first) is None
    assert scoring(store, first).state is ScoringState.RELEASED
    assert history(store) == []


@on_sqlite
def test_a_scoring_whose_message_was_lost_is_followed_up(
    nodes: list[ScoringNode], store: Store, sent: list[tuple[str, Any]]
) -> None:
    opened = jobs.score_next_models()["opened"]
    sent.clear()
    with store.writing() as session:
        session.execute(update(WorkRow).values(moved_at=now() - timedelta(minutes=2)))
    assert upkeep.reconcile() == {"sent": 2, "voided": 0}
    assert sent == [("follow_scoring", scoring_id) for scoring_id in opened]
    assert upkeep.reconcile() == {"sent": 0, "voided": 0}


@on_sqlite
def test_a_scorer_taken_out_of_the_settings_gives_its_model_back(
    nodes: list[ScoringNode], store: Store, sent: list[Any], setting: Callable[..., None]
) -> None:
    first, _ = jobs.score_next_models()["opened"]
    follow(first)
    setting(scoring_api_url=nodes[1].url)
    assert follow(first) is None
    assert scoring(store, first).uid not in held(store)


# -- this cluster's own evaluations -----------------------------------------------------------------------------------


@on_sqlite
def test_standalone_fills_every_place_with_one_message_each(
    store: Store, setting: Callable[..., None], sent: list[Any]
) -> None:
    fill(store, 3)
    setting(local_scorers=2)
    opened = jobs.score_next_models()["opened"]
    found = [scoring(store, scoring_id) for scoring_id in opened]
    assert [one.scorer for one in found] == ["local:0", "local:1"]
    assert [one.state for one in found] == [ScoringState.SCORING] * 2
    assert sent == [("evaluate_model", one.task_id) for one in found]
    with store.reading() as session:
        inputs = {record.id: record.inputs for record in Evaluations(session).recent()}
    assert inputs == {
        one.task_id: EvaluationInputs(
            "maker/" + one.commitment.model.name, "voicebench", one.commitment.hotkey, one.commitment.block
        )
        for one in found
    }
    assert jobs.score_next_models()["opened"] == []
    assert len(sent) == 2


def ended(store: Store, scoring_id: int, end: EvaluationEnd) -> None:
    """A gpu worker takes the evaluation, and this comes of it."""
    task_id = scoring(store, scoring_id).task_id
    assert task_id
    with store.writing() as session:
        finished(session, task_id, begun(session, task_id), end)


@pytest.mark.parametrize(
    ("end", "score", "state"),
    [
        (EvaluationEnd(EvaluationPhase.COMPLETED, 0.7, None, {"ifeval": 0.6}), 0.7, ScoringState.SCORED),
        (EvaluationEnd(EvaluationPhase.COMPLETED, 0.001, "no hotkey.txt"), 0.001, ScoringState.SCORED),
        (EvaluationEnd(EvaluationPhase.FAILED, 0.0, "no Dockerfile"), 0.0, ScoringState.FAILED),
        (EvaluationEnd(EvaluationPhase.TIMEOUT, 0.0, "not over within 2:00:00"), 0.0, ScoringState.FAILED),
        (EvaluationEnd(EvaluationPhase.RELEASED, None, "no judge is set"), None, ScoringState.RELEASED),
    ],
)
def test_an_evaluation_of_this_cluster_posts_its_score_as_it_ends(
    store: Store,
    setting: Callable[..., None],
    sent: list[Any],
    end: EvaluationEnd,
    score: float | None,
    state: ScoringState,
) -> None:
    fill(store, 1)
    (opened,) = jobs.score_next_models()["opened"]
    assert held(store) == [2]
    ended(store, opened, end)
    assert [(record.score, record.error, record.metric_scores) for record in history(store)] == (
        [] if score is None else [(score, end.error, end.metric_scores)]
    )
    found = scoring(store, opened)
    assert (found.state, found.score, found.error) == (state, score, end.error)
    assert held(store) == []
    # from the queue to the history: one message
    assert len(sent) == 1


@on_sqlite
def test_an_evaluation_that_never_began_costs_nobody_a_score(
    store: Store, setting: Callable[..., None], sent: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store, 1)
    (opened,) = jobs.score_next_models()["opened"]
    age(store, timedelta(hours=3))
    # it is the evaluation's own limit that ends it, and not the queue's
    assert jobs.release_stale()["released"] == 0
    assert held(store) == [2]
    monkeypatch.setattr("app.store.evaluations.now", lambda: now() + timedelta(hours=3))
    with store.writing() as session:
        assert len(Evaluations(session).end_overdue(timedelta(hours=2), timedelta(0), timedelta(minutes=1))) == 1
    assert scoring(store, opened).state is ScoringState.RELEASED
    assert "no gpu worker took the evaluation" in str(scoring(store, opened).error)
    assert (history(store), held(store)) == ([], [])


@on_sqlite
def test_a_place_that_another_validator_s_model_has_is_busy(
    store: Store, setting: Callable[..., None], sent: list[Any]
) -> None:
    fill(store, 1)
    with store.writing() as session:
        Evaluations(session).accept(EvaluationInputs("maker/other", "voicebench", miner(9), 5), ["0"])
    assert jobs.score_next_models()["opened"] == []
    with store.reading() as session:
        (found,) = Scorings(session).recent()
    assert (found.state, found.error) == (ScoringState.RELEASED, "local:0 works on another model")
    assert (held(store), sent) == ([], [])


# -- weights and reputation -------------------------------------------------------------------------------------------


def fill_scores(store: Store) -> None:
    """Two models above the baseline, one below, all weights known."""
    with store.writing() as session:
        Metagraph(session, NETUID).sync(1000, neurons(3))
        if not Competitions(session).all():
            Competitions(session).add("voicebench", 1.0, "test")
        Competitions(session).set_baseline("voicebench", 0.5, "test")
        for uid in (2, 3, 4):
            ModelQueue(session, NETUID).register(uid, model(uid), now() - timedelta(days=1))
    scored(store, 2, 0.9)
    scored(store, 3, 0.9)
    scored(store, 4, 0.4)


def submitted(mark: str) -> WeightRound:
    """The mark's round after its weights were asked for."""
    celery_app.conf.update(task_always_eager=True, task_eager_propagates=True)
    try:
        assert jobs.set_model_weights(mark) == {"mark": mark, "status": "sent"}
        # where the messages are only noted, this is the worker that takes it
        workers.weights.submit_round(mark)
    finally:
        celery_app.conf.update(task_always_eager=False, task_eager_propagates=False)
    with get_store().reading() as session:
        found = WeightRounds(session).at(mark)
    assert found is not None
    return found


def shares(found: WeightRound) -> dict[int, float]:
    return {uid: weight for uid, weight in found.weights.items() if weight}


def test_a_mark_is_computed_once_and_the_next_one_follows_it(
    chain: MemoryChain, store: Store, setting: Callable[..., None], tmp_path: Path
) -> None:
    fill_scores(store)
    file = tmp_path / "there" / "weights.json"
    setting(weights_file=file)
    first = submitted("2026-11-22T01:20")
    assert first.state is WeightsState.WRITTEN
    assert shares(first) == pytest.approx({2: 0.375, 3: 0.375, 4: 0.25})
    assert first.shares[0]["pool"] == "above"
    document = json.loads(file.read_text())
    assert (document["netuid"], document["epoch"], document["mark"]) == (NETUID, None, "2026-11-22T01:20")
    assert document["weights"]["2"] == pytest.approx(0.375)
    # UID 3 fails from now on; its round stands, and the EMA of the next lets go of it slowly
    scored(store, 3, *[0.0] * 10)
    assert submitted("2026-11-22T01:20") == first
    second = submitted("2026-11-22T01:40")
    assert shares(second) == pytest.approx({2: 0.9 * 0.375 + 0.075, 3: 0.9 * 0.375, 4: 0.25})


@on_sqlite
def test_weights_may_be_kept_from_the_chain(chain: MemoryChain, store: Store, setting: Callable[..., None]) -> None:
    fill_scores(store)
    setting(dont_set_weights="true")
    assert submitted("m1").state is WeightsState.NOT_SET


@on_sqlite
def test_without_a_baseline_nothing_is_set_and_the_report_says_why(chain: MemoryChain, store: Store) -> None:
    fill_scores(store)
    with store.writing() as session:
        Competitions(session).archive("voicebench", "test")
        Competitions(session).add("o1", 1.0, "test")
    kept = submitted("m")
    assert kept.state is WeightsState.NONE
    assert (kept.detail or "").startswith("nobody has a weight")
    assert any("o1 has no baseline" in warning for warning in kept.warnings)


def test_reputations_step_daily_and_only_once(chain: MemoryChain, store: Store) -> None:
    fill_scores(store)
    assert jobs.update_reputations()["steps"] == 3
    assert jobs.update_reputations()["steps"] == 0
    with store.reading() as session:
        found = {record.hotkey: record.reputation for record in Reputations(session).all().values()}
    assert found == pytest.approx({miner(2): 0.5025, miner(3): 0.5025, miner(4): 0.4975})


# -- folders ----------------------------------------------------------------------------------------------------------


@on_sqlite
def test_only_unreferenced_model_folders_are_removed(
    store: Store, setting: Callable[..., None], tmp_path: Path
) -> None:
    fill(store, 1)
    root, outside = tmp_path / "models", tmp_path / "outside"
    setting(model_dir=root)
    assert jobs.clean_models() == {"removed": []}
    kept = model_folder(root, model(2).model.text)
    old, gone = root / "maker" / "model2" / "older", root / "left" / "model9" / "c"
    for folder in (kept, old, gone, outside):
        folder.mkdir(parents=True)
        (folder / "weights.bin").write_text("x")
    (root / "left" / "model9" / "link").symlink_to(outside)
    (root / "note.txt").write_text("mine")
    assert sorted(jobs.clean_models()["removed"]) == ["left/model9/c", "maker/model2/older"]
    assert kept.is_dir()
    assert (outside / "weights.bin").exists()
    assert (root / "note.txt").exists()
    assert not old.exists()


@on_sqlite
@pytest.mark.parametrize("empty", [True, False])
def test_nothing_is_removed_from_a_folder_that_is_not_ours(
    store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture, empty: bool
) -> None:
    """Also where MODEL_DIR is set to nothing, which is not the working directory."""
    thesis = tmp_path / "home" / "user" / "thesis" / "chapter"
    thesis.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NETUID", "21")
    monkeypatch.setenv("MODEL_DIR", "" if empty else str(tmp_path))
    get_settings.cache_clear()
    assert jobs.clean_models() == {"removed": []}
    assert thesis.is_dir()
    assert ("was not made by this application" in caplog.text) is not empty


# -- the real chain ---------------------------------------------------------------------------------------------------


@on_sqlite
def test_the_jobs_on_a_node_through_the_real_sdk(
    store: Store,
    setting: Callable[..., None],
    sent: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    monkeypatch.setenv("BITTENSOR_RUNTIME_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "runtime"))
    wallet = KeyedWallet("//hotkey0")
    monkeypatch.setattr("workers.weights.load_wallet", lambda *_: wallet)
    monkeypatch.setattr(jobs, "own_signer", lambda: KeypairSigner(wallet.hotkey))
    with store.writing() as session:
        Competitions(session).add("voicebench", 1.0, "test")
        Competitions(session).set_baseline("voicebench", 0.5, "test")
    fake = FakeChain()
    fake.put_subnet(subnet(netuid=NETUID))
    hotkeys = [neuron.hotkey for neuron in fake.neurons_at(NETUID, fake.head)]
    fake.commit(NETUID, hotkeys[4], model(4).model.text.encode(), block=fake.head - 50)
    fake.commit(NETUID, hotkeys[5], b"\xff\xfe", block=fake.head - 50)
    with FakeNode(fake) as node:
        subtensor = Subtensor(node.url, (), (), timeout=5)
        monkeypatch.setattr(jobs, "open_chain", lambda: SubtensorModelChain(subtensor))
        monkeypatch.setattr("workers.weights.process_subtensor", lambda _: subtensor)
        try:
            assert jobs.sync_metagraph()["neurons"] == 8
            found = jobs.update_models()
            assert (found["new"], found["refused"]) == (1, 1)
            with store.writing() as session:
                (queued,) = ModelQueue(session, NETUID).models()
                taken = ModelQueue(session, NETUID).take("voicebench", hotkeys[0])
                assert taken is not None
                assert ModelQueue(session, NETUID).post(hotkeys[4], 4, hotkeys[0], PostedScore(0.9))
            assert (queued.uid, queued.hotkey) == (4, hotkeys[4])
            assert submitted("m").state is WeightsState.SET
        finally:
            subtensor.close()
    assert fake.weights_of(NETUID, 0) == {4: 65535}
