"""The model client against a server that does all an untrusted server may do."""

from __future__ import annotations

import json
import multiprocessing
import resource
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from model_server import ModelServer, decoded, tone

from gpu.evaluation.contract import Deadline, ModelFault, ModelFaultCode
from gpu.evaluation.model_client import BadAnswer, BadAnswerCode, ModelClient

PATIENT = 20.0
SHORT = 0.6

ASK: dict[str, Callable[[ModelClient], object]] = {
    "text": lambda client: client.text(tone()),
    "speech": lambda client: client.speech(tone()),
    "caption": lambda client: client.caption([0.5] * 1024),
}


def ask(server: ModelServer, kind: str = "text", deadline: Deadline | None = None, limit: float = PATIENT) -> object:
    with ModelClient(server.url, limit, deadline or Deadline(60)) as client:
        return ASK[kind](client)


def test_a_text_answer_and_what_the_model_is_asked() -> None:
    heard: list[tuple[np.ndarray, int]] = []

    def answer(wave: np.ndarray, rate: int) -> str:
        heard.append((wave, rate))
        return "  Four. \n"

    with ModelServer(answer=answer) as server:
        assert ask(server) == "Four."
    assert server.requests == [("POST", "/api/v1/v2t")]
    (wave, rate) = heard[0]
    assert rate == 16_000
    assert wave.dtype == np.float32
    np.testing.assert_array_equal(wave, tone())


def test_a_spoken_answer_comes_as_mono_float32() -> None:
    shapes: list[tuple[int, ...]] = []
    answers = iter([tone()[np.newaxis], tone(), (tone() * 32767).astype(np.int16), tone()[:, np.newaxis]])

    def speech(wave: np.ndarray, rate: int) -> np.ndarray:
        shapes.append(wave.shape)
        return next(answers)

    with ModelServer(speech=speech) as server, ModelClient(server.url, PATIENT, Deadline(60)) as client:
        for _ in range(4):
            said = client.speech(tone())
            assert (said.rate, said.wave.dtype, said.wave.shape) == (16_000, np.float32, tone().shape)
            np.testing.assert_allclose(said.wave, tone(), atol=1e-4)
    assert server.requests[0] == ("POST", "/api/v1/v2v")


def test_a_caption() -> None:
    with ModelServer(caption=lambda embedding: f"{len(embedding)} numbers") as server:
        assert ask(server, "caption") == "1024 numbers"


@pytest.mark.parametrize(
    ("misbehaviour", "code"),
    [
        ("hang", BadAnswerCode.TIME),
        ("drip", BadAnswerCode.TIME),
        ("drip_headers", BadAnswerCode.TIME),
        ("endless_headers", BadAnswerCode.BROKEN_OFF),
        ("status_500", BadAnswerCode.STATUS),
        ("redirect", BadAnswerCode.STATUS),
        ("garbage", BadAnswerCode.NOT_JSON),
        ("binary", BadAnswerCode.NOT_JSON),
        ("nested", BadAnswerCode.NOT_JSON),
        ("not_an_object", BadAnswerCode.WRONG_TYPE),
        ("wrong_type", BadAnswerCode.WRONG_TYPE),
        ("empty", BadAnswerCode.EMPTY),
        ("long_text", BadAnswerCode.TOO_LARGE),
        ("gigabytes", BadAnswerCode.TOO_LARGE),
        ("gigabytes_declared", BadAnswerCode.TOO_LARGE),
        ("gzip_bomb", BadAnswerCode.ENCODING),
        ("close_early", BadAnswerCode.BROKEN_OFF),
        ("reset", BadAnswerCode.BROKEN_OFF),
    ],
)
def test_a_bad_answer_is_a_failed_sample_with_its_reason(misbehaviour: str, code: BadAnswerCode) -> None:
    with ModelServer(misbehaviour) as server:
        begun = time.monotonic()
        with pytest.raises(BadAnswer) as caught:
            ask(server, limit=SHORT if code is BadAnswerCode.TIME else PATIENT)
        assert caught.value.code is code, str(caught.value)
        assert time.monotonic() - begun < PATIENT / 2
        assert server.asked == 1


