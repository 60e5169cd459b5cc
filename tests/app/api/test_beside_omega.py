"""Beside OMEGA's validators (profile ``omega-v4``): their client at our API, and our client at their scoring API."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.api.application import create_app
from app.settings import get_settings
from app.store.competitions import Competitions
from app.store.database import Store
from chain.hotkey import KeypairSigner
from chain.scoring_api import EvaluationRequest, EvaluationState, ScorerBusy, ScoringApi
from tests.app.api.conftest import basic
from tests.app.competitions.competition_fixtures import VALIDATOR, fill, miner, model, scored

on_sqlite = pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)


@pytest.fixture
def client(store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """Our API in the profile, over two models of ``v4`` without a score."""
    monkeypatch.setenv("NETUID", "21")
    monkeypatch.setenv("COMPETITION_PROFILE", "omega-v4")
    get_settings.cache_clear()
    fill(store, 2, "v4")
    with TestClient(create_app(), raise_server_exceptions=False) as found:
        yield found


@on_sqlite
def test_an_empty_store_tells_their_client_to_keep_its_weights(client: TestClient) -> None:
    for send in (client.post, client.get):
        answer = send("/get-all-model-scores", headers=basic())
        assert answer.status_code == 200
        assert answer.json()["success"] is False
        assert answer.json()["message"]


@on_sqlite
def test_their_client_takes_scores_and_reads_as_it_is_used_to(client: TestClient, store: Store) -> None:
    taken = client.post("/get-model-to-score", json={"competition_id": "v4"}, headers=basic()).json()
    assert taken["success"] is True
    uid = taken["miner_uid"]
    posted = {
        "miner_hotkey": miner(uid),
        "miner_uid": uid,
        "model_metadata": {
            "id": {"namespace": "maker", "name": f"model{uid}", "competition_id": "v4"},
            "block": 100 + uid,
        },
        "model_hash": "abc123",
        "model_score": 0.61,
        "metric_scores": {"combined_score": 0.61, "voicebench": {"ifeval": 0.5}},
    }
    assert client.post("/score-model", json=posted, headers=basic()).json()["success"] is True
    scores = client.post("/get-all-model-scores", headers=basic()).json()
    assert scores["success"] is True
    (entry,) = scores["model_scores"][str(uid)]
    assert (entry["score"], entry["competition_id"], entry["model_hash"]) == (0.61, "v4", "abc123")
    assert set(entry) == {
        *("hotkey", "competition_id", "model_name", "score", "scored_at", "block", "model_hash", "score_details"),
    }
    with store.writing() as session:
        Competitions(session).set_baseline("v4", 0.4, "test")
    assert client.get("/baseline-score/v4", headers=basic()).json()["score"] == 0.4
    assert client.get("/baseline-score/none", headers=basic()).status_code == 404
    assert client.get("/reputations", headers=basic()).json() == {}
    assert client.get("/").json()["status"] == "ok"


@on_sqlite
def test_what_their_dashboards_read_needs_no_signature(client: TestClient, store: Store) -> None:
    scored(store, 2, 0.5, 0.7)
    assert client.get("/get-top-model").json() == {"v4": [{"uid": 2, "score": 0.7}]}
    series = client.get("/get-eval-metrics").json()
    assert series["success"] is True
    assert [point["value"] for point in series["data"]["score"]] == [0.5, 0.7]
    assert client.get("/reputations").status_code == 401
    assert "security" not in client.get("/openapi.json").json()["paths"]["/get-top-model"]["get"]


@on_sqlite
def test_the_document_s_profile_keeps_these_reads_signed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NETUID", "21")
    get_settings.cache_clear()
    fill(store, 1)
    with TestClient(create_app(), raise_server_exceptions=False) as client:
        for path in ("/get-top-model", "/get-eval-metrics"):
            assert client.get(path).status_code == 401
            assert client.get(path, headers=basic()).status_code == 200


class TheirScoringApi(BaseHTTPRequestHandler):
    """Basic alone, no task id, null while idle, times without a zone, and whatever a start said in the background."""

    task: dict[str, Any] | None = None

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self._allowed():
            return
        assert self.path == "/api/start_model_scoring"
        present = type(self).task
        if present is not None and present["status"] == "scoring":
            message = f"Model {present['inputs']['hf_repo_id']} is already being scored"
            self._send({"success": False, "message": message})
            return
        type(self).task = {
            "inputs": body,
            "status": "scoring",
            "score": None,
            "metric_scores": None,
            "error": None,
            "started_at": "2026-11-26T09:00:00.123456",
            "completed_at": None,
        }
        self._send({"success": True, "message": f"Added {body['hf_repo_id']} to scoring queue"})

    def do_GET(self) -> None:
        if self._allowed():
            assert self.path.startswith("/api/check_scoring_status")
            self._send(type(self).task)

    def _allowed(self) -> bool:
        user, _, proof = base64.b64decode(self.headers.get("Authorization", "").removeprefix("Basic ")).partition(b":")
        if user.decode() == VALIDATOR.ss58_address and proof.startswith(b"0x"):
            return True
        self._send({"detail": "Not authenticated"}, 401)
        return False

    def _send(self, answer: Any, status: int = 200) -> None:
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def theirs() -> Iterator[str]:
    TheirScoringApi.task = None
    with ThreadingHTTPServer(("127.0.0.1", 0), TheirScoringApi) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_our_client_at_their_scoring_api(theirs: str) -> None:
    api = ScoringApi(theirs, KeypairSigner(VALIDATOR), basic=True)
    request, other = EvaluationRequest.of(model(2, "v4")), EvaluationRequest.of(model(3, "v4"))
    assert api.look(request, None).state is EvaluationState.UNKNOWN
    assert api.start(request) is None
    with pytest.raises(ScorerBusy, match="already being scored"):
        api.start(other)
    found = api.look(request, None)
    # at work; since when is not known, for nobody says in which zone their clock stands
    assert (found.state, found.started_at) == (EvaluationState.SCORING, None)
    assert api.look(other, None).state is EvaluationState.UNKNOWN
    assert TheirScoringApi.task is not None
    TheirScoringApi.task |= {"status": "completed", "score": 0.61, "metric_scores": {"combined_score": 0.61}}
    done = api.look(request, None)
    assert (done.state, done.score, done.metric_scores) == (EvaluationState.COMPLETED, 0.61, {"combined_score": 0.61})
    TheirScoringApi.task |= {"status": "failed", "score": None, "error": "no container"}
    assert (api.look(request, None).state, api.look(request, None).error) == (EvaluationState.FAILED, "no container")
