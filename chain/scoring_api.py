"""Client of a scoring API: start a model's evaluation on a GPU node and ask how it goes."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, Protocol

import requests
from urllib3.exceptions import HTTPError

from app.domain import ModelCommitment, ValidatorError
from app.observability.metrics import Fault, Service, fault_of, fault_of_status, service_asked
from app.untrusted import NotJson, read_json, shown
from chain.hotkey import Signer, basic_credentials, signed_headers
from chain.web import body_of

_CONNECT_SECONDS: Final = 10.0
_READ_SECONDS: Final = 30.0
# In all, for one answer.
_ANSWER_SECONDS: Final = 60.0
_LONGEST_ANSWER: Final = 4 * 1024 * 1024
_UNAUTHORIZED: Final = 401


class ScorerUnavailable(ValidatorError):
    """The scorer cannot be used now, for a reason that is not the model's."""


class ScorerBusy(ScorerUnavailable):
    """The scorer works on another model."""


class ScorerGaveUp(ScorerUnavailable):
    """The scorer ended the evaluation without a score, or does not begin it, for a fault of its own."""


class EvaluationState(StrEnum):
    """How far an evaluation is. ``waiting``: not begun; ``unknown``: the scorer knows nothing of it (any more)."""

    WAITING = "waiting"
    SCORING = "scoring"
    COMPLETED = "completed"
    FAILED = "failed"
    TIMEOUT = "timeout"
    UNKNOWN = "unknown"


# What a scorer may say; the other two are readings of ours.
_STATES: Final[Mapping[str, EvaluationState]] = {
    state.value: state for state in EvaluationState if state not in {EvaluationState.WAITING, EvaluationState.UNKNOWN}
}


@dataclass(frozen=True, slots=True)
class EvaluationRequest:
    """What a scorer is asked to evaluate, in the contract's words."""

    hf_repo_id: str
    competition_id: str
    hotkey: str
    block: int

    @classmethod
    def of(cls, commitment: ModelCommitment) -> EvaluationRequest:
        """The request for a committed model."""
        model = commitment.model
        return cls(model.repository, model.competition_id or "", commitment.hotkey, commitment.block)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a scorer says of an evaluation. ``score`` is finite where ``state`` is completed.

    ``started_at`` is when the work on it began, where the scorer says so.
    """

    state: EvaluationState
    score: float | None = None
    metric_scores: Mapping[str, Any] | None = None
    error: str | None = None
    model_hash: str | None = None
    started_at: datetime | None = None


class ModelScorer(Protocol):
    """Anything that evaluates models: a scoring API, or this cluster's own GPU worker."""

    @property
    def name(self) -> str:
        """What the scorer is called in the store: its address, or ``local:0``."""
        ...

    def start(self, request: EvaluationRequest) -> str | None:
        """Begin, and return the scorer's task id (None where it gives none).

        Raises:
            ScorerBusy: it works on another model.
            ScorerUnavailable: it cannot be used now.
        """
        ...

    def look(self, request: EvaluationRequest, task_id: str | None) -> Evaluation:
        """How the evaluation goes.

        Raises:
            ScorerGaveUp: it has ended the evaluation without a score.
            ScorerUnavailable: the scorer does not answer.
        """
        ...


