"""Conversations with both APIs: requests in any order, each answer as described and true to what was said before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, ClassVar

import pytest
from bittensor_core import Keypair
from celery import Celery
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from sqlalchemy import delete, update

from app.api import scoring
from app.api.application import create_app
from app.domain import MODELS_NETUID, ReportedScore
from app.settings import get_settings
from app.store.capabilities import Capabilities
from app.store.claims import Piece
from app.store.competitions import Competitions
from app.store.database import Store
from app.store.evaluations import EvaluationEnd, EvaluationPhase, Evaluations
from app.store.model_queue import ModelQueue
from app.store.tables.competitions import ModelRow, ModelScoreRow
from app.store.tables.evaluations import EvaluationRow
from app.store.tables.work import WorkRow
from chain.incentive.models import stake_weighted_score
from chain.scoring_api import EvaluationRequest
from tests.app.api.schema_cases import any_case, described, held_to_schema
from tests.app.competitions.competition_fixtures import SECOND, VALIDATOR, fill, miner, model
from tests.app.store.evaluation_claims import begun, finished

UIDS = range(2, 7)
MODELS = st.sampled_from(UIDS)
SCORES = st.floats(0, 1)


class Conversation(RuleBasedStateMachine):
    """One API over one store, which each run finds without a past."""

    schema: ClassVar[Any]
    cases: ClassVar[st.SearchStrategy[Any]]
    store: ClassVar[Store]
    requests: ClassVar[Counter[str]]
    runs: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__()
        type(self).runs += 1

    def send(self, case: Any, key: Keypair = VALIDATOR) -> tuple[int, Any]:
        """Status and content of an answer that the API describes, and that fits what this run knows."""
        type(self).requests[case.operation.label] += 1
        response = held_to_schema(case, key)
        answer = response.json() if response.content else None
        self.learn(case, response.status_code, answer, str(key.ss58_address))
        return response.status_code, answer

    def ask(self, method: str, path: str, key: Keypair = VALIDATOR, **parts: Any) -> tuple[int, Any]:
        """A request of our own."""
        return self.send(self.schema[path][method].Case(**parts), key)

    def learn(self, case: Any, status: int, answer: Any, caller: str) -> None:
        """Hold an answer against what was said before, no matter who thought of its request."""
        raise NotImplementedError

    @rule(data=st.data())
    def anything(self, data: st.DataObject) -> None:
        self.send(data.draw(self.cases))


class ScorersAtTheValidator(Conversation):
    """Two validators take models, post scores and read; ``taken`` by whom, and each model's reports, newest first."""

    def __init__(self) -> None:
        super().__init__()
        with self.store.writing() as session:
            session.execute(delete(ModelScoreRow))
            free = dict.fromkeys(("is_being_scored_by", "taken_at", "taken_model", "taken_block"))
            session.execute(update(ModelRow).values(**free))
        self.taken: dict[int, str] = {}
        self.reports: dict[int, list[ReportedScore]] = {uid: [] for uid in UIDS}

    def learn(self, case: Any, status: int, answer: Any, caller: str) -> None:
        if status != 200:
            return
        match case.operation.label:
            case "POST /get-model-to-score" if answer["success"]:
                assert answer["miner_uid"] not in self.taken
                self.taken[answer["miner_uid"]] = caller
            case "POST /score-model" if answer["success"]:
                uid = case.body["miner_uid"]
                assert (case.body["miner_hotkey"], self.taken.pop(uid)) == (miner(uid), caller)
                self.reports[uid].insert(0, ReportedScore(caller, case.body["model_score"]))

    @rule(key=st.sampled_from([VALIDATOR, SECOND]), competition=st.sampled_from([None, "voicebench", "none"]))
    def take(self, key: Keypair, competition: str | None) -> None:
        free = set(UIDS) - set(self.taken)
        body = {} if competition is None else {"competition_id": competition}
        status, answer = self.ask("POST", "/get-model-to-score", key, body=body, media_type="application/json")
        assert (status, answer["success"]) == (200, bool(free) and competition != "none")

    @rule(key=st.sampled_from([VALIDATOR, SECOND]), uid=MODELS, score=SCORES)
    def post(self, key: Keypair, uid: int, score: float) -> None:
        """Kept from the validator that has the model, and from no other."""
        has_it = self.taken.get(uid) == key.ss58_address
        body = {
            "miner_hotkey": miner(uid),
            "miner_uid": uid,
            "model_metadata": {"id": {"name": f"model{uid}"}},
            "model_score": score,
        }
        status, answer = self.ask("POST", "/score-model", key, body=body, media_type="application/json")
        assert (status, answer["success"]) == (200, has_it)

    @precondition(lambda self: self.taken)
    @rule(data=st.data(), score=SCORES)
    def post_of_what_was_taken(self, data: st.DataObject, score: float) -> None:
        uid = data.draw(st.sampled_from(sorted(self.taken)))
        self.post(VALIDATOR if self.taken[uid] == VALIDATOR.ss58_address else SECOND, uid, score)

    @rule(method=st.sampled_from(["GET", "POST"]))
    def read(self, method: str) -> None:
        """Each model is told with the score that its reports make, and the best model is the best of these."""
        told = self.ask(method, "/get-all-model-scores")[1]["model_scores"]
        stakes = {VALIDATOR.ss58_address: 30_000.0, SECOND.ss58_address: 90_000.0}
        expected = {uid: stake_weighted_score(reports, stakes) for uid, reports in self.reports.items()}
        assert {int(uid): entry["score"] for uid, (entry,) in told.items()} == {
            uid: found.score for uid, found in expected.items()
        }
        assert {
            int(uid): [(one["hotkey"], one["score"]) for one in entry["score_details"]]
            for uid, (entry,) in told.items()
        } == {uid: [(one.report.scorer, one.report.score) for one in found.reports] for uid, found in expected.items()}
        best = max(found.score or 0.0 for found in expected.values())
        top = self.ask("GET", "/get-top-model")[1]["voicebench"]
        assert [one["score"] for one in top] == ([best] if best else [])

    @invariant()
    def the_store_has_what_was_taken(self) -> None:
        with self.store.reading() as session:
            models = ModelQueue(session, MODELS_NETUID).models()
        assert {one.uid: one.is_being_scored_by for one in models if one.is_being_scored_by} == self.taken


