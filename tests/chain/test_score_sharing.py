"""The score-sharing client against a local server with the API's routes."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

import pytest

from chain.score_sharing import (
    MOLECULE_METRICS,
    Averages,
    Posted,
    ScoreSharing,
    SharingFailed,
    averages_due,
    batch,
    wire_number,
    with_averages,
)
from chain.web import HostUnavailable, WebSession

NAME, HASH, TARGET = "rxn:4:1:11", "44364af0", "Q9UQM7"


class Api(ThreadingHTTPServer):
    """The API as NOVA's validator calls it; answers can be changed by a test."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.posted: list[Any] = []
        self.keys: set[str | None] = set()
        self.job: Any = {"status": "completed", "processed_count": 2, "total_count": 2}
        self.answers: dict[str, Any] = {
            f"/molecule-targets/{NAME}/19000": {"target_averages": {TARGET: {"ptm": 0.5, "iptm": None, "score": 0.25}}},
            f"/nanobodies/{HASH}/19000": {"target_averages": {"P05231": {"design_ptm": 0.75}}},
        }
        self.status = 200

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/"


class _Handler(BaseHTTPRequestHandler):
    server: Api

    def do_POST(self) -> None:
        self.server.posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        assert self.path == "/api/v1/validations/batch"
        assert self.headers["Content-Type"] == "application/json"
        self._answer({"job_id": 7, "status": "pending", "message": "accepted"})

    def do_GET(self) -> None:
        route = unquote(self.path.removeprefix("/api/v1"))
        answer = self.server.job if route == "/jobs/7" else self.server.answers.get(route)
        self._answer(answer)

    def _answer(self, answer: Any) -> None:
        self.server.keys.add(self.headers["X-API-Key"])
        body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(self.server.status if answer is not None else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def api() -> Iterator[Api]:
    server = Api()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def sharing(api: Api) -> ScoreSharing:
    return ScoreSharing(WebSession(), api.url, "secret-key")


def test_scores_are_posted_and_the_averages_taken(api: Api, sharing: ScoreSharing) -> None:
    document = batch(
        19000,
        {NAME: {TARGET: {"ptm": 0.4, "affinity_pred_value": float("-inf"), "score": float("inf")}}},
        {HASH: {"P05231": {"design_ptm": 0.7, "liability_score": float("nan")}}},
        ("design_ptm", "liability_score"),
    )
    posted = sharing.post(document)
    assert posted == Posted(7, "pending", "accepted")
    (received,) = api.posted
    assert received["epoch"] == 19000
    (molecule,) = received["molecules"]
    assert list(molecule) == ["name", "target_protein", *MOLECULE_METRICS, "score"]
    assert (molecule["name"], molecule["target_protein"], molecule["ptm"], molecule["iptm"]) == (
        NAME,
        TARGET,
        0.4,
        None,
    )
    assert (molecule["affinity_pred_value"], molecule["score"]) == (-999.99, 999.99)
    assert received["nanobodies"] == [
        {"sequence_hash": HASH, "target_protein": "P05231", "design_ptm": 0.7, "liability_score": None}
    ]
    averages = sharing.averages(posted, 19000, [NAME], [HASH])
    assert averages == Averages({NAME: {TARGET: {"ptm": 0.5, "score": 0.25}}}, {HASH: {"P05231": {"design_ptm": 0.75}}})
    assert Averages.of_document(json.loads(json.dumps(averages.document()))) == averages
    assert api.keys == {"secret-key"}
    assert "secret-key" not in repr(sharing)


def test_empty_lists_are_left_out() -> None:
    assert batch(19000, {}, {}, ()) == {"epoch": 19000}


def test_one_item_without_averages_costs_its_kind_only(api: Api, sharing: ScoreSharing) -> None:
    averages = sharing.averages(Posted(7), 19000, [NAME, "rxn:4:2:12"], [HASH])
    assert averages.molecules is None
    assert averages.nanobodies == {HASH: {"P05231": {"design_ptm": 0.75}}}
    (note,) = averages.notes
    assert "no averages for molecules" in note
    assert "rxn:4:2:12 with status 404" in note


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"<html>", "not JSON"),
        (b"[1, 2]", "something else than an object"),
        (b"[" * 10_000, "nested too deeply"),
        ({"averages": {}}, "no averages of"),
        ({"target_averages": []}, "no averages of"),
        (b'{"target_averages": {"Q9UQM7": {"ptm": NaN}}}', "not a number"),
    ],
)
def test_an_unusable_answer_is_no_average(api: Api, sharing: ScoreSharing, answer: Any, why: str) -> None:
    api.answers[f"/molecule-targets/{NAME}/19000"] = answer
    averages = sharing.averages(Posted(None), 19000, [NAME], [])
    assert averages.molecules is None
    assert why in averages.notes[0]


def test_what_is_no_number_in_an_average_is_left_out(api: Api, sharing: ScoreSharing) -> None:
    api.answers[f"/molecule-targets/{NAME}/19000"] = {
        "target_averages": {TARGET: {"ptm": "0.5", "iptm": True, "score": 10**400, "complex_pde": 1}, "X": [1]}
    }
    assert sharing.averages(Posted(None), 19000, [NAME], []).molecules == {NAME: {TARGET: {"complex_pde": 1.0}}}


def test_a_failed_job_means_local_scores(api: Api, sharing: ScoreSharing) -> None:
    api.job = {"status": "FAILED", "error_message": "no such epoch"}
    with pytest.raises(SharingFailed, match="no such epoch"):
        sharing.averages(Posted(7), 19000, [NAME], [])


def test_a_pending_job_is_a_note(api: Api, sharing: ScoreSharing) -> None:
    api.job = {"status": "pending", "processed_count": 1, "total_count": 3}
    averages = sharing.averages(Posted(7), 19000, [NAME], [])
    assert averages.molecules is not None
    assert averages.notes == ("job 7 is pending, 1 of 3 processed",)


def test_a_refused_post_is_told_and_never_repeated(api: Api, sharing: ScoreSharing) -> None:
    api.status = 401
    with pytest.raises(SharingFailed, match="status 401"):
        sharing.post({"epoch": 1})
    api.status = 503
    with pytest.raises(HostUnavailable, match="503"):
        sharing.post({"epoch": 1})
    api.status = 307
    with pytest.raises(HostUnavailable, match="redirects what was posted"):
        sharing.post({"epoch": 1})
    assert len(api.posted) == 3


def test_averages_replace_our_numbers_where_there_is_one() -> None:
    own = {"ptm": 0.4, "iptm": 0.3}
    assert with_averages(own, {"ptm": 0.5, "iptm": None, "score": -999.99}) == {
        "ptm": 0.5,
        "iptm": 0.3,
        "score": -999.99,
    }
    assert with_averages(own, {}) == own


def test_the_averages_are_due_a_hundred_blocks_before_the_next_epochs_end() -> None:
    assert averages_due(6_860_000, 361) == 6_860_261


@pytest.mark.parametrize(
    ("value", "wire"),
    [
        (None, None),
        ("2.5", 2.5),
        (0, 0.0),
        (float("inf"), 999.99),
        (float("-inf"), -999.99),
        ("inf", 999.99),
        (float("nan"), None),
        ("x", None),
        ([], None),
        (10**400, None),
    ],
)
def test_numbers_on_the_wire(value: object, wire: float | None) -> None:
    assert wire_number(value) == wire
