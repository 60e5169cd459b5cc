"""What must be seen at once, in Chromium, at 1440 and 390 pixels, light and dark, and by keyboard alone."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser

from tests.app.page_stores import hotkey
from tests.browser.chromium import LOOKS, Look, visitor
from tests.browser.sites import Site

pytestmark = pytest.mark.browser

every_look = pytest.mark.parametrize("look", LOOKS, ids=lambda look: look.name)
on_desktop = pytest.mark.parametrize("look", [look for look in LOOKS if not look.is_phone], ids=lambda look: look.name)


@every_look
def test_a_fresh_validator_is_not_green(browser: Browser, empty: Site, look: Look) -> None:
    with visitor(browser, empty, look) as guest:
        guest.go("/")
        condition = guest.page.locator("#condition")
        assert condition.locator(".badge.good").count() == 0
        assert "No epoch has ended here yet." in condition.inner_text()
        assert condition.bounding_box()["y"] < look.height, "seen without scrolling"  # type: ignore[index]
        who = guest.page.locator("#who")
        assert "unknown" in who.inner_text()
        assert who.bounding_box()["y"] < look.height / 2  # type: ignore[index]
        assert guest.sideways() is None
        assert guest.serious_findings() == []
        assert guest.take_complaints() == []


@on_desktop
def test_the_reason_of_a_refusal_is_seen_without_scrolling_sideways(
    browser: Browser, crowded: Site, look: Look
) -> None:
    with visitor(browser, crowded, look) as guest:
        guest.go("/epochs/2")
        row = guest.page.locator("#all-submissions tbody tr", has=guest.page.locator(".badge.bad")).first
        uid, reason = row.locator("th").bounding_box(), row.locator("td.what").bounding_box()
        region = guest.page.locator("#all-submissions").locator("xpath=..").bounding_box()
        assert uid
        assert reason
        assert region
        assert reason["x"] + reason["width"] <= region["x"] + region["width"] <= look.width
        assert reason["x"] - uid["x"] < 200, "next to its UID"


@every_look
def test_search_leads_to_a_miner_by_keyboard_alone(browser: Browser, crowded: Site, look: Look) -> None:
    with visitor(browser, crowded, look) as guest:
        guest.go("/")
        for _ in range(20):
            guest.page.keyboard.press("Tab")
            if guest.page.evaluate("document.activeElement.id") == "q":
                break
        assert guest.page.evaluate("document.activeElement.id") == "q", "the box is reached"
        guest.page.keyboard.type(hotkey(7)[:10])
        guest.page.keyboard.press("Enter")
        guest.page.wait_for_url("**/hotkeys/*")
        assert "What to do:" in guest.page.locator("main").inner_text()
        assert guest.sideways() is None
        assert guest.serious_findings() == []
        guest.go("/search?q=rxn:4:2:1")
        assert "molecule 1" in guest.page.locator("main").inner_text()
        assert guest.sideways() is None
        assert guest.serious_findings() == []
        assert guest.take_complaints() == []


@on_desktop
def test_a_hotkey_is_copied_whole_by_keyboard(browser: Browser, crowded: Site, look: Look) -> None:
    with visitor(browser, crowded, look) as guest:
        guest.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        guest.go("/epochs/2")
        button = guest.page.locator("#all-submissions button.copy").first
        button.focus()
        guest.page.keyboard.press("Enter")
        guest.page.wait_for_function("document.querySelector('#all-submissions button.copy').textContent === 'Copied'")
        assert guest.page.evaluate("navigator.clipboard.readText()") == hotkey(0)


@every_look
def test_an_epoch_shows_its_course_and_its_winners(browser: Browser, crowded: Site, look: Look) -> None:
    with visitor(browser, crowded, look) as guest:
        guest.go("/epochs/2")
        assert guest.page.locator("#course").count() == 1
        assert guest.page.locator("figure title", has_text="winner UID 0").count() >= 1
        assert guest.sideways() is None
        guest.go("/")
        assert guest.page.locator("ol.strip > li").count() == 2
        assert guest.sideways() is None
        assert guest.serious_findings() == []


@every_look
def test_pages_work_without_scripts(browser: Browser, crowded: Site, look: Look) -> None:
    with visitor(browser, crowded, look, scripts=False) as guest:
        guest.go(f"/search?q={hotkey(7)}")
        assert guest.page.url.endswith(f"/hotkeys/{hotkey(7)}")
        assert guest.page.locator("button.copy:visible").count() == 0, "a button that cannot work is not shown"