ENDS = st.builds(
    EvaluationEnd,
    st.sampled_from([EvaluationPhase.COMPLETED, EvaluationPhase.FAILED, EvaluationPhase.TIMEOUT]),
    SCORES,
    st.sampled_from([None, "it said nothing"]),
) | st.just(EvaluationEnd(EvaluationPhase.RELEASED, None, "no Docker"))


class ValidatorAtTheScoringNode(Conversation):
    """A validator has models evaluated on a node of one place; ``known`` are the accepted evaluations, the last one
    last, each with what was asked for and, once it is over, its end."""

    def __init__(self) -> None:
        super().__init__()
        with self.store.writing() as session:
            session.execute(delete(EvaluationRow))
            session.execute(delete(WorkRow))
        self.known: dict[str, tuple[dict[str, Any], EvaluationEnd | None]] = {}
        self.piece: Piece | None = None

    def at_work(self) -> str | None:
        return next((task_id for task_id, (_, end) in self.known.items() if end is None), None)

    def learn(self, case: Any, status: int, answer: Any, caller: str) -> None:
        match case.operation.label:
            case "POST /score_model" | "POST /api/start_model_scoring" if status in {200, 409}:
                assert answer["success"] == (status == 200 and self.at_work() is None)
                if answer["success"]:
                    self.known[answer["task_id"]] = (case.body, None)
            case "GET /api/check_scoring_status" if status in {200, 404, 410}:
                self.learn_status(case.query.get("task_id"), status, answer)

    def learn_status(self, task_id: str | None, status: int, answer: Any) -> None:
        inputs, end = self.known.get(next(reversed(self.known), "") if task_id is None else task_id, (None, None))
        if inputs is None:
            assert status == 404
        elif end is not None and end.phase is EvaluationPhase.RELEASED:
            assert (status, answer["detail"]) == (410, end.error)
        else:
            assert status == 200
            assert answer["inputs"] == {name: inputs[name] for name in answer["inputs"]}
            assert (answer["status"], answer["score"]) == (end.phase.value, end.score) if end else ("scoring", None)
            is_begun = end is not None or self.piece is not None
            assert (answer["started_at"] is not None, answer["runtime_seconds"] is not None) == (is_begun, is_begun)

    @rule(
        uid=MODELS,
        competition=st.sampled_from(["voicebench", "voicebench", "o1", "none"]),
        path=st.sampled_from(["/score_model", "/api/start_model_scoring"]),
    )
    def start(self, uid: int, competition: str, path: str) -> None:
        """Accepted where the node can do it and is free; else refused in words."""
        is_free, body = self.at_work() is None, asdict(EvaluationRequest.of(model(uid, competition)))
        status, answer = self.ask("POST", path, body=body, media_type="application/json")
        if competition == "voicebench":
            assert (status, answer["success"]) == (200, is_free)
        else:
            assert status == 409
        assert answer["message"]

    @precondition(lambda self: self.at_work() and self.piece is None)
    @rule()
    def a_worker_begins(self) -> None:
        with self.store.writing() as session:
            self.piece = begun(session, str(self.at_work()))

    @precondition(lambda self: self.piece is not None)
    @rule(end=ENDS)
    def the_worker_ends(self, end: EvaluationEnd) -> None:
        task_id, piece = str(self.at_work()), self.piece
        assert piece is not None
        with self.store.writing() as session:
            finished(session, task_id, piece, end)
        self.known[task_id], self.piece = (self.known[task_id][0], end), None

    @rule(data=st.data())
    def look(self, data: st.DataObject) -> None:
        task_id = data.draw(st.sampled_from([None, "another", *self.known]))
        self.ask("GET", "/api/check_scoring_status", query={} if task_id is None else {"task_id": task_id})

    @rule()
    def look_at_capabilities(self) -> None:
        told = {
            one["competition_id"]: one["can_score"] for one in self.ask("GET", "/api/capabilities")[1]["competitions"]
        }
        assert (told["voicebench"], told["o1"]) == (True, False)

    @invariant()
    def one_place_has_one_model(self) -> None:
        with self.store.reading() as session:
            present = [record.id for record in Evaluations(session).in_slots(("0",))]
        assert present == [task_id for task_id in [self.at_work()] if task_id]


