"""Debian's Chromium as a visitor of our pages, who notes everything that should not happen."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import axe_playwright_python
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Dialog, Page, Request, sync_playwright

from tests.browser.sites import Site

CHROMIUM: Final = "/usr/bin/chromium"
ARGUMENTS: Final = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

_AXE: Final = Path(axe_playwright_python.__file__).with_name("axe.min.js")


@dataclass(frozen=True)
class Look:
    """How wide a window is, and which colours its user prefers."""

    name: str
    width: int
    height: int
    scheme: str

    @property
    def is_phone(self) -> bool:
        """Whether it is as narrow as a phone."""
        return self.width < 500


LOOKS: Final = (
    Look("desktop-light", 1440, 900, "light"),
    Look("desktop-dark", 1440, 900, "dark"),
    Look("phone-light", 390, 844, "light"),
    Look("phone-dark", 390, 844, "dark"),
)


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser that ends with the block."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Visitor:
    """One window onto a site. ``complaints`` gathers console errors, foreign requests, dialogs and failed requests."""

    site: Site
    page: Page
    complaints: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.complaints.append(f"exception: {error}"))
        self.page.on("dialog", self._dialog)
        self.page.on("request", self._request)
        self.page.on("requestfailed", self._failed)

    def go(self, path: str) -> None:
        """Open a page and wait until all of it is there."""
        answer = self.page.goto(self.site.url + path, wait_until="load")
        if answer is None or answer.status != 200:
            self.complaints.append(f"{path} answers {answer.status if answer else 'nothing'}")

    def take_complaints(self) -> list[str]:
        """What happened since the last time."""
        found, self.complaints[:] = list(self.complaints), []
        return found

    def findings(self, *rules: str) -> list[str]:
        """What axe finds on this page, of whatever impact; of some rules alone where they are named."""
        if not self.page.evaluate("typeof axe === 'object'"):
            self.page.evaluate(_AXE.read_text(encoding="utf-8"))
        options: dict[str, Any] = {"resultTypes": ["violations"]} | ({"runOnly": list(rules)} if rules else {})
        # the rows of a table are alike; with 256 of them axe would take half a minute
        found: dict[str, Any] = self.page.evaluate(
            "options => axe.run({exclude: ['tbody tr:nth-child(n+13)']}, options)", options
        )
        return [
            f"axe {item['impact']} {item['id']}: {item['help']}: "
            + json.dumps([node["html"][:160] for node in item["nodes"][:3]])
            for item in found["violations"]
        ]

    def sideways(self) -> str | None:
        """How far the page scrolls sideways, and the element that is to blame; None where it does not."""
        found: str | None = self.page.evaluate(
            """() => {
                const room = document.documentElement.clientWidth;
                if (document.documentElement.scrollWidth <= room) return null;
                const wide = [...document.body.querySelectorAll("*")].filter(
                    (e) => e.getBoundingClientRect().right > room + 1 && !e.closest(".scroll"));
                return `${document.documentElement.scrollWidth} > ${room}: `
                    + wide.slice(0, 3).map((e) => e.outerHTML.slice(0, 120)).join(" | ");
            }"""
        )
        return found

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self.complaints.append(f"console {message.type}: {message.text}")

    def _failed(self, lost: Request) -> None:
        # a drawing or an icon that was on its way when the next page was opened
        if lost.failure != "net::ERR_ABORTED":
            self.complaints.append(f"failed: {lost.url} {lost.failure}")

    def _dialog(self, dialog: Dialog) -> None:
        self.complaints.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _request(self, request: Request) -> None:
        if urlsplit(request.url).netloc != self.site.host:
            self.complaints.append(f"request that leaves the host: {request.url[:200]}")


@contextmanager
def visitor(browser: Browser, site: Site, look: Look = LOOKS[0], *, scripts: bool = True) -> Iterator[Visitor]:
    """A window of its own, without history."""
    context: BrowserContext = browser.new_context(
        viewport={"width": look.width, "height": look.height},
        color_scheme="dark" if look.scheme == "dark" else "light",
        java_script_enabled=scripts,
        is_mobile=look.is_phone,
        has_touch=look.is_phone,
        reduced_motion="reduce",
    )
    try:
        yield Visitor(site, context.new_page())
    finally:
        context.close()
