"""HTTP to hosts we do not control: bounded in time and size, retried with backoff, cut off where a host is dead."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final
from urllib.parse import urljoin, urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError
from urllib3.util import Retry

from app.observability.metrics import Fault, Service, fault_of, service_asked
from app.untrusted import quoted, shown
from chain.sources import SourceUnavailable

# One request: to connect, between two pieces of the answer, and in all (s).
_CONNECT_SECONDS: Final = 5.0
_READ_SECONDS: Final = 10.0
_BODY_SECONDS: Final = 30.0

# A dead host is left alone this long after so many failures in a row.
_FAILURES_TO_OPEN: Final = 6
_OPEN_SECONDS: Final = 15.0

_MOST_REDIRECTS: Final = 3
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_FORBIDDEN, _TOO_MANY = 403, 429
_SERVER_ERROR: Final = 500

# Connections kept per host; more threads than this wait for one.
POOL_SIZE: Final = 32

# A host may ask for more patience than an epoch has.
LONGEST_WAIT: Final = 900.0


class HostUnavailable(SourceUnavailable):
    """A host gave no usable answer. ``retry_after`` is the wait in seconds it asked for, where it did."""

    def __init__(self, message: str, retry_after: float | None = None, fault: Fault = Fault.MALFORMED) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.fault = fault


@dataclass(frozen=True, slots=True)
class Answer:
    """A status, its headers, and at most ``limit`` bytes of body; ``cut`` where there was more."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    cut: bool


@dataclass(slots=True)
class _Breaker:
    """Counts a host's failures in a row; open, it refuses at once instead of letting each request wait."""

    failures: int = 0
    opened_at: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def refuse(self, host: str) -> None:
        with self.lock:
            if self.failures >= _FAILURES_TO_OPEN and time.monotonic() - self.opened_at < _OPEN_SECONDS:
                raise HostUnavailable(
                    f"{host} failed {self.failures} times in a row and is left alone for a while",
                    fault=Fault.LEFT_ALONE,
                )

    def note(self, ok: bool) -> None:
        with self.lock:
            self.failures = 0 if ok else self.failures + 1
            if not ok:
                self.opened_at = time.monotonic()


