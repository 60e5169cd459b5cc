"""HTTP to hosts that misbehave: bounded in time and size, and the cause is named."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from chain.github import GitHub
from chain.github_path import parse_github_path
from chain.sources import ContentNotFound, ContentTooLarge
from chain.web import HostUnavailable, WebSession
from tests.chain import internet

PATH = parse_github_path("miner/subs/main/d/0123456789abcdef0123.txt")


@pytest.fixture
def server() -> Iterator[internet.GitHub]:
    with internet.GitHub() as server:
        server.contents[str(PATH)] = b"(1000, b'sealed')"
        server.push_times[str(PATH)] = "2025-10-28T14:21:17Z"
        yield server


@pytest.fixture
def session() -> WebSession:
    return WebSession(connect_seconds=1, read_seconds=0.4, body_seconds=1)


@pytest.fixture
def github(server: internet.GitHub, session: WebSession) -> GitHub:
    return GitHub(session, server.raw_url, server.api_url)


def test_content_and_push_time(server: internet.GitHub, github: GitHub) -> None:
    assert github.content(PATH) == b"(1000, b'sealed')"
    assert github.push_time(PATH) == "2025-10-28T14:21:17Z"
    assert server.requests[1] == ("/api/repos/miner/subs/commits?path=d%2F0123456789abcdef0123.txt&sha=main&per_page=1")


def test_what_github_does_not_have(server: internet.GitHub, github: GitHub) -> None:
    other = parse_github_path("miner/subs/main/d/ffff.txt")
    with pytest.raises(ContentNotFound):
        github.content(other)
    assert github.push_time(other) == ""


@pytest.mark.parametrize(("size", "fits"), [(0, True), (20_480, True), (20_481, False), (60_000, False)])
def test_sizes(server: internet.GitHub, github: GitHub, size: int, fits: bool) -> None:
    server.contents[str(PATH)] = b"x" * size
    if fits:
        assert len(github.content(PATH)) == size
    else:
        with pytest.raises(ContentTooLarge):
            github.content(PATH)


def test_a_gigabyte_is_not_read(server: internet.GitHub, github: GitHub) -> None:
    server.faults["/raw"] = internet.endless()
    start = time.monotonic()
    with pytest.raises(ContentTooLarge):
        github.content(PATH)
    assert time.monotonic() - start < 2


@pytest.mark.parametrize("code", [500, 503])
def test_a_passing_server_error_is_retried(server: internet.GitHub, github: GitHub, code: int) -> None:
    server.faults["/raw"] = internet.first(1, internet.status(code))
    assert github.content(PATH)
    assert server.count("/raw") == 2


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        (internet.status(500), "500"),
        (internet.hang(3), "timed out"),
        (internet.drip(0.1), "longer than 1 s"),
        (internet.status(429, Retry_After="7"), "limits our requests"),
        (internet.status(403, X_RateLimit_Remaining="0", X_RateLimit_Reset="9999999999"), "limits our requests"),
        (internet.status(403), "refuses us"),
        (internet.status(302, Location="http://127.0.0.2:1/elsewhere"), "redirects to another host"),
        (internet.status(302, Location="/raw/again"), "redirects more than"),
    ],
)
def test_an_outage_is_no_verdict(server: internet.GitHub, github: GitHub, fault: object, cause: str) -> None:
    server.faults["/raw"] = fault  # type: ignore[assignment]
    start = time.monotonic()
    with pytest.raises(HostUnavailable, match=cause):
        github.content(PATH)
    assert time.monotonic() - start < 6


def test_the_wait_a_host_asks_for_is_passed_on(server: internet.GitHub, github: GitHub) -> None:
    server.faults["/raw"] = internet.status(429, Retry_After="7")
    with pytest.raises(HostUnavailable) as found:
        github.content(PATH)
    assert found.value.retry_after == 7
    server.faults["/raw"] = internet.status(403, X_RateLimit_Remaining="0", X_RateLimit_Reset="9999999999")
    with pytest.raises(HostUnavailable) as found:
        github.content(PATH)
    assert found.value.retry_after == 900


def test_a_redirect_on_the_same_host_is_followed(server: internet.GitHub, github: GitHub) -> None:
    server.contents["new/subs/main/d/x.txt"] = b"moved"
    server.faults["/raw/miner"] = internet.status(301, Location="/raw/new/subs/main/d/x.txt")
    assert github.content(PATH) == b"moved"


def test_a_dead_host_is_left_alone(session: WebSession) -> None:
    github = GitHub(session, "http://127.0.0.1:9", "http://127.0.0.1:9")
    causes = []
    for _ in range(8):
        with pytest.raises(HostUnavailable) as found:
            github.content(PATH)
        causes.append(str(found.value))
    assert "does not answer" in causes[0]
    assert "left alone" in causes[-1]


def test_a_refused_token_is_dropped(server: internet.GitHub, session: WebSession) -> None:
    server.faults["/api"] = internet.refuse_token()
    told: list[str] = []
    github = GitHub(session, server.raw_url, server.api_url, "expired", told.append)
    assert github.push_time(PATH) == github.push_time(PATH) == "2025-10-28T14:21:17Z"
    assert server.count("/api") == 3
    (sentence,) = told
    assert "GITHUB_TOKEN" in sentence


def test_a_refused_token_costs_no_thread_its_push_time(server: internet.GitHub, session: WebSession) -> None:
    server.latency = 0.1
    server.faults["/api"] = internet.refuse_token()
    github = GitHub(session, server.raw_url, server.api_url, "expired", lambda _: None)
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(github.push_time, [PATH] * 16)) == {"2025-10-28T14:21:17Z"}


def test_nonsense_from_the_api_is_no_push_time(server: internet.GitHub, github: GitHub) -> None:
    server.push_times[str(PATH)] = "yesterday"
    assert github.push_time(PATH) == ""
