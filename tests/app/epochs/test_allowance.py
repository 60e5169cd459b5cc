"""GitHub's calls an hour over several epochs and processes: answers kept, the allowance shared, nothing delayed."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta

import pytest

import chain.github
from app.clock import now
from app.domain import Commitment
from app.epochs.allowance import keep_quota, last_quota
from app.epochs.capture import Capture, Shortfall
from app.epochs.facts import MemorySheet
from app.settings import get_settings
from app.store.database import Store
from app.store.facts import FactKind, FactState
from app.store.services import StoredAnswers, forget_answers
from chain.epochs import ClosedEpoch
from chain.github import GitHubQuota
from chain.web import WebSession
from tests.chain import internet

PATHS = [f"miner{n}/subs/main/d/{n:020x}.txt" for n in range(8)]
# the first two were committed at one block
COMMITMENTS = [Commitment(f"hotkey{n}", max(n, 1), path) for n, path in enumerate(PATHS)]

IN_ANOTHER_PROCESS = """
from tests.app.epochs.test_allowance import captured
sheet, shortfall = captured()
assert not shortfall, shortfall
"""


def captured() -> tuple[MemorySheet, Shortfall]:
    """One epoch's files and push times, asked for by a validator that has just started."""
    sheet = MemorySheet()
    return sheet, Capture(ClosedEpoch(68, 6_000_181, 361), sheet).submissions(COMMITMENTS)


@pytest.fixture
def server(store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[internet.GitHub]:
    monkeypatch.setattr(chain.github, "_books", {})
    quick = WebSession(connect_seconds=2, read_seconds=2, body_seconds=3)
    monkeypatch.setattr("app.epochs.capture.shared_session", lambda: quick)
    with internet.GitHub() as server:
        for path in PATHS:
            server.contents[path] = b"not a submission"
            server.push_times[path] = "2025-10-28T14:21:17Z"
        monkeypatch.setenv("GITHUB_RAW_URL", server.raw_url)
        monkeypatch.setenv("GITHUB_API_URL", server.api_url)
        monkeypatch.setenv("OFFLINE", "1")
        get_settings.cache_clear()
        yield server


def test_a_second_epoch_in_a_new_process_is_told_that_nothing_changed(
    server: internet.GitHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_TOKEN", "good")
    get_settings.cache_clear()
    server.allowance = 20
    sheet, shortfall = captured()
    assert not shortfall
    assert server.allowance == 12
    server.push_times[PATHS[3]] = "2025-11-01T00:00:00Z"
    subprocess.run([sys.executable, "-c", IN_ANOTHER_PROCESS], check=True, cwd=internet.__file__.split("/tests/")[0])
    assert len([request for request in server.requests if request.startswith("/api/")]) == 16
    # an answer that did not change costs nothing: only that of the path that was pushed again did
    assert server.allowance == 11
    assert sheet.all(FactKind.PUSH_TIME)[PATHS[0]].value == b"2025-10-28T14:21:17Z"


def test_old_answers_are_forgotten(store: Store) -> None:
    answers = StoredAnswers(store)
    answers.remember("https://api/x", '"1"', "2025-10-28T14:21:17Z")
    answers.remember("https://api/y", '"2"', "y" * 2000)
    assert answers.recall("https://api/y") is None
    with store.writing() as session:
        assert forget_answers(session, now() - timedelta(days=1), 10) == 0
    assert answers.recall("https://api/x") == ('"1"', "2025-10-28T14:21:17Z")
    with store.writing() as session:
        assert forget_answers(session, now() + timedelta(days=1), 10) == 1
    assert answers.recall("https://api/x") is None
    for name in "abc":
        answers.remember(f"https://api/{name}", '"1"', name)
    with store.writing() as session:
        assert [forget_answers(session, now() + timedelta(days=1), 2) for _ in range(3)] == [2, 1, 0]


def test_what_another_process_used_is_not_asked_for_again(server: internet.GitHub, store: Store) -> None:
    with store.writing() as session:
        keep_quota(session, GitHubQuota(60, 2, time.time() + 1800, has_token=False))
    sheet, shortfall = captured()
    assert not shortfall
    assert len([request for request in server.requests if request.startswith("/api/")]) == 2
    states = [sheet.all(FactKind.PUSH_TIME)[path].state for path in PATHS]
    assert states == [FactState.HELD] * 2 + [FactState.UNAVAILABLE] * 6
    with store.reading() as session:
        known = last_quota(session)
    assert known is not None
    assert (known.quota.remaining, known.quota.has_token) == (0, False)


def test_an_allowance_that_github_ends_early_delays_only_what_it_can_decide(server: internet.GitHub) -> None:
    server.allowance = 0
    server.faults[f"/raw/{PATHS[5]}"] = internet.first(3, internet.status(503))
    sheet, shortfall = captured()
    assert set(shortfall.causes[FactKind.PUSH_TIME]) == set(PATHS[:2])
    assert set(shortfall.causes[FactKind.CONTENT]) == {PATHS[5]}
    # the file is asked for again at once, whatever GitHub's other host says
    assert shortfall.retry_after == 0
    assert shortfall.worth_waiting(600)
    shortfall.causes[FactKind.CONTENT].clear()
    assert shortfall.retry_after > 600
    assert not shortfall.worth_waiting(600)
    assert any("6 push times that cannot decide a tie" in fact for fact in sheet.all(FactKind.WARNING))


def test_an_hour_later_the_allowance_is_whole(store: Store) -> None:
    with store.writing() as session:
        assert last_quota(session) is None
        keep_quota(session, GitHubQuota(60, 3, time.time() - 1, has_token=False))
    with store.reading() as session:
        known = last_quota(session)
    assert known is not None
    assert known.quota.remaining == 60
