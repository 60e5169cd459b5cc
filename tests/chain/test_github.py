"""GitHub's two hosts: tokens, branches, answers that did not change, and the calls an hour that it allows."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import chain.github
from app.domain import Commitment
from app.observability.metrics import Fault
from chain.commitments import may_tie
from chain.github import GitHub, GitHubQuota, ProcessMemory, QuotaBook, paths_to_ask
from chain.github_path import parse_github_path
from chain.sources import ContentNotFound
from chain.web import HostUnavailable, WebSession
from tests.chain import internet

PATH = parse_github_path("miner/subs/main/d/0123456789abcdef0123.txt")
OTHER_BRANCH = parse_github_path("miner/subs/old/d/0123456789abcdef0123.txt")
PUSHED = "2025-10-28T14:21:17Z"


@pytest.fixture(autouse=True)
def fresh_books(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chain.github, "_books", {})


@pytest.fixture
def server() -> Iterator[internet.GitHub]:
    with internet.GitHub() as server:
        server.contents[str(PATH)] = b"(1000, b'sealed')"
        server.push_times[str(PATH)] = PUSHED
        server.push_times[str(OTHER_BRANCH)] = "2024-01-01T00:00:00Z"
        yield server


def github(server: internet.GitHub, token: str | None = None, **options: object) -> GitHub:
    session = WebSession(connect_seconds=1, read_seconds=2, body_seconds=3)
    return GitHub(session, server.raw_url, server.api_url, token, lambda _: None, **options)  # type: ignore[arg-type]


# -- branches and tokens ----------------------------------------------------------------------------------------------


def test_the_push_time_is_the_committed_branchs(server: internet.GitHub) -> None:
    assert github(server).push_time(PATH) == PUSHED
    assert github(server).push_time(OTHER_BRANCH) == "2024-01-01T00:00:00Z"
    assert all("&sha=" in request for request in server.requests)


def test_the_rules_may_leave_the_branch_out(server: internet.GitHub) -> None:
    assert github(server, asks_branch=False).push_time(OTHER_BRANCH) == PUSHED
    assert not any("sha=" in request for request in server.requests)


def test_the_token_goes_to_both_hosts(server: internet.GitHub) -> None:
    server.tokens = {"good": "/"}
    found = github(server, "good")
    assert found.content(PATH)
    assert found.push_time(PATH) == PUSHED
    assert len(server.authorized) == 2


@pytest.mark.parametrize("token", ["expired", "of another repository"])
def test_a_token_that_hides_a_public_file_costs_no_miner_anything(server: internet.GitHub, token: str) -> None:
    server.tokens = {"of another repository": "/raw/owner/private/"}
    assert github(server, token).content(PATH) == b"(1000, b'sealed')"
    with pytest.raises(ContentNotFound):
        github(server, token).content(parse_github_path("miner/subs/main/d/ffff.txt"))


# -- the allowance ----------------------------------------------------------------------------------------------------


def test_an_answer_that_did_not_change_costs_nothing(server: internet.GitHub) -> None:
    server.allowance, memory = 2, ProcessMemory()
    for _ in range(5):
        # each epoch has a client of its own
        assert github(server, "good", memory=memory).push_time(PATH) == PUSHED
    assert server.allowance == 1
    server.push_times[str(PATH)] = "2025-11-01T00:00:00Z"
    assert github(server, "good", memory=memory).push_time(PATH) == "2025-11-01T00:00:00Z"


def test_a_used_up_allowance_is_not_asked_again(server: internet.GitHub) -> None:
    server.allowance = 1
    found = github(server)
    assert found.push_time(PATH) == PUSHED
    assert found.quota.remaining == 0
    before = len(server.requests)
    with pytest.raises(HostUnavailable, match="set GITHUB_TOKEN") as refused:
        found.push_time(OTHER_BRANCH)
    assert len(server.requests) == before
    assert refused.value.fault is Fault.RATE_LIMITED
    assert refused.value.retry_after
    # contents are another host's, and do not wait
    assert found.content(PATH)


def test_without_a_token_sixty_calls_an_hour_are_planned() -> None:
    at = [1000.0]
    book = QuotaBook(has_token=False, clock=lambda: at[0])
    for _ in range(60):
        book.take()
    with pytest.raises(HostUnavailable):
        book.take()
    assert "0 of 60 calls" in book.now().sentence
    assert "GITHUB_TOKEN" in book.now().sentence
    at[0] += 3600
    book.take()
    assert book.now().remaining == 59
    assert QuotaBook(has_token=True).now().remaining == 5000


def test_headers_are_believed_only_where_they_make_sense() -> None:
    book = QuotaBook(has_token=False, clock=lambda: 1000.0)
    for limit, remaining, reset in (
        ("60", "61", "2000"),
        ("60", "-1", "2000"),
        ("x", "1", "2000"),
        ("60", "9", "9e99"),
    ):
        book.learn({"X-RateLimit-Limit": limit, "X-RateLimit-Remaining": remaining, "X-RateLimit-Reset": reset})
        assert book.now().remaining == 60
    book.learn({"X-RateLimit-Limit": "60", "X-RateLimit-Remaining": "7", "X-RateLimit-Reset": "2000"})
    assert (book.now().remaining, book.now().resets_at) == (7, 2000.0)
    # an answer that was on its way for longer
    book.learn({"X-RateLimit-Limit": "60", "X-RateLimit-Remaining": "9", "X-RateLimit-Reset": "2000"})
    assert book.now().remaining == 7


# -- which push times can matter --------------------------------------------------------------------------------------


def test_only_commitments_of_one_block_can_tie_on_push_time() -> None:
    counted = [
        (uid, Commitment(f"hotkey{uid}", block, data))
        for uid, (block, data) in enumerate([(10, "a"), (11, "b"), (10, "c"), (12, "b"), (13, "d")])
    ]
    assert may_tie(counted) == {"a", "c"}


def test_a_short_allowance_is_spent_on_ties() -> None:
    short = GitHubQuota(60, 2, 0.0, has_token=False)
    assert paths_to_ask(["a", "b", "c", "d"], {"a", "c"}, short) == ["a", "c"]
    assert paths_to_ask(["a", "b"], {"a"}, short) == ["a", "b"]
    assert paths_to_ask(["b", "d", "e"], (), short) == []
