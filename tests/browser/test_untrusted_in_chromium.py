"""A store full of attacks, looked at in Chromium: nothing runs, nothing is asked of another host."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser

from tests.browser.chromium import LOOKS, visitor
from tests.browser.sites import Site, crawl

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]


@pytest.mark.parametrize("look", [LOOKS[0], LOOKS[3]], ids=lambda look: look.name)
def test_nothing_untrusted_runs(browser: Browser, hostile: Site, look: object) -> None:
    found: list[str] = []
    with visitor(browser, hostile, look) as guest:  # type: ignore[arg-type]
        for path in crawl(hostile, per_kind=12, strict=False).paths:
            guest.go(path)
            problems = guest.take_complaints()
            if guest.page.locator("evil, [evil], [onmouseover], [onfocus], [onload], [onerror], base, iframe").count():
                problems.append("a foreign element or attribute")
            if guest.page.locator("script").count() != 1:
                problems.append("a script that is not ours")
            if too_wide := guest.sideways():
                problems.append(f"scrolls sideways: {too_wide}")
            # titles and headings must not be turned round either
            if "\u202e" in guest.page.title() or "\u202e" in guest.page.locator("body").inner_text():
                problems.append("a direction override")
            found += [f"{path[:120]}: {problem}" for problem in problems]
    assert not found, "\n".join(found)
