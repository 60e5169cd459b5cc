"""GitHub: a submission's bytes and when they were pushed, within the calls an hour that GitHub allows."""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final, Protocol
from urllib.parse import quote

from app.observability.metrics import Fault, Service, service_failed
from chain.github_path import GitHubPath
from chain.sources import ContentNotFound, ContentTooLarge
from chain.submission import MAX_SUBMISSION_BYTES
from chain.web import LONGEST_WAIT, Answer, HostUnavailable, WebSession

_OK, _PARTIAL, _NOT_MODIFIED, _UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND, _NO_RANGE = 200, 206, 304, 401, 403, 404, 416

# Calls of the REST API in an hour, as GitHub documents them.
_CALLS_WITH_TOKEN, _CALLS_WITHOUT = 5000, 60
_HOUR: Final = 3600.0

# One entry of the commit list, signature and long message included.
_MAX_COMMIT_BYTES: Final = 1 << 20

_INSTANT: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\Z")

log = logging.getLogger("celery_validator.github")


@dataclass(frozen=True, slots=True)
class GitHubQuota:
    """What is left of the hour's calls of the REST API. ``resets_at`` is Unix time (s)."""

    limit: int
    remaining: int
    resets_at: float
    has_token: bool

    def at(self, instant: float) -> GitHubQuota:
        """The same at an instant (Unix time, s): whole again where its hour has passed."""
        if instant < self.resets_at:
            return self
        return replace(self, remaining=self.limit, resets_at=instant + _HOUR)

    @property
    def sentence(self) -> str:
        """For a person: the allowance, and what would raise it."""
        until = datetime.fromtimestamp(self.resets_at, UTC)
        left = f"{self.remaining} of {self.limit} calls of GitHub's API are left until {until:%H:%M} UTC"
        if self.has_token:
            return left
        return (
            f"{left}; set GITHUB_TOKEN for {_CALLS_WITH_TOKEN} an hour: without one, push times that cannot decide a "
            "tie are not asked for"
        )


