"""The pages by keyboard alone, and without scripts."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Browser, Page

from tests.app.competitions.competition_fixtures import miner
from tests.browser.chromium import LOOKS, visitor
from tests.browser.sites import Site

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]

PAGES = {
    "bundled": ["/", "/epochs", "/epochs/1", "/epochs/1/submissions/1", "/epochs/1/submissions/9", "/weights"],
    "competing": ["/competitions", "/competitions/voicebench", f"/miners/{miner(13)}", "/miners"],
}
CASES = [(site, path) for site, paths in PAGES.items() for path in paths]

# What a keyboard must reach: all that can be operated and is shown; what a closed <details> hides is not shown.
REACHABLE = """() => {
    const all = [...document.querySelectorAll("a[href], button, input, select, summary, [tabindex='0']")];
    const shown = all.filter((e) => e.checkVisibility({ visibilityProperty: true }) && !e.disabled);
    shown.forEach((e, number) => e.setAttribute("data-test-number", number));
    return shown.length;
}"""

FOCUSED = """() => {
    const e = document.activeElement;
    if (!e || e === document.body) return null;
    const style = getComputedStyle(e), box = e.getBoundingClientRect();
    return {
        number: e.dataset.testNumber === undefined ? null : Number(e.dataset.testNumber),
        html: e.outerHTML.slice(0, 120),
        outlined: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 1.5,
        onScreen: box.width > 0 && box.height > 0 && box.bottom > 0 && box.top < innerHeight && box.right > 0,
    };
}"""


@pytest.mark.parametrize(("site", "path"), CASES, indirect=["site"])
def test_the_tab_key_reaches_everything_in_order_and_shows_where_it_is(browser: Browser, site: Site, path: str) -> None:
    with visitor(browser, site) as guest:
        guest.go(path)
        wanted = guest.page.evaluate(REACHABLE)
        visited = []
        for _ in range(wanted + 1):
            guest.page.keyboard.press("Tab")
            found = guest.page.evaluate(FOCUSED)
            if found is None:
                break
            assert found["outlined"], found["html"]
            assert found["onScreen"], found["html"]
            visited.append(found["number"])
        assert visited == list(range(wanted))


def test_the_skip_link_comes_first_and_leads_to_the_content(browser: Browser, competing: Site) -> None:
    with visitor(browser, competing) as guest:
        guest.go("/competitions")
        guest.page.keyboard.press("Tab")
        assert guest.page.evaluate("document.activeElement.textContent") == "Skip to content"
        assert guest.page.locator(".skip").bounding_box()["x"] >= 0  # type: ignore[index]
        guest.page.keyboard.press("Enter")
        assert guest.page.evaluate("document.activeElement.id") == "content"
        guest.page.keyboard.press("Tab")
        # the next stop lies within the content, past the navigation
        assert guest.page.evaluate("document.activeElement.closest('main') !== null")


def test_a_table_is_sorted_and_details_are_opened_by_keyboard(browser: Browser, competing: Site) -> None:
    with visitor(browser, competing) as guest:
        guest.go("/competitions/voicebench")
        board = guest.page.get_by_role("region", name="Leaderboard").locator("table")
        board.get_by_role("button", name="UID").press("Enter")
        uids = [int(text) for text in board.locator("tbody tr td:nth-child(2)").all_inner_texts()]
        assert uids == sorted(uids)
        assert board.locator("th[aria-sort=ascending]").inner_text().startswith("UID")
        summary = board.locator("summary").first
        summary.focus()
        guest.page.keyboard.press("Enter")
        assert board.locator("details[open] li").first.is_visible()
        assert not guest.take_complaints()


def content(page: Page) -> str:
    """The words of a page, without how long ago things were."""
    text = page.locator("main").inner_text()
    text = re.sub(r"(just now|\b\d+ (s|min|h|d) ago)", "", text)
    return re.sub(r"[ ▲▼\s]+", " ", text)


@pytest.mark.parametrize(("site", "path"), CASES, indirect=["site"])
def test_without_scripts_the_same_is_there(browser: Browser, site: Site, path: str) -> None:
    with visitor(browser, site, LOOKS[0], scripts=False) as plain, visitor(browser, site) as guest:
        guest.go(path)
        plain.go(path)
        assert plain.take_complaints() == []
        if path == "/":
            # queues, workers and troubles move between two looks
            headings = [page.locator("h1, h2, th").all_inner_texts() for page in (guest.page, plain.page)]
            assert headings[0] == headings[1]
        else:
            guest.page.evaluate("document.querySelectorAll('label.filter, button.copy').forEach((one) => one.remove())")
            assert content(guest.page) == content(plain.page)
        plain.page.locator("nav[aria-label=Main] a", has_text="Epochs").click()
        assert plain.page.locator("h1").inner_text() == "Epochs"


def test_without_scripts_nothing_offers_what_only_scripts_do(browser: Browser, competing: Site) -> None:
    with visitor(browser, competing, scripts=False) as guest:
        guest.go("/miners")
        assert guest.page.locator("main button:visible, main input:visible").count() == 0
    with visitor(browser, competing) as guest:
        guest.go("/miners")
        guest.page.locator("label.filter input").fill(miner(13)[:6])
        shown = guest.page.locator("#miners tbody tr:visible")
        assert shown.count() == 1
        assert "13" in shown.first.inner_text()
