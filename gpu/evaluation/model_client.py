"""The HTTP contract of a model's container, spoken to a server that may do anything."""

from __future__ import annotations

import asyncio
import base64
import binascii
import io
import json
import time
import tokenize
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from http.cookiejar import CookieJar, DefaultCookiePolicy
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
import numpy.typing as npt

from app.domain import ValidatorError
from app.untrusted import NotJson, read_json, shown
from gpu.evaluation.contract import Deadline

if TYPE_CHECKING:
    import httpx2

SAMPLE_RATE: Final = 16_000
# twice what the longest instruction asks for; some checks need the square of it in time
MAX_TEXT: Final = 10_000

_TEXT_BYTES: Final = 2**20
_SPEECH_BYTES: Final = 16 * 2**20
_JSON_PARTS: Final = 100_000
_SECONDS: Final = 180
_RATES: Final = range(8_000, 48_001)
_NPY_HEADER: Final = 1024

Waveform = npt.NDArray[np.float32]


class BadAnswerCode(StrEnum):
    """What was wrong with one answer."""

    NO_CONNECTION = "no_connection"
    TIME = "time"
    BROKEN_OFF = "broken_off"
    STATUS = "status"
    ENCODING = "encoding"
    TOO_LARGE = "too_large"
    NOT_JSON = "not_json"
    WRONG_TYPE = "wrong_type"
    EMPTY = "empty"
    AUDIO = "audio"
    UNJUDGEABLE = "unjudgeable"