class WebSession:
    """Reads from the web; one per process, safe to share between threads.

    Server errors and broken connections are retried twice with backoff and jitter. Redirects are followed on the same
    host only. Rate limits are not waited out here: the caller has the epoch's budget.
    """

    def __init__(
        self,
        connect_seconds: float = _CONNECT_SECONDS,
        read_seconds: float = _READ_SECONDS,
        body_seconds: float = _BODY_SECONDS,
    ) -> None:
        self._timeout = (connect_seconds, read_seconds)
        self._body_seconds = body_seconds
        self._breakers: dict[str, _Breaker] = {}
        self._session = requests.Session()
        # credentials come from settings, never from a .netrc; proxies still from the environment
        self._session.auth = _no_credentials
        retry = Retry(
            total=2,
            backoff_factor=0.3,
            backoff_jitter=0.3,
            status_forcelist=(500, 502, 503, 504),
            respect_retry_after_header=False,
            raise_on_status=False,
            redirect=0,
        )
        for scheme in ("https://", "http://"):
            self._session.mount(scheme, HTTPAdapter(pool_maxsize=POOL_SIZE, max_retries=retry))

    def get(
        self,
        url: str,
        limit: int,
        headers: Mapping[str, str] | None = None,
        service: Service = Service.OTHER,
    ) -> Answer:
        """Read ``url``; statuses below 500 that are no rate limit are answers, also 404. Counted under ``service``.

        Raises:
            HostUnavailable: no connection, a server error, a rate limit, a redirect elsewhere, or too slow; names it.
        """
        return self._asked(url, limit, headers, service, None)

    def post(
        self,
        url: str,
        document: Mapping[str, Any],
        limit: int,
        headers: Mapping[str, str] | None = None,
        service: Service = Service.OTHER,
    ) -> Answer:
        """Send a JSON document once: as :meth:`get`, but nothing is sent again that may have arrived."""
        return self._asked(url, limit, headers, service, document)

    def _asked(
        self,
        url: str,
        limit: int,
        headers: Mapping[str, str] | None,
        service: Service,
        document: Mapping[str, Any] | None,
    ) -> Answer:
        try:
            answer = self._followed(url, limit, headers, document)
        except HostUnavailable as error:
            service_asked(service, error.fault)
            raise
        service_asked(service)
        return answer

    def _followed(
        self, url: str, limit: int, headers: Mapping[str, str] | None, document: Mapping[str, Any] | None
    ) -> Answer:
        host = urlsplit(url).netloc
        breaker = self._breakers.setdefault(host, _Breaker())
        for _ in range(_MOST_REDIRECTS + 1):
            breaker.refuse(host)
            try:
                answer = self._read(url, limit, headers or {}, document)
            except (requests.RequestException, HTTPError, OSError) as error:
                breaker.note(ok=False)
                raise HostUnavailable(f"{host} does not answer: {_cause(error)}", fault=fault_of(error)) from None
            breaker.note(ok=answer.status < _SERVER_ERROR)
            self._refuse_unusable(host, answer)
            if answer.status not in _REDIRECTS:
                return answer
            if document is not None:
                raise HostUnavailable(f"{host} redirects what was posted (status {answer.status})")
            target = urljoin(url, answer.headers.get("Location", ""))
            if (urlsplit(target).scheme, urlsplit(target).netloc) != (urlsplit(url).scheme, host):
                raise HostUnavailable(f"{host} redirects to another host ({quoted(urlsplit(target).netloc)})")
            url = target
        raise HostUnavailable(f"{host} redirects more than {_MOST_REDIRECTS} times")

    def _read(self, url: str, limit: int, headers: Mapping[str, str], document: Mapping[str, Any] | None) -> Answer:
        began = time.monotonic()
        with self._session.request(
            "GET" if document is None else "POST",
            url,
            json=document,
            headers=dict(headers),
            timeout=self._timeout,
            stream=True,
            allow_redirects=False,
        ) as response:
            body = body_of(response, limit, began, self._body_seconds)
            return Answer(response.status_code, response.headers, body[:limit], len(body) > limit)

    def _refuse_unusable(self, host: str, answer: Answer) -> None:
        if answer.status >= _SERVER_ERROR:
            raise HostUnavailable(
                f"{host} answers with status {answer.status}", _wait(answer.headers), Fault.SERVER_ERROR
            )
        wait = _wait(answer.headers)
        if answer.status == _TOO_MANY or (answer.status == _FORBIDDEN and wait is not None):
            raise HostUnavailable(f"{host} limits our requests (status {answer.status})", wait, Fault.RATE_LIMITED)


def body_of(response: requests.Response, limit: int, began: float, seconds: float) -> bytes:
    """The body of a streamed response, decoded; one byte above ``limit`` where there is more.

    Raises:
        TimeoutError: it was not over ``seconds`` after ``began`` (monotonic clock).
        urllib3.exceptions.HTTPError: it is cut off, or not encoded as its headers say.
    """
    body = bytearray()
    while len(body) <= limit:
        # one read of the socket at a time: a host that drips must not outlive the deadline
        piece = response.raw.read1(limit + 1 - len(body), decode_content=True)
        if not piece:
            break
        body += piece
        if time.monotonic() - began > seconds:
            raise TimeoutError(f"the answer took longer than {seconds:g} s")
    return bytes(body)


def _no_credentials(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def _wait(headers: Mapping[str, str]) -> float | None:
    """Seconds that ``Retry-After``, or an exhausted ``X-RateLimit``, asks for."""
    after = headers.get("Retry-After", "").strip()
    if after.isdigit():
        return min(float(after), LONGEST_WAIT)
    reset = headers.get("X-RateLimit-Reset", "").strip()
    if reset.isdigit() and headers.get("X-RateLimit-Remaining", "0").strip() == "0":
        return min(max(0.0, float(reset) - time.time()), LONGEST_WAIT)
    return 1.0 if after else None


def _cause(error: BaseException) -> str:
    """The innermost reason, without urllib3's address-laden wrapping."""
    reason = getattr(error.args[0], "reason", None) if error.args else None
    found = reason if isinstance(reason, BaseException) else error
    name = type(found).__name__
    if type(found) is TimeoutError:
        return str(found)
    if "Timeout" in name:
        return f"timed out ({name})"
    return f"{name}: {shown(str(found).rsplit(': ', 1)[-1], 160)}"


@lru_cache(maxsize=1)
def shared_session() -> WebSession:
    """This process's session."""
    return WebSession()