class QuotaBook:
    """The hour's calls of one API as this process knows them; safe to share between threads.

    Before GitHub has said anything, its documented allowance is planned with.
    """

    def __init__(self, *, has_token: bool, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._known = self._fresh(has_token)

    def _fresh(self, has_token: bool) -> GitHubQuota:
        limit = _CALLS_WITH_TOKEN if has_token else _CALLS_WITHOUT
        return GitHubQuota(limit, limit, self._clock() + _HOUR, has_token)

    def now(self) -> GitHubQuota:
        """What is left now."""
        with self._lock:
            self._known = self._known.at(self._clock())
            return self._known

    def adopt(self, told: GitHubQuota) -> None:
        """Believe another process of the same token, where it knows of calls that this one does not."""
        mine, told = self.now(), told.at(self._clock())
        if told.has_token == mine.has_token and told.remaining < mine.remaining:
            with self._lock:
                self._known = told

    def take(self) -> None:
        """Use one call.

        Raises:
            HostUnavailable: none is left; says how long to wait.
        """
        known = self.now()
        with self._lock:
            if self._known.remaining > 0:
                self._known = replace(self._known, remaining=self._known.remaining - 1)
                return
        wait = min(LONGEST_WAIT, max(1.0, known.resets_at - self._clock()))
        raise HostUnavailable(known.sentence, wait, Fault.RATE_LIMITED)

    def give_back(self) -> None:
        """A call that GitHub does not count: the same answer as before, to a caller with a token."""
        with self._lock:
            self._known = replace(self._known, remaining=min(self._known.limit, self._known.remaining + 1))

    def learn(self, headers: Mapping[str, str]) -> None:
        """Believe what an answer says; calls under way are counted already, so never more than is known."""
        try:
            limit, remaining = int(headers["X-RateLimit-Limit"]), int(headers["X-RateLimit-Remaining"])
            resets_at = float(headers["X-RateLimit-Reset"])
        except (KeyError, ValueError):
            return
        if not 0 <= remaining <= limit or not 0 < resets_at - self._clock() <= 2 * _HOUR:
            return
        with self._lock:
            if abs(resets_at - self._known.resets_at) < 1 and limit == self._known.limit:
                remaining = min(remaining, self._known.remaining)
            self._known = GitHubQuota(limit, remaining, resets_at, self._known.has_token)

    def exhausted(self, seconds: float | None) -> None:
        """GitHub refuses calls for so long."""
        with self._lock:
            self._known = replace(self._known, remaining=0, resets_at=self._clock() + (seconds or 60.0))


# One allowance per API and token, however many epochs this process works on.
_books: dict[tuple[str, bool], QuotaBook] = {}


def quota_book(api_url: str, *, has_token: bool) -> QuotaBook:
    """This process's book of an API."""
    return _books.setdefault((api_url, has_token), QuotaBook(has_token=has_token))


class AnswerMemory(Protocol):
    """Answers kept across epochs; with a token, a question that gets the same answer again is not counted."""

    def recall(self, url: str) -> tuple[str, str] | None:
        """ETag and value of the last answer to a question."""
        ...

    def remember(self, url: str, etag: str, value: str) -> None:
        """Keep an answer in the place of the former one."""
        ...


class ProcessMemory:
    """Answers kept as long as this process lives."""

    def __init__(self) -> None:
        self._answers: dict[str, tuple[str, str]] = {}

    def recall(self, url: str) -> tuple[str, str] | None:
        """ETag and value of the last answer to a question."""
        return self._answers.get(url)

    def remember(self, url: str, etag: str, value: str) -> None:
        """Keep an answer in the place of the former one."""
        self._answers[url] = (etag, value)


class GitHub:
    """Both hosts of GitHub: raw content and REST API. A path is fetched as it stands, nothing else is reachable.

    Args:
        token: sent to both hosts; one that GitHub refuses is not used again.
        warn: takes a sentence for the epoch's report.
        memory: answers of earlier epochs.
        asks_branch: push times are those of the committed branch, not of the repository's default one.
    """

    def __init__(
        self,
        session: WebSession,
        raw_url: str,
        api_url: str,
        token: str | None = None,
        warn: Callable[[str], None] = log.warning,
        *,
        memory: AnswerMemory | None = None,
        asks_branch: bool = True,
    ) -> None:
        self._session = session
        self._raw_url = raw_url.rstrip("/")
        self._api_url = api_url.rstrip("/")
        self._token = token
        self._warn = warn
        self._memory = memory or ProcessMemory()
        self._asks_branch = asks_branch
        self._book = quota_book(self._api_url, has_token=bool(token))

    @property
    def quota(self) -> GitHubQuota:
        """What is left of the hour's calls."""
        return self._book.now()

    def adopt(self, told: GitHubQuota) -> None:
        """Take into account what another process left of the hour's calls."""
        self._book.adopt(told)

    def content(self, path: GitHubPath) -> bytes:
        """The file's bytes; never more than a submission may hold are read.

        Raises:
            ContentNotFound: GitHub has no such file.
            ContentTooLarge: it is longer than 20 KiB.
            HostUnavailable: GitHub does not say.
        """
        answer = self._raw(path, self._token)
        if self._token and answer.status in {_UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND}:
            # a token that is expired, or limited to some repositories, hides files that everybody may read
            answer = self._raw(path, None)
        if answer.status == _NO_RANGE:
            # the range of an empty file cannot be satisfied
            return b""
        if answer.status in {_UNAUTHORIZED, _FORBIDDEN}:
            service_failed(Service.GITHUB_RAW, Fault.REFUSED)
            raise HostUnavailable(f"GitHub refuses us (status {answer.status}) at {path}")
        if answer.status not in {_OK, _PARTIAL}:
            raise ContentNotFound(str(path))
        if answer.cut or len(answer.body) > MAX_SUBMISSION_BYTES:
            raise ContentTooLarge(str(path))
        return answer.body

    def _raw(self, path: GitHubPath, token: str | None) -> Answer:
        url = f"{self._raw_url}/{_quoted(path.owner, path.repository, path.branch, path.file)}"
        headers = {"Range": f"bytes=0-{MAX_SUBMISSION_BYTES}"} | _authorization(token)
        return self._session.get(url, MAX_SUBMISSION_BYTES + 1, headers, Service.GITHUB_RAW)

    def push_time(self, path: GitHubPath) -> str:
        """When the file was last pushed, ISO 8601 with ``Z``; empty where GitHub has no commit of it.

        Raises:
            HostUnavailable: GitHub does not say, or the hour's calls are used up.
        """
        branch = f"&sha={quote(path.branch, safe='')}" if self._asks_branch else ""
        where = f"{_quoted(path.owner, path.repository)}/commits?path={quote(path.file, safe='')}{branch}&per_page=1"
        url = f"{self._api_url}/repos/{where}"
        known, token = self._memory.recall(url), self._token
        headers = {"Accept": "application/vnd.github+json"} | _authorization(token)
        if known is not None:
            headers["If-None-Match"] = known[0]
        answer = self._ask(url, headers)
        if answer.status == _UNAUTHORIZED and token:
            # other threads may have the same answer on its way
            self._token = None
            self._book = quota_book(self._api_url, has_token=False)
            self._warn("GitHub refuses GITHUB_TOKEN (status 401): push times were asked for without it; renew it")
            return self.push_time(path)
        if answer.status in {_UNAUTHORIZED, _FORBIDDEN}:
            raise HostUnavailable(f"GitHub's API refuses us (status {answer.status})")
        if answer.status == _NOT_MODIFIED and known is not None:
            if token:
                self._book.give_back()
            return known[1]
        if answer.status != _OK:
            return ""
        found = _commit_date(answer.body)
        if etag := answer.headers.get("ETag"):
            self._memory.remember(url, etag, found)
        return found

    def _ask(self, url: str, headers: Mapping[str, str]) -> Answer:
        self._book.take()
        try:
            answer = self._session.get(url, _MAX_COMMIT_BYTES, headers, Service.GITHUB_API)
        except HostUnavailable as error:
            if error.fault is Fault.RATE_LIMITED:
                self._book.exhausted(error.retry_after)
            raise
        self._book.learn(answer.headers)
        if answer.status in {_UNAUTHORIZED, _FORBIDDEN}:
            service_failed(Service.GITHUB_API, Fault.REFUSED)
        return answer


def paths_to_ask(missing: Iterable[str], may_tie: Collection[str], quota: GitHubQuota) -> list[str]:
    """Whose push times to ask for: all of them, or, where the allowance is short, those that can decide a tie."""
    wanted = list(missing)
    if len(wanted) <= quota.remaining:
        return wanted
    return [path for path in wanted if path in may_tie]


def _commit_date(body: bytes) -> str:
    try:
        commits = json.loads(body)
        date = commits[0]["commit"]["committer"]["date"] if commits else ""
    except (ValueError, LookupError, TypeError, RecursionError):
        service_failed(Service.GITHUB_API, Fault.MALFORMED)
        raise HostUnavailable("GitHub's API answers with something that is not a list of commits") from None
    return date if isinstance(date, str) and _INSTANT.match(date) else ""


def _authorization(token: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"} if token else {}


def _quoted(*parts: str) -> str:
    return "/".join(quote(part, safe="/") for part in parts)
