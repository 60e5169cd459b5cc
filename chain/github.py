"""GitHub: a submission's bytes and when they were pushed (specs/epoch.md §4)."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Final
from urllib.parse import quote

from app.observability.metrics import Fault, Service, service_failed
from app.untrusted import read_json
from chain.github_path import GitHubPath
from chain.sources import ContentNotFound, ContentTooLarge
from chain.submission import MAX_SUBMISSION_BYTES
from chain.web import HostUnavailable, WebSession

_OK, _PARTIAL, _UNAUTHORIZED, _FORBIDDEN, _NO_RANGE = 200, 206, 401, 403, 416

# One entry of the commit list, signature and long message included.
_MAX_COMMIT_BYTES: Final = 1 << 20

_INSTANT: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\Z")

log = logging.getLogger("celery_validator.github")


class GitHub:
    """Both hosts of GitHub: raw content and REST API. A path is fetched as it stands, nothing else is reachable.

    ``warn`` takes a sentence for the epoch's report.
    """

    def __init__(
        self,
        session: WebSession,
        raw_url: str,
        api_url: str,
        token: str | None = None,
        warn: Callable[[str], None] = log.warning,
    ) -> None:
        self._session = session
        self._raw_url = raw_url.rstrip("/")
        self._api_url = api_url.rstrip("/")
        self._token = token
        self._warn = warn

    def content(self, path: GitHubPath) -> bytes:
        """The file's bytes; never more than a submission may hold are read.

        Raises:
            ContentNotFound: GitHub has no such file.
            ContentTooLarge: it is longer than 20 KiB.
            HostUnavailable: GitHub does not say.
        """
        url = f"{self._raw_url}/{_quoted(path.owner, path.repository, path.branch, path.file)}"
        first_bytes = {"Range": f"bytes=0-{MAX_SUBMISSION_BYTES}"}
        answer = self._session.get(url, MAX_SUBMISSION_BYTES + 1, first_bytes, Service.GITHUB_RAW)
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

    def push_time(self, path: GitHubPath) -> str:
        """When the file was last pushed, ISO 8601 with ``Z``; empty where GitHub has no commit of it.

        A token that GitHub refuses is not used again.

        Raises:
            HostUnavailable: GitHub does not say.
        """
        where = f"{_quoted(path.owner, path.repository)}/commits?path={quote(path.file, safe='')}&per_page=1"
        url = f"{self._api_url}/repos/{where}"
        headers = {"Accept": "application/vnd.github+json"}
        token = self._token
        if token:
            headers["Authorization"] = f"Bearer {token}"
        answer = self._session.get(url, _MAX_COMMIT_BYTES, headers, Service.GITHUB_API)
        if answer.status in {_UNAUTHORIZED, _FORBIDDEN}:
            service_failed(Service.GITHUB_API, Fault.REFUSED)
        if answer.status == _UNAUTHORIZED and token:
            # other threads may have the same answer on its way
            self._token = None
            self._warn("GitHub refuses GITHUB_TOKEN (status 401): push times were asked for without it; renew it")
            return self.push_time(path)
        if answer.status in {_UNAUTHORIZED, _FORBIDDEN}:
            raise HostUnavailable(f"GitHub's API refuses us (status {answer.status})")
        if answer.status != _OK:
            return ""
        try:
            commits = read_json(answer.body)
            date = commits[0]["commit"]["committer"]["date"] if commits else ""
        except (ValueError, LookupError, TypeError):
            service_failed(Service.GITHUB_API, Fault.MALFORMED)
            raise HostUnavailable("GitHub's API answers with something that is not a list of commits") from None
        return date if isinstance(date, str) and _INSTANT.match(date) else ""


def _quoted(*parts: str) -> str:
    return "/".join(quote(part, safe="/") for part in parts)
