"""One browser and a few sites for all tests of the pages in a real browser."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from tests.app.page_stores import full_epoch, hostile_epoch, known_validator, lively_competitions, tracked_epoch
from tests.browser.chromium import chromium
from tests.browser.sites import Site, cluster_site, store_site


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Debian's Chromium."""
    with chromium() as found:
        yield found


@pytest.fixture(scope="session")
def bundled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The embedded cluster after the bundled epoch."""
    with cluster_site(tmp_path_factory.mktemp("bundled")) as site:
        yield site


@pytest.fixture(scope="session")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """An epoch with 256 submissions of 100 molecules, and a smaller one before; the validator is UID 31."""

    def fill(store: object) -> None:
        full_epoch(store, 24, 20, number=1)  # type: ignore[arg-type]
        full_epoch(store, number=2)  # type: ignore[arg-type]
        known_validator(store, 31)  # type: ignore[arg-type]

    with store_site(tmp_path_factory.mktemp("crowded"), fill) as site:
        yield site


@pytest.fixture(scope="session")
def competing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Lively model competitions, and 20 small epochs; the validator is UID 12."""

    def fill(store: object) -> None:
        known_validator(store, 12, epochs=20)  # type: ignore[arg-type]
        lively_competitions(store)  # type: ignore[arg-type]

    with store_site(tmp_path_factory.mktemp("competing"), fill) as site:
        yield site


@pytest.fixture(scope="session")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The bundled epoch with tracks."""

    def fill(store: object) -> None:
        tracked_epoch(store)  # type: ignore[arg-type]

    with store_site(tmp_path_factory.mktemp("tracked"), fill) as site:
        yield site


@pytest.fixture(scope="session")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A store in which nothing has happened yet."""
    with store_site(tmp_path_factory.mktemp("empty")) as site:
        yield site


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A store in which every text is an attack."""
    with store_site(tmp_path_factory.mktemp("hostile"), hostile_epoch) as site:
        yield site


@pytest.fixture
def site(request: pytest.FixtureRequest) -> Site:
    """The site of a test's parameter."""
    found: Site = request.getfixturevalue(request.param)
    return found
