"""Every page in Chromium: wide and narrow, light and dark, with axe, and nothing asked of any other host."""

from __future__ import annotations

import itertools

import pytest
from playwright.sync_api import Browser

from app.api.pages import page_routers
from tests.browser.chromium import LOOKS, Look, visitor
from tests.browser.sites import Crawl, Site, crawl

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]

SITES = ("bundled", "crowded", "competing", "tracked", "empty")

_crawls: dict[str, Crawl] = {}


def crawled(site: Site) -> Crawl:
    """What there is to see, found once per site."""
    if site.url not in _crawls:
        _crawls[site.url] = crawl(site)
    return _crawls[site.url]


@pytest.mark.parametrize("look", [LOOKS[0], LOOKS[2]], ids=["desktop", "phone"])
@pytest.mark.parametrize("site", SITES, indirect=True)
def test_no_page_has_a_finding(browser: Browser, site: Site, look: Look) -> None:
    found: list[str] = []
    with visitor(browser, site, look) as guest:
        for paths in crawled(site).pages.values():
            for path in paths:
                guest.go(path)
                problems = guest.take_complaints()
                if too_wide := guest.sideways():
                    problems.append(f"scrolls sideways: {too_wide}")
                # pages of one kind are made by one template
                if path == paths[0]:
                    problems += guest.findings()
                    guest.page.emulate_media(color_scheme="dark")
                    # the dark colours change nothing but contrasts
                    problems += [f"dark: {one}" for one in guest.findings("color-contrast")]
                    guest.page.emulate_media(color_scheme="light")
                found += [f"{path}: {problem}" for problem in problems]
    assert not found, "\n".join(found)


def test_links_lead_to_every_page_there_is(bundled: Site, crowded: Site, competing: Site, tracked: Site) -> None:
    sites = (bundled, crowded, competing, tracked)
    # drawings and samples stand on few pages of their kind
    seen = {kind.rstrip("?") for site in sites for kind in _all_kinds(crawl(site, per_kind=40))}
    # what a search found is a file too, but what was typed decides whether there is one
    wanted = {
        route.path  # type: ignore[attr-defined]
        for router in page_routers()
        for route in router.routes
        if not route.path.startswith(("/static/", "/fragments/", "/search."))  # type: ignore[attr-defined]
    }
    missing = sorted(wanted - seen)
    assert missing == [], " ".join(missing)


def _all_kinds(found: Crawl) -> set[str]:
    return set(found.pages) | set(found.files)


@pytest.mark.parametrize("site", SITES, indirect=True)
def test_pages_are_titled_and_have_one_heading(browser: Browser, site: Site) -> None:
    titles: dict[str, str] = {}
    with visitor(browser, site) as guest:
        for path in crawled(site).paths:
            guest.go(path)
            assert guest.page.locator("h1").count() == 1, path
            assert guest.page.locator("html").get_attribute("lang") == "en"
            levels = guest.page.eval_on_selector_all("h1,h2,h3,h4", "all => all.map((e) => Number(e.tagName[1]))")
            assert all(after <= before + 1 for before, after in itertools.pairwise(levels)), (path, levels)
            titles[path] = guest.page.title()
    assert all(title.endswith(" · celery-validator") for title in titles.values())