class ScoringApi:
    """A scoring API at one address. Requests carry a signature that can be used once.

    A node that refuses it with 401 gets HTTP Basic, which older nodes know, unless ``basic`` is off.
    """

    def __init__(self, url: str, signer: Signer, *, basic: bool) -> None:
        self._url = url.rstrip("/")
        self._signer = signer
        self._basic = basic
        self._session = requests.Session()

    @property
    def name(self) -> str:
        """The address."""
        return self._url

    def start(self, request: EvaluationRequest) -> str | None:
        """``POST /api/start_model_scoring``."""
        answer = self._call("POST", "/api/start_model_scoring", json.dumps(asdict(request)).encode())
        if not isinstance(answer, dict) or not isinstance(answer.get("success"), bool):
            raise ScorerUnavailable(f"{self._url} gave an answer that is not the scoring API's: {shown(answer)}")
        if not answer["success"]:
            raise ScorerBusy(f"{self._url}: {shown(answer.get('message') or 'busy', 200)}")
        task_id = answer.get("task_id")
        return None if task_id is None else shown(task_id, 200)

    def look(self, request: EvaluationRequest, task_id: str | None) -> Evaluation:
        """``GET /api/check_scoring_status``. A report on another model means that ours is not known there."""
        query = {} if task_id is None else {"task_id": task_id}
        answer = self._call("GET", "/api/check_scoring_status", b"", query, missing_is_none=True)
        if answer is None:
            return Evaluation(EvaluationState.UNKNOWN)
        if not isinstance(answer, dict):
            raise ScorerUnavailable(f"{self._url} gave an answer that is not the scoring API's: {shown(answer)}")
        if not _is_about(answer.get("inputs"), request):
            return Evaluation(EvaluationState.UNKNOWN)
        return read_evaluation(answer)

    def _call(
        self,
        method: str,
        path: str,
        body: bytes,
        query: Mapping[str, str] | None = None,
        *,
        missing_is_none: bool = False,
    ) -> Any:
        # signed without the address's own prefix: a proxy that serves the node under one removes it
        signed = signed_headers(self._signer, method, path, body)
        response, content = self._send(method, path, body, query, signed, None)
        if response.status_code == _UNAUTHORIZED and self._basic:
            response, content = self._send(method, path, body, query, {}, basic_credentials(self._signer))
        if missing_is_none and response.status_code == requests.codes.not_found:
            return None
        if response.status_code == requests.codes.gone:
            raise ScorerGaveUp(f"{self._url} gave the model up: {_detail(content)}")
        if response.status_code == requests.codes.conflict:
            raise ScorerGaveUp(f"{self._url} cannot evaluate the model: {_detail(content)}")
        if response.status_code != requests.codes.ok:
            raise ScorerUnavailable(f"{self._url}{path} answered {response.status_code}: {shown(content)}")
        try:
            return read_json(content)
        except NotJson:
            raise ScorerUnavailable(f"{self._url}{path} answered no JSON: {shown(content)}") from None

    def _send(
        self,
        method: str,
        path: str,
        body: bytes,
        query: Mapping[str, str] | None,
        headers: Mapping[str, str],
        basic: tuple[str, str] | None,
    ) -> tuple[requests.Response, bytes]:
        began = time.monotonic()
        try:
            with self._session.request(
                method,
                f"{self._url}{path}",
                params=query,
                data=body or None,
                headers={"Content-Type": "application/json", **headers} if body else dict(headers),
                auth=basic,
                timeout=(_CONNECT_SECONDS, _READ_SECONDS),
                stream=True,
                allow_redirects=False,
            ) as response:
                content = body_of(response, _LONGEST_ANSWER, began, _ANSWER_SECONDS)
        except (requests.RequestException, HTTPError, OSError) as error:
            service_asked(Service.SCORING_API, fault_of(error))
            raise ScorerUnavailable(f"{self._url}{path} does not answer: {type(error).__name__}: {error}") from None
        if len(content) > _LONGEST_ANSWER:
            service_asked(Service.SCORING_API, Fault.MALFORMED)
            raise ScorerUnavailable(f"{self._url}{path} answered more than {_LONGEST_ANSWER} bytes")
        # 404, 409 and 410 say something of the model, not of the connection
        codes = requests.codes
        usable = response.status_code in {codes.ok, codes.not_found, codes.conflict, codes.gone}
        service_asked(Service.SCORING_API, None if usable else fault_of_status(response.status_code))
        return response, content


def read_evaluation(answer: Mapping[str, Any]) -> Evaluation:
    """A status answer as an :class:`Evaluation`.

    ``scoring`` with ``started_at: null`` has not begun; a node that does not say when it began has.

    Raises:
        ScorerUnavailable: a status that the scoring API does not have: the scorer's fault, and not the model's.
        ScorerGaveUp: it is completed, but with no score from 0 to 1: the scorer's fault too, and the end of it.
    """
    state = _STATES.get(str(answer.get("status")))
    if state is None:
        raise ScorerUnavailable(f"the scorer reports the status {shown(answer.get('status'))}")
    error = None if answer.get("error") is None else shown(answer["error"], 2000)
    metrics = answer.get("metric_scores")
    metrics = metrics if isinstance(metrics, dict) else None
    digest = answer.get("model_hash")
    score = answer.get("score")
    if state is EvaluationState.SCORING and answer.get("started_at", "") is None:
        state = EvaluationState.WAITING
    if state is not EvaluationState.COMPLETED:
        return Evaluation(state, None, metrics, error, started_at=_instant(answer.get("started_at")))
    usable = isinstance(score, int | float) and not isinstance(score, bool) and 0 <= score <= 1
    if not usable:
        why = "" if error is None else f" ({error})"
        raise ScorerGaveUp(f"the scorer completed the evaluation with {shown(score)} for a score from 0 to 1{why}")
    return Evaluation(state, float(score or 0.0), metrics, error, shown(digest, 128) if digest else None)


def _is_about(inputs: object, request: EvaluationRequest) -> bool:
    if not isinstance(inputs, dict):
        # a node that repeats no inputs is taken at its word
        return inputs is None
    return (inputs.get("hf_repo_id"), inputs.get("hotkey"), inputs.get("competition_id")) == (
        request.hf_repo_id,
        request.hotkey,
        request.competition_id,
    )


def _instant(value: object) -> datetime | None:
    """An instant; None where its time zone is not said, for some nodes write their own local time."""
    try:
        found = datetime.fromisoformat(str(value))
    except ValueError:
        return None
    return found if found.tzinfo else None


def _detail(content: bytes) -> str:
    """The reason in a refusal: FastAPI's ``detail``, or the ``message`` of an answer that is no success."""
    try:
        found = read_json(content)
    except NotJson:
        return shown(content)
    return shown(found.get("detail") or found.get("message") if isinstance(found, dict) else found, 1000)
