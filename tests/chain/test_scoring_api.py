"""The client of a scoring API against a node on a real socket."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import pytest
from bittensor_core import Keypair

from app.domain import ModelCommitment, ModelId
from chain import scoring_api
from chain.hotkey import KeypairSigner
from chain.scoring_api import (
    EvaluationRequest,
    EvaluationState,
    ScorerBusy,
    ScorerGaveUp,
    ScorerUnavailable,
    ScoringApi,
    read_evaluation,
)
from tests.chain.scoring_node import ScoringNode

KEY = Keypair.create_from_uri("//Validator")
REQUEST = EvaluationRequest.of(
    ModelCommitment("5Miner", 77, ModelId("maker", "model", None, "c0ffee", None, "voicebench"))
)


@pytest.fixture
def node() -> Iterator[ScoringNode]:
    with ScoringNode(KEY.ss58_address) as found:
        yield found


@pytest.fixture
def api(node: ScoringNode) -> ScoringApi:
    return ScoringApi(node.url + "/", KeypairSigner(KEY), basic=True)


def test_a_model_is_started_and_its_score_read(node: ScoringNode, api: ScoringApi) -> None:
    assert api.name == node.url
    task = api.start(REQUEST)
    assert node.started == [
        {"hf_repo_id": "maker/model", "competition_id": "voicebench", "hotkey": "5Miner", "block": 77}
    ]
    assert api.look(REQUEST, task).state is EvaluationState.SCORING
    node.answer = {"status": "completed", "score": 0.7, "metric_scores": {"ifeval": 0.6}, "error": None}
    found = api.look(REQUEST, task)
    assert (found.state, found.score, found.metric_scores) == (EvaluationState.COMPLETED, 0.7, {"ifeval": 0.6})


def test_a_busy_node_says_so(node: ScoringNode, api: ScoringApi) -> None:
    api.start(REQUEST)
    with pytest.raises(ScorerBusy, match="already scoring"):
        api.start(REQUEST)


def test_a_model_that_nobody_is_at_yet_is_waiting(node: ScoringNode, api: ScoringApi) -> None:
    task = api.start(REQUEST)
    node.answer = {"status": "scoring", "started_at": None, "error": "the judge is unavailable"}
    found = api.look(REQUEST, task)
    assert (found.state, found.error) == (EvaluationState.WAITING, "the judge is unavailable")
    node.answer = {"status": "scoring", "started_at": "2026-01-01T00:00:00+00:00"}
    assert api.look(REQUEST, task).state is EvaluationState.SCORING


def test_a_model_that_the_node_gave_up_is_no_outage(node: ScoringNode, api: ScoringApi) -> None:
    task = api.start(REQUEST)
    node.broken = 410
    with pytest.raises(ScorerGaveUp, match="gave the model up: broken"):
        api.look(REQUEST, task)


def test_what_the_node_does_not_know_is_unknown(node: ScoringNode, api: ScoringApi) -> None:
    assert api.look(REQUEST, None).state is EvaluationState.UNKNOWN
    api.start(REQUEST)
    assert api.look(REQUEST, "another").state is EvaluationState.UNKNOWN
    node.working_on = {"hf_repo_id": "somebody/else", "hotkey": "5Miner", "competition_id": "voicebench"}
    assert api.look(REQUEST, None).state is EvaluationState.UNKNOWN


def test_an_older_node_gets_basic_unless_it_is_off(node: ScoringNode) -> None:
    node.only_basic = True
    assert ScoringApi(node.url, KeypairSigner(KEY), basic=True).start(REQUEST) == "task1"
    with pytest.raises(ScorerUnavailable, match="401"):
        ScoringApi(node.url, KeypairSigner(KEY), basic=False).start(REQUEST)


def test_a_foreign_hotkey_is_turned_away(node: ScoringNode) -> None:
    unknown = KeypairSigner(Keypair.create_from_uri("//Unknown"))
    with pytest.raises(ScorerUnavailable, match="401"):
        ScoringApi(node.url, unknown, basic=True).start(REQUEST)


@pytest.mark.parametrize("fault", [500, 502, 429, "silent", "garbage", "cut", "chunk", "gzip", "dripping"])
def test_a_broken_node_is_unavailable_and_no_fault_of_the_model(
    node: ScoringNode, api: ScoringApi, fault: int | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring_api, "_ANSWER_SECONDS", 0.5)
    node.broken = fault
    with pytest.raises(ScorerUnavailable, match=r"127\.0\.0\.1"):
        api.start(REQUEST)
    with pytest.raises(ScorerUnavailable, match=r"127\.0\.0\.1"):
        api.look(REQUEST, "task1")


def test_an_answer_that_drips_is_given_up_at_its_deadline(
    node: ScoringNode, api: ScoringApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring_api, "_ANSWER_SECONDS", 0.3)
    node.broken = "dripping"
    began = time.monotonic()
    with pytest.raises(ScorerUnavailable, match=r"longer than 0\.3 s"):
        api.look(REQUEST, None)
    assert time.monotonic() - began < 3


def test_nobody_there_is_unavailable() -> None:
    with pytest.raises(ScorerUnavailable, match="does not answer"):
        ScoringApi("http://127.0.0.1:1", KeypairSigner(KEY), basic=True).start(REQUEST)


@pytest.mark.parametrize("score", [None, "0.5", math.nan, math.inf, -0.1, 1.1, 1e6, True, [0.5]])
def test_a_completed_evaluation_without_a_usable_score_is_the_scorers_fault(score: object) -> None:
    with pytest.raises(ScorerGaveUp, match="for a score from 0 to 1"):
        read_evaluation({"status": "completed", "score": score})


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ("failed", EvaluationState.FAILED),
        ("timeout", EvaluationState.TIMEOUT),
        ("scoring", EvaluationState.SCORING),
    ],
)
def test_states_are_read_as_they_are(status: object, state: EvaluationState) -> None:
    assert read_evaluation({"status": status, "error": "why"}).state is state


@pytest.mark.parametrize("status", ["dancing", None, 7, ["completed"], "waiting", "unknown"])
def test_a_status_that_nobody_knows_is_the_scorers_fault(status: object) -> None:
    with pytest.raises(ScorerUnavailable, match="reports the status"):
        read_evaluation({"status": status, "score": 0.5})