class BadAnswer(ValidatorError):
    """One request got no usable answer: that sample failed, and the message says why."""

    def __init__(self, code: BadAnswerCode, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Speech:
    """Mono sound. ``wave`` is float32, shape ``(T,)``, finite; ``rate`` in samples per second."""

    wave: Waveform
    rate: int


class ModelClient:
    """Asks the model at ``base_url``; use it as a context manager.

    Every answer must be over, headers and body, within ``answer_limit`` seconds and the deadline, and its body is read
    no further than the contract needs: 1 MiB of text, 16 MiB of speech. No redirects, cookies, proxies or compression.
    """

    def __init__(self, base_url: str, answer_limit: float, deadline: Deadline) -> None:
        self._base_url = base_url.rstrip("/")
        self._answer_limit = answer_limit
        self._deadline = deadline
        self.latency = 0.0
        """Seconds that the last answer, good or bad, took."""

    def __enter__(self) -> Self:
        import httpx2

        self._runner = asyncio.Runner()
        self._client = httpx2.AsyncClient(
            headers={"Accept-Encoding": "identity", "Content-Type": "application/json"},
            follow_redirects=False,
            trust_env=False,
            timeout=None,
            # a kept connection may die between two questions, and that would look like a failed answer
            limits=httpx2.Limits(max_keepalive_connections=0),
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._runner.run(self._client.aclose())
        self._runner.close()

    def text(self, wave: Waveform) -> str:
        """The model's text answer to a spoken question (``POST /api/v1/v2t``).

        ``wave`` has shape ``(T,)``, 16 kHz.

        Raises:
            BadAnswer: the answer is late, broken, too large, not the contract's, or empty.
            ModelFault: the deadline is over.
        """
        answer = self._ask("/api/v1/v2t", _question(wave), _TEXT_BYTES)
        return _usable(answer.get("text"), "text")

    def speech(self, wave: Waveform) -> Speech:
        """The model's spoken answer (``POST /api/v1/v2v``): ``audio_data`` as in the question, at the ``sample_rate``
        that it states, or 16 kHz.

        ``wave`` has shape ``(T,)``, 16 kHz; it travels as ``(1, T)``.

        Raises:
            BadAnswer: as for ``text``, or the audio is not a finite mono array.
            ModelFault: the deadline is over.
        """
        answer = self._ask("/api/v1/v2v", _question(wave[np.newaxis]), _SPEECH_BYTES)
        rate = answer.get("sample_rate", SAMPLE_RATE)
        if type(rate) is not int or rate not in _RATES:
            raise BadAnswer(
                BadAnswerCode.WRONG_TYPE,
                f"the answer's sample_rate must be a whole number from 8000 to 48000, not {shown(rate, 40)}",
            )
        wave = _waveform(answer.get("audio_data"))
        if len(wave) > _SECONDS * rate:
            raise BadAnswer(BadAnswerCode.TOO_LARGE, f"the answer is longer than {_SECONDS} s")
        return Speech(wave, rate)

    def caption(self, embedding: Sequence[float]) -> str:
        """The model's caption of one video embedding (``POST /api/v1/inference``).

        Raises:
            BadAnswer: as for ``text``; also where ``texts`` is not a list of one string.
            ModelFault: the deadline is over.
        """
        answer = self._ask("/api/v1/inference", {"embedding": list(embedding)}, _TEXT_BYTES)
        texts = answer.get("texts")
        if not isinstance(texts, list) or len(texts) != 1:
            raise BadAnswer(BadAnswerCode.WRONG_TYPE, "the answer must hold 'texts', a list of one caption")
        return _usable(texts[0], "texts[0]")

    def _ask(self, path: str, question: Mapping[str, object], limit: int) -> Mapping[str, Any]:
        left = self._deadline.check("asking the model")
        body = json.dumps(question).encode()
        begun = time.monotonic()
        try:
            raw = self._runner.run(self._post(path, body, limit, min(left, self._answer_limit)))
        except TimeoutError:
            self._deadline.check("waiting for the model's answer")
            message = f"the answer was not complete within {self._answer_limit:g} s"
            raise BadAnswer(BadAnswerCode.TIME, message) from None
        finally:
            self.latency = time.monotonic() - begun
        return _object(raw)

    async def _post(self, path: str, body: bytes, limit: int, seconds: float) -> bytes:
        import httpx2

        try:
            async with (
                asyncio.timeout(seconds),
                self._client.stream("POST", self._base_url + path, content=body) as response,
            ):
                return await _read(response, limit)
        except httpx2.ConnectError:
            raise BadAnswer(BadAnswerCode.NO_CONNECTION, "the model's server does not accept connections") from None
        except httpx2.HTTPError as error:
            message = f"the model's server broke off its answer ({type(error).__name__})"
            raise BadAnswer(BadAnswerCode.BROKEN_OFF, message) from None


async def _read(response: httpx2.Response, limit: int) -> bytes:
    if not response.is_success:
        raise BadAnswer(BadAnswerCode.STATUS, f"the model's server answered with status {response.status_code}")
    encoding = response.headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        raise BadAnswer(
            BadAnswerCode.ENCODING, f"the answer is compressed ({shown(encoding, 20)}), which was not asked for"
        )
    parts = bytearray()
    async for chunk in response.aiter_raw():
        if len(parts) + len(chunk) > limit:
            raise BadAnswer(BadAnswerCode.TOO_LARGE, f"the answer is larger than {limit} bytes")
        parts += chunk
    return bytes(parts)


def _object(raw: bytes) -> Mapping[str, Any]:
    # a body of brackets and commas alone would grow a hundredfold as objects
    if sum(map(raw.count, (b"[", b"{", b","))) > _JSON_PARTS:
        raise BadAnswer(BadAnswerCode.NOT_JSON, "the answer's JSON has too many parts")
    try:
        answer = read_json(raw, lenient=True)
    except NotJson:
        raise BadAnswer(BadAnswerCode.NOT_JSON, "the answer is not JSON") from None
    if not isinstance(answer, dict):
        raise BadAnswer(BadAnswerCode.WRONG_TYPE, "the answer is not a JSON object")
    return answer


def _usable(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise BadAnswer(BadAnswerCode.WRONG_TYPE, f"the answer must hold {name!r}, a string")
    # half a surrogate pair is valid JSON but no text: neither the judge nor the store could take it
    text = value.encode("utf-8", "replace").decode().replace("\0", "").strip()
    if not text:
        raise BadAnswer(BadAnswerCode.EMPTY, "the answer is empty")
    if len(text) > MAX_TEXT:
        raise BadAnswer(BadAnswerCode.TOO_LARGE, f"the answer is longer than {MAX_TEXT} characters")
    return text


def _question(wave: npt.NDArray[np.float32]) -> Mapping[str, object]:
    buffer = io.BytesIO()
    np.save(buffer, wave.astype(np.float32, copy=False))
    return {"audio_data": base64.b64encode(buffer.getvalue()).decode(), "sample_rate": SAMPLE_RATE}


def _waveform(value: object) -> Waveform:
    if not isinstance(value, str):
        raise BadAnswer(BadAnswerCode.WRONG_TYPE, "the answer must hold 'audio_data', a base64 string")
    try:
        array = _npy(base64.b64decode(value, validate=True))
    except (binascii.Error, ValueError, TypeError, SyntaxError, RecursionError, tokenize.TokenError):
        message = "audio_data is not the base64 of a .npy array of numbers"
        raise BadAnswer(BadAnswerCode.AUDIO, message) from None
    if array.ndim == 2 and 1 in array.shape:
        array = array.reshape(-1)
    if array.ndim != 1:
        raise BadAnswer(BadAnswerCode.AUDIO, f"audio_data must have shape (T,) or (1, T), not {shown(array.shape, 60)}")
    if array.size == 0:
        raise BadAnswer(BadAnswerCode.EMPTY, "the answer is empty")
    scale = np.float32(np.iinfo(array.dtype).max if array.dtype.kind == "i" else 1.0)
    with np.errstate(all="ignore"):
        wave = array.astype(np.float32) / scale
    if not np.isfinite(wave).all():
        raise BadAnswer(BadAnswerCode.AUDIO, "audio_data holds numbers that are not finite")
    clipped: Waveform = np.clip(wave, -1.0, 1.0)
    return clipped


def _npy(raw: bytes) -> npt.NDArray[Any]:
    """The array of a ``.npy`` file, whose header is not believed: ``np.load`` would allocate what it states."""
    file = io.BytesIO(raw)
    version = np.lib.format.read_magic(file)
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read_header is None:
        raise ValueError("unknown version")
    shape, fortran_order, dtype = read_header(file, max_header_size=_NPY_HEADER)
    if dtype.kind not in "fi":
        raise ValueError("not numbers")
    flat = np.frombuffer(raw, dtype=dtype, offset=file.tell())
    return flat.reshape(shape, order="F" if fortran_order else "C")
