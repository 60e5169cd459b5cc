"""What must be seen at once, in Chromium, at 1440 and 390 pixels, light and dark, and by keyboard alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
from playwright.sync_api import Browser, expect

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
        assert guest.findings() == []
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


@pytest.mark.parametrize("look", [look for look in LOOKS if look.is_phone], ids=lambda look: look.name)
def test_a_phone_shows_whole_what_happened_and_what_to_change(
    browser: Browser, crowded: Site, competing: Site, look: Look
) -> None:
    for site, path in ((crowded, f"/hotkeys/{hotkey(7)}"), (crowded, "/rejections"), (competing, "/competitions")):
        with visitor(browser, site, look) as guest:
            guest.go(path)
            cells = guest.page.locator(".stacked td.text").all()
            assert cells, path
            for cell in cells[:12]:
                cell.scroll_into_view_if_needed()
                box = cell.bounding_box()
                assert box
                assert 0 <= box["x"] <= box["x"] + box["width"] <= look.width
                assert cell.evaluate("one => one.scrollWidth <= one.clientWidth"), "no word sticks out"
                label = cell.evaluate("one => getComputedStyle(one, '::before').content")
                assert label == f'"{cell.get_attribute("data-label")}"', "its column is named"
            assert guest.page.evaluate(
                "[...document.querySelectorAll('.stacked')].every(one => "
                "one.parentElement.scrollWidth <= one.parentElement.clientWidth)"
            ), "no table scrolls sideways"
            assert guest.sideways() is None
            assert guest.findings() == []


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
        assert guest.findings() == []
        guest.go("/search?q=rxn:4:2:1")
        assert "molecule 1" in guest.page.locator("main").inner_text()
        assert guest.sideways() is None
        assert guest.findings() == []
        assert guest.take_complaints() == []


@on_desktop
def test_a_hotkey_is_copied_whole_by_keyboard(browser: Browser, crowded: Site, look: Look) -> None:
    with visitor(browser, crowded, look) as guest:
        guest.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        guest.go("/epochs/2")
        button = guest.page.locator("#all-submissions button.copy").first
        # shown for 1.5 s, which a busy machine may miss
        button.evaluate(
            "one => new MutationObserver(() => one.dataset.said ??= one.textContent).observe(one, {childList: true})"
        )
        button.focus()
        guest.page.keyboard.press("Enter")
        expect(button).to_have_attribute("data-said", "Copied")
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
        assert guest.findings() == []


@every_look
def test_pages_work_without_scripts(browser: Browser, crowded: Site, look: Look) -> None:
    with visitor(browser, crowded, look, scripts=False) as guest:
        guest.go(f"/search?q={hotkey(7)}")
        assert guest.page.url.endswith(f"/hotkeys/{hotkey(7)}")
        assert guest.page.locator("button.copy:visible").count() == 0, "a button that cannot work is not shown"


@every_look
def test_two_validators_in_two_tabs_are_told_apart(
    browser: Browser, competing: Site, crowded: Site, look: Look
) -> None:
    with visitor(browser, competing, look) as guest, visitor(browser, crowded, look) as beside:
        for path in ("/", "/epochs", "/weights", "/rejections"):
            titles, headers = [], []
            for tab, uid in ((guest, 12), (beside, 31)):
                tab.go(path)
                who = tab.page.locator("#who")
                titles.append(tab.page.title())
                headers.append(who.inner_text())
                assert "unknown" not in who.inner_text()
                assert hotkey(uid)[:6] in titles[-1]
                assert str(uid) in who.inner_text()
                assert who.bounding_box()["y"] < look.height / 3  # type: ignore[index]
                assert tab.take_complaints() == []
            assert titles[0] != titles[1]
            assert headers[0] != headers[1]


@every_look
def test_the_last_epochs_are_seen_without_scrolling(browser: Browser, competing: Site, look: Look) -> None:
    with visitor(browser, competing, look) as guest:
        guest.go("/")
        strip = guest.page.locator("ol.strip")
        cells = [cell.bounding_box() for cell in strip.locator("> li").all()]
        assert len(cells) == 20
        assert all(cell and cell["y"] + cell["height"] < look.height for cell in cells)
        right = [cell["x"] + cell["width"] for cell in cells if cell]
        assert right[0] <= look.width, "the newest comes first"
        if not look.is_phone:
            assert right[-1] <= look.width
            region = strip.locator("xpath=..")
            assert region.evaluate("one => one.scrollWidth <= one.clientWidth"), "none is hidden at the side"
        numbers = [int(link.inner_text().split()[-1]) for link in strip.locator("> li > a").all()]
        assert numbers == sorted(numbers, reverse=True)
        assert guest.sideways() is None
        assert guest.findings() == []


@on_desktop
def test_a_refresh_leaves_the_reader_where_he_is(browser: Browser, competing: Site, look: Look) -> None:
    with visitor(browser, competing, look) as guest:
        guest.go("/")
        summary = guest.page.locator("summary", has_text="The parameters at block")
        summary.focus()
        guest.page.keyboard.press("Enter")
        for _ in range(2):
            guest.page.evaluate("document.querySelector('#condition').dataset.old = ''")
            expect(guest.page.locator("#condition[data-old]")).to_have_count(0, timeout=30_000)
            assert guest.page.locator("details[open]", has=summary).count() == 1, "what was opened is open"
            assert summary.evaluate("one => one === document.activeElement"), "the keyboard is where it was"
        assert guest.take_complaints() == []


@every_look
def test_the_refused_molecule_is_drawn_beside_what_to_change(browser: Browser, bundled: Site, look: Look) -> None:
    with visitor(browser, bundled, look) as guest:
        guest.go("/epochs/1/submissions/9")
        assert guest.page.locator("main").get_by_text("What to do").count()
        for path in (
            "/epochs/1/submissions/9",
            guest.page.locator("main a[href^='/hotkeys/']").first.get_attribute("href"),
        ):
            guest.go(str(path))
            drawing = guest.page.locator("img[src$='/refused.svg']").first
            drawing.scroll_into_view_if_needed()
            guest.page.wait_for_function("one => one.complete && one.naturalWidth > 0", arg=drawing.element_handle())
            assert guest.page.locator("main").get_by_text("What to do").first.is_visible()
            assert guest.sideways() is None
            assert guest.findings() == []
        assert guest.take_complaints() == []


@every_look
def test_the_description_of_the_api_opens_without_the_network(browser: Browser, competing: Site, look: Look) -> None:
    with visitor(browser, competing, look) as guest:
        guest.go("/docs")
        operations = guest.page.locator(".opblock")
        expect(operations.first).to_be_visible()
        assert operations.count() >= 5
        operations.first.locator("button").first.press("Enter")
        expect(operations.first.locator(".responses-table").first).to_be_visible()
        assert guest.take_complaints() == []


@on_desktop
def test_flower_lists_an_epochs_tasks_by_readable_names(browser: Browser, bundled: Site, look: Look) -> None:
    with visitor(browser, replace(bundled, url=bundled.flower), look) as guest:
        guest.go("/tasks")
        table = guest.page.locator("table tbody").first
        expect(table).to_contain_text("epoch=18949", timeout=30_000)
        guest.page.locator("input[type=search]").first.fill("examine_submission")
        expect(table).to_contain_text("uid=", timeout=30_000)
        assert "reconcile" not in table.inner_text()
        assert guest.take_complaints() == []
