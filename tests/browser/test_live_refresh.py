"""A running epoch moves on the screen, without reloading the page."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, expect

from app.store.database import Store
from app.store.epochs import Epochs
from tests.app.page_stores import refuse, running_epoch
from tests.browser.chromium import visitor
from tests.browser.sites import Site, store_site

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]

# Two looks of the script, on a machine that has other things to do.
PATIENCE_MS = 30_000


@pytest.fixture
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, Store, int]]:
    """A site whose epoch has four submissions to be examined."""
    found: list[int] = []
    with store_site(tmp_path_factory.mktemp("running"), lambda store: found.append(running_epoch(store))) as site:
        store = Store(site.store_url)
        yield site, store, found[0]
        store.close()


@pytest.mark.parametrize("address", [lambda _: "/", lambda epoch: f"/epochs/{epoch}"], ids=["home", "epoch"])
def test_counts_move_and_the_end_shows(
    browser: Browser, running: tuple[Site, Store, int], address: Callable[[int], str]
) -> None:
    site, store, epoch_id = running
    with visitor(browser, site) as guest:
        guest.go(address(epoch_id))
        page = guest.page
        stages = page.locator(".stages").first
        expect(stages).to_contain_text("0 of 4")
        page.evaluate("window.stillTheSamePage = true")
        refuse(store, epoch_id, 0, 1, 2)
        expect(page.locator(".stages").first).to_contain_text("3 of 4", timeout=PATIENCE_MS)
        assert page.evaluate("window.stillTheSamePage") is True
        with store.writing() as session:
            Epochs(session).fail(epoch_id, "the archive cannot be read")
        expect(page.locator("main")).to_contain_text("the archive cannot be read", timeout=PATIENCE_MS)
        assert not guest.take_complaints()


def test_a_page_says_when_it_is_stale(browser: Browser, running: tuple[Site, Store, int]) -> None:
    site, _, epoch_id = running
    with visitor(browser, site) as guest:
        guest.go(f"/epochs/{epoch_id}")
        guest.page.context.set_offline(True)
        expect(guest.page.locator("[data-refresh][data-stale]")).to_have_count(1, timeout=PATIENCE_MS)
        assert guest.page.locator(".stages").first.is_visible()