@pytest.fixture
def node(store: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Two validators and five miners' models; a GPU worker that found out what it lacks for ``o1``."""
    for name, value in {
        "NETUID": "21",
        "API_RATE_LIMIT": "1000000",
        "SCORING_API_CALLERS": VALIDATOR.ss58_address,
    }.items():
        monkeypatch.setenv(name, value)
    get_settings.cache_clear()
    celery = Celery(broker="memory://", backend="cache+memory://")
    monkeypatch.setattr(scoring, "celery", celery)
    fill(store, len(UIDS))
    with store.writing() as session:
        Competitions(session).set_baseline("voicebench", 0.4, "test")
        Capabilities(session).note("o1", "o1", "IMAGEBIND_WEIGHTS is not set")
    return store


@pytest.fixture(params=[ScorersAtTheValidator, ValidatorAtTheScoringNode])
def conversation(request: pytest.FixtureRequest, node: Store) -> Iterator[type[Conversation]]:
    application = create_app() if request.param is ScorersAtTheValidator else scoring.create_scoring_app()
    with described(application) as schema:
        found = {"schema": schema, "cases": any_case(schema), "store": node, "requests": Counter()}
        yield type(request.param.__name__, (request.param,), found)


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("runs", "least"), [(5, 20), pytest.param(250, 1000, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])]
)
def test_no_conversation_finds_a_fault(conversation: type[Conversation], runs: int, least: int) -> None:
    health = list(HealthCheck)
    options = settings(
        max_examples=runs, stateful_step_count=8, deadline=None, database=None, suppress_health_check=health
    )
    run_state_machine_as_test(conversation, settings=options)
    assert conversation.runs >= runs
    assert conversation.requests.total() >= least
    if least >= 1000:
        assert set(conversation.requests) == {found.ok().label for found in conversation.schema.get_all_operations()}
