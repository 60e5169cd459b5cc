"""The scoring API's endpoints over a store: exactly the contract's answers, whatever dies in between."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import bittensor_core
import pytest
from celery import Celery
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from sqlalchemy import update
from starlette.testclient import TestClient

from app.api import scoring
from app.clock import now
from app.competitions.evaluations import SWEEP
from app.settings import get_settings
from app.store.capabilities import Capabilities
from app.store.claims import Piece
from app.store.database import Store
from app.store.evaluations import EVALUATE, EvaluationEnd, EvaluationPhase, Evaluations
from app.store.tables.evaluations import EvaluationRow
from app.store.tables.work import WorkRow
from chain.hotkey import KeypairSigner, signed_headers
from chain.scoring_api import EvaluationRequest, EvaluationState, ScorerBusy, ScorerGaveUp, ScoringApi
from tests.app.api.conftest import Call, basic
from tests.app.api.schema_cases import can_be_wrong, described, held_to_schema
from tests.app.api.test_request_edge import served
from tests.app.competitions.competition_fixtures import SECOND, VALIDATOR, fill, miner
from tests.app.store.evaluation_claims import begun, finished

INPUTS = {"hf_repo_id": "maker/model2", "competition_id": "voicebench", "hotkey": miner(2), "block": 102}
OTHER = INPUTS | {"hf_repo_id": "maker/model3", "hotkey": miner(3)}

on_sqlite = pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Iterator[Celery]:
    """A broker in memory: one for the whole process, so what other tests left in it goes first."""
    celery = Celery(broker="memory://", backend="cache+memory://")
    celery.conf.task_routes = {"workers.evaluations.*": {"queue": "gpu"}}
    monkeypatch.setattr(scoring, "celery", celery)
    with celery.connection_for_write() as connection:
        connection.SimpleQueue("gpu").clear()
    yield celery
    celery.close()


@pytest.fixture
def client(store: Store, broker: Celery, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    monkeypatch.setenv("SCORING_API_CALLERS", VALIDATOR.ss58_address)
    get_settings.cache_clear()
    with TestClient(scoring.create_scoring_app(), raise_server_exceptions=False) as found:
        yield found


def sent(broker: Celery) -> list[tuple[str, list[Any]]]:
    """The messages that are in the gpu queue, but for the look at what can be scored: task and arguments."""
    found = []
    with broker.connection_for_read() as connection:
        queue = connection.SimpleQueue("gpu")
        while queue.qsize():
            message = queue.get(timeout=1)
            found.append((message.headers["task"], message.payload[0]))
            message.ack()
    return [one for one in found if not one[0].endswith("note_capabilities")]


def begin(store: Store, task_id: str) -> Piece:
    with store.writing() as session:
        return begun(session, task_id)


def end(store: Store, task_id: str, of: EvaluationEnd) -> None:
    with store.writing() as session:
        finished(session, task_id, begun(session, task_id), of)


def unheard(store: Store) -> None:
    """Nothing was sent or heard for five minutes."""
    with store.writing() as session:
        session.execute(update(WorkRow).values(moved_at=long_ago(), held_until=long_ago()))


def long_ago() -> datetime:
    return now() - timedelta(minutes=5)


def change(store: Store, **values: Any) -> None:
    with store.writing() as session:
        session.execute(update(EvaluationRow).values(**values))


@pytest.mark.parametrize("path", ["/score_model", "/api/start_model_scoring"])
def test_a_model_is_accepted_worked_on_and_its_score_told(call: Call, store: Store, broker: Celery, path: str) -> None:
    answer = call("POST", path, INPUTS).json()
    task_id = answer.pop("task_id")
    assert answer == {"success": True, "message": "The evaluation of maker/model2 has begun."}
    assert sent(broker) == [(EVALUATE, [task_id])]

    def status() -> dict[str, Any]:
        found = call("GET", "/api/check_scoring_status", params={"task_id": task_id})
        assert found.status_code == 200
        return dict(found.json())

    waiting = status()
    assert waiting["status"] == "scoring"
    assert waiting["started_at"] is None
    assert "waits for a gpu worker" in waiting["error"]
    piece = begin(store, task_id)
    scoring_now = status()
    assert scoring_now["status"] == "scoring"
    assert datetime.fromisoformat(scoring_now["started_at"]) <= now()
    assert 0 <= scoring_now["runtime_seconds"] < 60
    assert scoring_now["error"] is None
    with store.writing() as session:
        completed = EvaluationEnd(EvaluationPhase.COMPLETED, 0.61, None, {"ifeval": {"score": 0.5}})
        finished(session, task_id, piece, completed)
    done = status()
    assert {name: done[name] for name in ("status", "score", "metric_scores", "error", "inputs")} == {
        "status": "completed",
        "score": 0.61,
        "metric_scores": {"ifeval": {"score": 0.5}},
        "error": None,
        "inputs": INPUTS,
    }
    assert set(done) == {"status", "score", "metric_scores", "error", "started_at", "runtime_seconds", "inputs"}


@on_sqlite
def test_our_client_is_told_why_a_model_is_refused_and_why_it_was_given_up(
    client: TestClient, store: Store, broker: Celery
) -> None:
    """Our own client at our own application, on a real socket."""
    with served(client.app) as port:
        api = ScoringApi(f"http://127.0.0.1:{port}", KeypairSigner(VALIDATOR), basic=True)
        with pytest.raises(ScorerGaveUp, match="cannot evaluate the model: competition nothing has no benchmark here"):
            api.start(EvaluationRequest("maker/model2", "nothing", miner(2), 102))
        request = EvaluationRequest(**INPUTS)
        task_id = api.start(request)
        assert task_id is not None
        assert api.look(request, task_id).state is EvaluationState.WAITING
        with pytest.raises(ScorerBusy, match=r"This node is busy with maker/model2\."):
            api.start(EvaluationRequest(**OTHER))
        end(store, task_id, EvaluationEnd(EvaluationPhase.RELEASED, None, "the judge is unavailable"))
        with pytest.raises(ScorerGaveUp, match="gave the model up: the judge is unavailable"):
            api.look(request, task_id)
        assert api.look(request, "another").state is EvaluationState.UNKNOWN


@on_sqlite
@pytest.mark.parametrize("phase", [EvaluationPhase.FAILED, EvaluationPhase.TIMEOUT])
def test_failures_and_timeouts_are_told_with_their_reason(call: Call, store: Store, phase: EvaluationPhase) -> None:
    task_id = call("POST", "/score_model", INPUTS).json()["task_id"]
    end(store, task_id, EvaluationEnd(phase, 0.0, "it does not answer"))
    found = call("GET", "/api/check_scoring_status").json()
    assert (found["status"], found["score"], found["error"]) == (phase.value, 0.0, "it does not answer")


@on_sqlite
def test_what_was_given_up_is_gone_and_can_be_asked_again(call: Call, store: Store) -> None:
    task_id = call("POST", "/score_model", INPUTS).json()["task_id"]
    end(store, task_id, EvaluationEnd(EvaluationPhase.RELEASED, None, "the judge is unavailable"))
    found = call("GET", "/api/check_scoring_status", params={"task_id": task_id})
    assert (found.status_code, found.json()) == (410, {"detail": "the judge is unavailable"})
    assert call("POST", "/score_model", INPUTS).json()["success"]


@on_sqlite
def test_unknown_evaluations_are_unknown(call: Call) -> None:
    assert call("GET", "/api/check_scoring_status").status_code == 404
    assert call("GET", "/api/check_scoring_status", params={"task_id": "nobody"}).status_code == 404


def test_one_model_for_each_gpu(call: Call, store: Store, broker: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_SCORERS", "2")
    get_settings.cache_clear()
    assert call("POST", "/score_model", INPUTS).json()["success"]
    second = call("POST", "/score_model", OTHER).json()["task_id"]
    refused = call("POST", "/score_model", INPUTS)
    assert refused.status_code == 200
    assert refused.json() == {
        "success": False,
        "message": "This node is busy with maker/model2, maker/model3.",
        "task_id": None,
    }
    assert len(sent(broker)) == 2
    end(store, second, EvaluationEnd(EvaluationPhase.FAILED, 0.0, "no"))
    assert call("POST", "/score_model", INPUTS).json()["success"]


@on_sqlite
def test_only_the_named_hotkeys_may_call(client: TestClient, call: Call) -> None:
    refused = call("POST", "/score_model", INPUTS, key=SECOND)
    assert (refused.status_code, "not a hotkey this node works for" in refused.json()["detail"]) == (403, True)
    assert call("GET", "/api/check_scoring_status", key=SECOND).status_code == 403
    assert client.post("/score_model", json=INPUTS).status_code == 401
    assert client.get("/api/check_scoring_status").status_code == 401
    assert client.post("/score_model", json=INPUTS, headers=basic()).json()["success"]
    assert client.get("/").json()["status"] == "ok"
    body = json.dumps(INPUTS).encode()
    headers = signed_headers(KeypairSigner(VALIDATOR), "POST", "/score_model", body)
    headers["Content-Type"] = "application/json"
    codes = [client.post("/score_model", content=body, headers=headers).status_code for _ in range(2)]
    assert codes == [200, 401]


@on_sqlite
def test_unless_others_are_named_the_wallet_s_own_hotkey_may_call(
    call: Call, client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hotkey = tmp_path / "wallets" / "validator" / "hotkeys" / "default"
    hotkey.parent.mkdir(parents=True)
    hotkey.write_bytes(bittensor_core.serialized_keypair_to_keyfile_data(SECOND))
    monkeypatch.setenv("SCORING_API_CALLERS", "")
    monkeypatch.setenv("WALLET_PATH", str(tmp_path / "wallets"))
    monkeypatch.setenv("WALLET_NAME", "validator")
    get_settings.cache_clear()
    assert call("POST", "/score_model", INPUTS, key=SECOND).json()["success"]
    assert call("POST", "/score_model", INPUTS).status_code == 403


@on_sqlite
@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("hf_repo_id", "model2", "namespace/name"),
        ("hf_repo_id", "maker/../../etc", "namespace/name"),
        ("hf_repo_id", "maker/mo--del", "namespace/name"),
        ("competition_id", "voice bench", "pattern"),
        ("hotkey", miner(2)[:-1] + "1", "checksum"),
        ("hotkey", "5Miner", "pattern"),
        ("block", -1, "greater than or equal"),
        ("block", 2**31, "less than or equal"),
        ("block", "102", "valid integer"),
    ],
)
def test_wrong_fields_are_named(call: Call, field: str, value: object, words: str) -> None:
    found = call("POST", "/score_model", INPUTS | {field: value})
    assert found.status_code == 422
    (problem,) = found.json()["detail"]
    assert field in problem["loc"]
    assert words in problem["msg"]


@on_sqlite
@pytest.mark.parametrize("path", ["/score_model", "/api/start_model_scoring"])
def test_what_this_node_cannot_evaluate_is_refused_at_once(
    call: Call, store: Store, broker: Celery, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    with store.writing() as session:
        Capabilities(session).note("v2v", "v2v", "ASR_MODEL: there is none")

    def refusal(**changes: str) -> str:
        answer = call("POST", path, INPUTS | changes)
        assert answer.status_code == 409
        assert (answer.json()["success"], answer.json()["task_id"]) == (False, None)
        return str(answer.json()["message"])

    assert refusal(competition_id="v2v") == "ASR_MODEL: there is none"
    assert "competition chess has no benchmark here" in refusal(competition_id="chess")
    monkeypatch.setenv("OFFLINE", "true")
    get_settings.cache_clear()
    assert "OFFLINE forbids asking the chain" in refusal()
    with store.reading() as session:
        assert Evaluations(session).recent() == []
    assert sent(broker) == []
    # what its own store knows it evaluates without the chain
    fill(store, 1)
    assert call("POST", path, INPUTS).json()["success"]


@on_sqlite
def test_a_node_says_what_it_can_score(call: Call, client: TestClient, store: Store) -> None:
    with store.writing() as session:
        Capabilities(session).note("v2v", "v2v", "ASR_MODEL: there is none")
        Capabilities(session).note("o1", "o1", None)
    assert client.get("/api/capabilities").status_code == 401
    found = {one["competition_id"]: one for one in call("GET", "/api/capabilities").json()["competitions"]}
    assert {name: (one["can_score"], one["reason"]) for name, one in found.items()} == {
        "o1": (True, None),
        "v2v": (False, "ASR_MODEL: there is none"),
        "voicebench": (True, None),
    }
    assert found["o1"]["checked_at"] is not None
    assert found["voicebench"]["checked_at"] is None


@on_sqlite
def test_offline_only_what_the_store_knows_can_be_scored(
    call: Call, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found() -> dict[str, dict[str, Any]]:
        return {one["competition_id"]: one for one in call("GET", "/api/capabilities").json()["competitions"]}

    assert not any(one["only_stored_models"] for one in found().values())
    monkeypatch.setenv("OFFLINE", "true")
    get_settings.cache_clear()
    fill(store, 1)
    told = found()
    assert all(one["only_stored_models"] for one in told.values())
    assert (told["voicebench"]["can_score"], told["o1"]["can_score"]) == (True, False)
    assert "this node's store has no model of o1" in told["o1"]["reason"]


@on_sqlite
def test_an_idle_node_answers_null_beside_omega_s_validators_alone(
    call: Call, broker: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert call("GET", "/api/check_scoring_status").status_code == 404
    monkeypatch.setenv("COMPETITION_PROFILE", "omega-v4")
    get_settings.cache_clear()
    answer = call("GET", "/api/check_scoring_status")
    assert (answer.status_code, answer.json()) == (200, None)
    assert call("GET", "/api/check_scoring_status", params={"task_id": "another"}).status_code == 404
    assert call("POST", "/score_model", INPUTS).json()["success"]
    assert call("GET", "/api/check_scoring_status").json()["inputs"] == INPUTS


@on_sqlite
def test_a_restarted_api_knows_what_the_last_one_began(call: Call, store: Store, broker: Celery) -> None:
    task_id = call("POST", "/score_model", INPUTS).json()["task_id"]
    with TestClient(scoring.create_scoring_app()) as restarted:
        found = restarted.get("/api/check_scoring_status", params={"task_id": task_id}, headers=basic())
        assert (found.json()["status"], found.json()["inputs"]) == ("scoring", INPUTS)
        assert not restarted.post("/score_model", json=OTHER, headers=basic()).json()["success"]


@on_sqlite
def test_a_wiped_broker_gets_the_message_again(call: Call, store: Store, broker: Celery) -> None:
    task_id = call("POST", "/score_model", INPUTS).json()["task_id"]
    assert len(sent(broker)) == 1
    unheard(store)
    with TestClient(scoring.create_scoring_app()):
        deadline = time.monotonic() + 10
        while not (found := sent(broker)):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert found == [(EVALUATE, [task_id])]
    unheard(store)
    call("GET", "/api/check_scoring_status")
    assert len(sent(broker)) == 1
    call("GET", "/api/check_scoring_status")
    assert sent(broker) == []


@on_sqlite
def test_a_broker_that_is_unavailable_loses_no_evaluation(
    call: Call, store: Store, monkeypatch: pytest.MonkeyPatch, broker: Celery
) -> None:
    unavailable = Celery(broker="redis://127.0.0.1:1/0")
    unavailable.conf.task_publish_retry = False
    monkeypatch.setattr(scoring, "celery", unavailable)
    task_id = call("POST", "/score_model", INPUTS).json()["task_id"]
    assert call("GET", "/api/check_scoring_status", params={"task_id": task_id}).json()["status"] == "scoring"
    monkeypatch.setattr(scoring, "celery", broker)
    unheard(store)
    call("GET", "/api/check_scoring_status")
    assert sent(broker) == [(EVALUATE, [task_id])]
    unavailable.close()


def test_a_dead_worker_s_evaluation_is_sent_again_and_swept(call: Call, store: Store, broker: Celery) -> None:
    task_id = call("POST", "/score_model", INPUTS).json()["task_id"]
    begin(store, task_id)
    sent(broker)
    unheard(store)
    found = call("GET", "/api/check_scoring_status", params={"task_id": task_id}).json()
    assert (found["status"], found["started_at"]) == ("scoring", None)
    assert "not heard of" in found["error"]
    assert sent(broker) == [(EVALUATE, [task_id]), (SWEEP, [])]


def test_the_time_limit_frees_the_slot_even_where_a_worker_hangs(call: Call, store: Store, broker: Celery) -> None:
    task_id = call("POST", "/score_model", INPUTS).json()["task_id"]
    begin(store, task_id)
    change(store, begun_at=now() - timedelta(hours=2, minutes=3), heartbeat_at=now())
    assert call("POST", "/score_model", OTHER).json()["success"]
    found = call("GET", "/api/check_scoring_status", params={"task_id": task_id}).json()
    assert (found["status"], found["score"]) == ("timeout", 0.0)
    assert (SWEEP, []) in sent(broker)


@on_sqlite
def test_old_evaluations_are_forgotten(call: Call, store: Store, broker: Celery) -> None:
    task_id = call("POST", "/score_model", INPUTS).json()["task_id"]
    end(store, task_id, EvaluationEnd(EvaluationPhase.FAILED, 0.0, "no"))
    change(store, finished_at=now() - timedelta(days=31))

    def known() -> bool:
        with store.reading() as session:
            return Evaluations(session).get(task_id) is not None

    with TestClient(scoring.create_scoring_app()):
        deadline = time.monotonic() + 10
        while known():
            assert time.monotonic() < deadline
            time.sleep(0.05)


@on_sqlite
@pytest.mark.parametrize("mode", list(GenerationMode))
@pytest.mark.parametrize("examples", [6, pytest.param(150, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])])
def test_no_request_finds_a_fault(client: TestClient, store: Store, mode: GenerationMode, examples: int) -> None:
    with described(scoring.create_scoring_app()) as schema:
        operations = [found.ok() for found in schema.get_all_operations()]
        assert len(operations) == 6
        for operation in operations:

            @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
            @given(case=operation.as_strategy(generation_mode=mode))
            def fuzz(case: Any) -> None:
                held_to_schema(case)

            if can_be_wrong(operation, mode):
                fuzz()
