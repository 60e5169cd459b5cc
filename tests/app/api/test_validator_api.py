"""The validator API's endpoints and who may use them."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from bittensor_core import Keypair, encode_ss58
from sqlalchemy import text
from starlette.testclient import TestClient

from app.api.application import create_app
from app.api.messages import AllModelScores
from app.clock import now
from app.competitions.profile import SEED
from app.competitions.standings import reputation_steps
from app.domain import Neuron
from app.settings import get_settings
from app.store.database import Store
from app.store.metagraph import Metagraph
from app.store.model_queue import ModelQueue
from app.store.reputations import Reputations
from app.store.tables.competitions import ModelRow, ModelScoreRow, RequestCountRow, UsedSignatureRow
from chain.hotkey import KeypairSigner, signed_headers
from tests.app.api.conftest import Call, basic
from tests.app.competitions.competition_fixtures import NETUID, SECOND, VALIDATOR, miner, neurons, scored

# the store's own tests run on both databases
pytestmark = pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)

UNKNOWN_CALLER = Keypair.create_from_uri("//Unknown")
POOR = Keypair.create_from_uri("//Poor")
UNPERMITTED = Keypair.create_from_uri("//Unpermitted")

JSON = {"Content-Type": "application/json"}

SCORE = {
    "miner_hotkey": miner(2),
    "miner_uid": 2,
    "model_metadata": {"id": {"namespace": "maker"}, "block": 102},
    "model_hash": "abc",
    "model_score": 0.625,
    "metric_scores": {"commoneval": 0.5},
}

CLOSED = [
    ("POST", "/get-model-to-score", {"competition_id": "voicebench"}),
    ("POST", "/score-model", SCORE),
    ("GET", "/get-all-model-scores", None),
    ("POST", "/get-all-model-scores", None),
    ("GET", "/get-top-model", None),
    ("GET", "/baseline-score/voicebench", None),
    ("GET", "/reputations", None),
    ("GET", "/get-eval-metrics", None),
]


def rows(store: Store) -> tuple[int, int, int, int]:
    """What a refused request must not change."""
    with store.reading() as session:
        taken = session.query(ModelRow).filter(ModelRow.is_being_scored_by.is_not(None)).count()
        return (
            taken,
            session.query(ModelScoreRow).count(),
            session.query(UsedSignatureRow).count(),
            session.query(RequestCountRow).count(),
        )


def admit(store: Store, key: Keypair, stake: float, permit: bool) -> None:
    """Put one more neuron into the metagraph."""
    with store.writing() as session:
        extra = Neuron(9, key.ss58_address, "cold", stake, permit)
        Metagraph(session, NETUID).sync(1001, [*neurons(3), extra])


# -- the way of a score -----------------------------------------------------------------------------------------------


def test_a_model_is_taken_scored_and_told_to_everybody(call: Call, store: Store) -> None:
    taken = call("POST", "/get-model-to-score", {"competition_id": "voicebench"})
    assert taken.status_code == 200
    uid = taken.json()["miner_uid"]
    assert taken.json() == {"success": True, "miner_uid": uid}
    body = SCORE | {"miner_uid": uid, "miner_hotkey": miner(uid)}
    assert call("POST", "/score-model", body, key=SECOND).json()["success"] is False
    assert call("POST", "/score-model", body).json()["success"] is True
    assert call("POST", "/score-model", body).json()["success"] is False
    for method in ("GET", "POST"):
        found = call(method, "/get-all-model-scores").json()
        AllModelScores.model_validate(found, strict=False)
        assert found["success"] is True
        assert set(found["model_scores"]) == {"2", "3", "4"}
        (entry,) = found["model_scores"][str(uid)]
        assert entry.pop("scored_at") == entry["score_details"][0].pop("timestamp")
        assert entry == {
            "hotkey": miner(uid),
            "competition_id": "voicebench",
            "model_name": f"maker/model{uid}",
            "score": 0.625,
            "block": 100 + uid,
            "model_hash": "abc",
            "score_details": [
                {
                    "hotkey": VALIDATOR.ss58_address,
                    "stake": 30000.0,
                    "score": 0.625,
                    "weight": 1.0,
                    "model_hash": "abc",
                }
            ],
        }
    assert call("GET", "/get-top-model").json() == {"voicebench": [{"uid": uid, "score": 0.625}]}
    (metrics,) = call("GET", "/get-eval-metrics").json()["data"]["voicebench"]
    assert (metrics["uid"], metrics["metric_scores"]) == (uid, {"commoneval": 0.5})


def test_the_queue_runs_dry_and_an_unknown_competition_has_none(call: Call) -> None:
    assert call("POST", "/get-model-to-score", {"competition_id": "nope"}).json()["success"] is False
    found = [call("POST", "/get-model-to-score").json() for _ in range(4)]
    assert sorted(answer["miner_uid"] for answer in found[:3]) == [2, 3, 4]
    assert found[3] == {"success": False, "message": "No model available to score."}


def test_baselines_and_reputations_are_read(call: Call, store: Store) -> None:
    found = call("GET", "/baseline-score/voicebench").json()
    assert (found["competition_id"], found["score"], "created_at" in found) == ("voicebench", 0.5, True)
    assert call("GET", "/baseline-score/nope").status_code == 404
    assert call("POST", "/baseline-score/voicebench", {"score": 0.1}).status_code == 405
    assert call("GET", "/reputations").json() == {}
    scored(store, 2, 0.9)
    with store.writing() as session:
        Reputations(session).step(reputation_steps(session, SEED, "2026-11-22"))
    found = call("GET", "/reputations").json()
    assert found[miner(2)]["reputation"] == pytest.approx(0.5025)
    assert found[miner(2)]["last_updated"]


def test_the_top_of_equal_models_is_the_lower_uid(call: Call, store: Store) -> None:
    scored(store, 4, 0.7)
    scored(store, 3, 0.7)
    assert call("GET", "/get-top-model").json() == {"voicebench": [{"uid": 3, "score": 0.7}]}


def test_health_needs_no_signature(client: TestClient) -> None:
    assert client.get("/").json()["status"] == "ok"


# -- who may not ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "path", "body"), CLOSED)
def test_whoever_does_not_sign_or_may_not_call_changes_nothing(
    call: Call, client: TestClient, store: Store, method: str, path: str, body: Any
) -> None:
    admit(store, POOR, 19_999.9, True)
    before = rows(store)
    assert client.request(method, path, json=body).status_code == 401
    assert call(method, path, body, age=61).status_code == 401
    assert call(method, path, body, age=-30).status_code == 401
    assert call(method, path, body, key=UNKNOWN_CALLER).status_code == 403
    assert call(method, path, body, key=POOR).status_code == 403
    admit(store, UNPERMITTED, 50_000.0, False)
    assert call(method, path, body, key=UNPERMITTED).status_code == 403
    assert client.request(method, path, json=body, headers=basic(UNKNOWN_CALLER)).status_code == 403
    assert rows(store) == before


@pytest.mark.parametrize(("method", "path", "body"), CLOSED)
def test_an_unknown_caller_learns_nothing_of_what_is_wrong_with_a_request(
    client: TestClient, method: str, path: str, body: Any
) -> None:
    for content in (b"", b"{", b"\xff", b'{"competition_id": 5}'):
        assert client.request(method, path, content=content, headers=JSON).status_code == 401
    assert client.get("/baseline-score/no such id").status_code == 401


@pytest.mark.parametrize(("method", "path", "body"), CLOSED)
def test_a_request_is_good_for_one_use(client: TestClient, store: Store, method: str, path: str, body: Any) -> None:
    raw = b"" if body is None else json.dumps(body).encode()
    headers = signed_headers(KeypairSigner(VALIDATOR), method, path, raw) | JSON
    assert client.request(method, path, content=raw, headers=headers).status_code in {200, 404}
    before = rows(store)
    again = client.request(method, path, content=raw, headers=headers)
    assert (again.status_code, "used before" in again.json()["detail"]) == (401, True)
    upper = headers | {"X-Signature": "0x" + headers["X-Signature"][2:].upper()}
    assert client.request(method, path, content=raw, headers=upper).status_code == 401
    assert rows(store) == before


def test_a_signature_covers_method_path_time_and_body(client: TestClient, store: Store) -> None:
    body = json.dumps({"competition_id": "voicebench"}).encode()
    signer = KeypairSigner(VALIDATOR)
    good = signed_headers(signer, "POST", "/get-model-to-score", body)
    before = rows(store)
    wrong: list[tuple[str, str, bytes, dict[str, str]]] = [
        ("POST", "/get-model-to-score", b'{"competition_id": "v1"}', good),
        ("POST", "/score-model", body, good),
        ("GET", "/get-all-model-scores", b"", signed_headers(signer, "POST", "/get-all-model-scores", b"")),
        ("POST", "/get-model-to-score", body, good | {"X-Timestamp": str(int(good["X-Timestamp"]) - 1)}),
        ("POST", "/get-model-to-score", body, good | {"X-Hotkey": SECOND.ss58_address}),
        ("POST", "/get-model-to-score", body, good | {"X-Hotkey": encode_ss58(VALIDATOR.public_key, 0)}),
        ("POST", "/get-model-to-score", body, {name: good[name] for name in ("X-Hotkey", "X-Timestamp")}),
        ("POST", "/get-model-to-score", body, good | {"X-Signature": "0x" + "00" * 64}),
        ("POST", "/get-model-to-score", body, good | {"X-Signature": "not hex"}),
        ("POST", "/get-model-to-score", body, good | {"X-Timestamp": "nan"}),
        ("POST", "/get-model-to-score", body, good | {"X-Timestamp": "9" * 400}),
    ]
    for method, path, content, headers in wrong:
        answer = client.request(method, path, content=content, headers=headers | JSON)
        assert answer.status_code == 401, (path, headers)
    assert rows(store) == before
    assert client.post("/get-model-to-score", content=body, headers=good | JSON).status_code == 200


def test_basic_is_what_existing_clients_send_and_can_be_turned_off(
    client: TestClient, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert client.get("/get-all-model-scores", headers=basic()).status_code == 200
    wrong = base64.b64encode(f"{VALIDATOR.ss58_address}:0x{'11' * 64}".encode()).decode()
    for value in (f"Basic {wrong}", "Basic ====", "Basic " + base64.b64encode(b"nobody").decode(), "Bearer x"):
        assert client.get("/get-all-model-scores", headers={"Authorization": value}).status_code == 401
    monkeypatch.setenv("API_BASIC", "false")
    get_settings.cache_clear()
    refused = client.get("/get-all-model-scores", headers=basic())
    assert (refused.status_code, "turned off" in refused.json()["detail"]) == (401, True)


def test_a_hotkey_that_calls_too_often_waits(call: Call, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_RATE_LIMIT", "3")
    get_settings.cache_clear()
    # the minute must not end between two calls
    instant = now()
    monkeypatch.setattr("app.store.callers.now", lambda: instant)
    codes = [call("GET", "/reputations").status_code for _ in range(4)]
    assert codes == [200, 200, 200, 429]
    limited = call("GET", "/reputations")
    assert 0 < int(limited.headers["Retry-After"]) <= 60
    assert call("GET", "/reputations", key=SECOND).status_code == 200


# -- what does not fit ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"model_score": -0.1},
        {"model_score": float("nan")},
        {"model_score": float("inf")},
        {"model_score": 1e7},
        {"model_score": "high"},
        {"miner_uid": -1},
        {"miner_uid": 2**70},
        {"miner_hotkey": "x"},
        {"miner_hotkey": "\ud800" * 48},
        {"model_hash": "a\x00b"},
        {"model_hash": "x" * 129},
        {"metric_scores": {"a": float("nan")}},
        {"metric_scores": {"a": [{"b": float("-inf")}]}},
        {"model_metadata": None},
        {"model_metadata": {"\ud800": float("nan")}},
    ],
)
def test_a_score_that_cannot_be_kept_is_refused_in_words(call: Call, store: Store, change: dict[str, Any]) -> None:
    found = call("POST", "/score-model", SCORE | change)
    assert found.status_code == 422
    assert all({"loc", "msg", "type"} == set(problem) for problem in found.json()["detail"])
    with store.reading() as session:
        assert session.query(ModelScoreRow).count() == 0


def test_metrics_nested_without_end_are_refused(call: Call) -> None:
    deep: Any = 1.0
    for _ in range(30):
        deep = [deep]
    assert call("POST", "/score-model", SCORE | {"metric_scores": {"a": deep}}).status_code == 422


def test_a_body_that_is_too_large_is_refused_announced_or_not(
    client: TestClient, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_BODY_LIMIT", "2048")
    get_settings.cache_clear()
    small = TestClient(create_app(), raise_server_exceptions=False)
    raw = json.dumps(SCORE | {"metric_scores": {"a": "x" * 4000}}).encode()
    headers = signed_headers(KeypairSigner(VALIDATOR), "POST", "/score-model", raw) | JSON
    assert small.post("/score-model", content=raw, headers=headers).status_code == 413
    pieces = (raw[start : start + 500] for start in range(0, len(raw), 500))
    assert small.post("/score-model", content=pieces, headers=headers).status_code == 413


def test_a_store_that_is_away_is_a_503(call: Call, client: TestClient, store: Store) -> None:
    with store.writing() as session:
        for table in (ModelRow, ModelScoreRow):
            session.execute(text(f"DROP TABLE {table.__tablename__}"))
    assert call("GET", "/get-all-model-scores").status_code == 503
    assert client.get("/").status_code == 200


def test_the_schema_says_how_to_sign(client: TestClient) -> None:
    schema = client.get("/openapi.json").json()
    operation = schema["paths"]["/score-model"]["post"]
    assert operation["security"] == [{"XHotkey": [], "XTimestamp": [], "XSignature": []}, {"Basic": []}]
    assert {"401", "403", "413", "422", "429"} <= set(operation["responses"])
    assert "security" not in schema["paths"]["/"]["get"]


def test_a_taken_model_is_not_handed_out_again(call: Call, store: Store) -> None:
    with store.writing() as session:
        taken = ModelQueue(session, NETUID).take("voicebench", "somebody")
        assert taken is not None
    left = {call("POST", "/get-model-to-score").json()["miner_uid"] for _ in range(2)}
    assert left == {2, 3, 4} - {taken.uid}