@pytest.mark.parametrize(
    ("misbehaviour", "code"),
    [
        ("wrong_type", BadAnswerCode.WRONG_TYPE),
        ("empty", BadAnswerCode.EMPTY),
        ("gigabytes", BadAnswerCode.TOO_LARGE),
        ("empty_containers", BadAnswerCode.NOT_JSON),
        ("huge_shape", BadAnswerCode.AUDIO),
        ("pickled_audio", BadAnswerCode.AUDIO),
        ("not_finite", BadAnswerCode.AUDIO),
    ],
)
def test_bad_speech(misbehaviour: str, code: BadAnswerCode) -> None:
    with ModelServer(misbehaviour) as server, ModelClient(server.url, 20, Deadline(60)) as client:
        with pytest.raises(BadAnswer) as caught:
            client.speech(tone())
        assert caught.value.code is code, str(caught.value)


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ({"audio_data": "!!!"}, BadAnswerCode.AUDIO),
        ({"audio_data": "AAAA"}, BadAnswerCode.AUDIO),
        ({"audio_data": None}, BadAnswerCode.WRONG_TYPE),
        ({"audio_data": "", "sample_rate": True}, BadAnswerCode.WRONG_TYPE),
        ({"audio_data": "", "sample_rate": 10**9}, BadAnswerCode.WRONG_TYPE),
    ],
)
def test_speech_that_is_none(answer: dict[str, object], code: BadAnswerCode, monkeypatch: pytest.MonkeyPatch) -> None:
    async def post(*_: object) -> bytes:
        return json.dumps(answer).encode()

    monkeypatch.setattr(ModelClient, "_post", post)
    with ModelClient("http://127.0.0.1:9", 5, Deadline(60)) as client, pytest.raises(BadAnswer) as caught:
        client.speech(tone())
    assert caught.value.code is code


def test_speech_longer_than_three_minutes_or_in_stereo_is_refused() -> None:
    answers = iter([np.zeros(181 * 16_000, np.int8), np.zeros((2, 8000), np.float32)])
    with (
        ModelServer(speech=lambda wave, rate: next(answers)) as server,
        ModelClient(server.url, PATIENT, Deadline(60)) as client,
    ):
        with pytest.raises(BadAnswer, match="longer than 180 s"):
            client.speech(tone())
        with pytest.raises(BadAnswer, match="shape"):
            client.speech(tone())


def test_half_a_surrogate_pair_does_not_reach_judge_or_store() -> None:
    with ModelServer(answer=lambda wave, rate: "odd \ud800 text\0") as server:
        text = ask(server)
    assert isinstance(text, str)
    assert text == "odd ? text"


def test_nobody_listens() -> None:
    with ModelServer() as server:
        url = server.url
    with ModelClient(url, 5, Deadline(60)) as client, pytest.raises(BadAnswer) as caught:
        client.text(tone())
    assert caught.value.code is BadAnswerCode.NO_CONNECTION


def test_the_deadline_is_the_models_fault() -> None:
    with ModelServer("drip") as server:
        with pytest.raises(ModelFault) as caught:
            ask(server, deadline=Deadline(0.2))
        assert caught.value.code is ModelFaultCode.TIME_LIMIT
        with pytest.raises(ModelFault):
            ask(server, deadline=Deadline(0))
        assert server.asked == 1


def test_no_proxy_cookie_or_compression(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    with ModelServer("cookie") as server, ModelClient(server.url, PATIENT, Deadline(60)) as client:
        client.text(tone())
        client.text(tone())
    assert server.asked == 2
    for headers in server.headers_seen:
        assert "cookie" not in headers
        assert headers["accept-encoding"] == "identity"


def _ask_within(limit: int, url: str, kind: str, outcome: multiprocessing.SimpleQueue[str]) -> None:
    """In a process of its own: address space bounded to what it has plus ``limit`` bytes."""
    with ModelClient(url, 30, Deadline(60)) as client:
        client.text(tone())
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + limit, used + limit))
        try:
            ASK[kind](client)
        except BadAnswer as bad:
            outcome.put(bad.code.value)
        except MemoryError:
            outcome.put("out of memory")


@pytest.mark.parametrize(
    ("misbehaviour", "kind"),
    [
        ("gigabytes", "text"),
        ("gigabytes_declared", "text"),
        ("gzip_bomb", "text"),
        ("gigabytes", "speech"),
        ("empty_containers", "speech"),
        ("huge_shape", "speech"),
    ],
)
def test_memory_stays_bounded(misbehaviour: str, kind: str) -> None:
    context = multiprocessing.get_context("spawn")
    outcome = context.SimpleQueue()
    with ModelServer([None, misbehaviour]) as server:
        process = context.Process(target=_ask_within, args=(96 * 2**20, server.url, kind, outcome))
        process.start()
        process.join(60)
        assert process.exitcode == 0
    assert outcome.get() in {code.value for code in BadAnswerCode}


def test_what_is_sent_can_be_read_back() -> None:
    assert decoded(json.loads(json.dumps({"a": _encoded(tone())}))["a"]).shape == (1, 8000)


def _encoded(wave: np.ndarray) -> str:
    from gpu.evaluation.model_client import _question

    return str(_question(wave[np.newaxis])["audio_data"])
