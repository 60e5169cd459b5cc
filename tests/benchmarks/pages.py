"""First paint of an epoch's page with 256 submissions of 100 molecules in headless Chromium: median under 300 ms.

    python -m tests.benchmarks pages

``python -m app api`` serves it from SQLite, as one process; each visit is a window of its own, without a cache. Beside
the first paint stands the server's time to the last byte, of this page and of those around it.
"""

from __future__ import annotations

import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

TARGET_MS = 300.0
VISITS = 15
REQUESTS = 20

_FIRST_PAINT = "performance.getEntriesByName('first-contentful-paint').map((entry) => entry.startTime)[0] ?? null"


def main() -> None:
    """Print the medians and the spread."""
    from tests.app.page_stores import full_epoch
    from tests.browser.chromium import CHROMIUM
    from tests.browser.sites import Site, store_site

    def server_ms(site: Site, path: str) -> list[float]:
        import httpx

        with httpx.Client(base_url=site.url, headers={"Accept": "text/html"}, timeout=60) as client:
            return _timed(lambda: client.get(path).raise_for_status(), REQUESTS)

    with tempfile.TemporaryDirectory() as folder, store_site(Path(folder), full_epoch) as site:
        size = len(site.get("/epochs/1").content)
        print(
            f"epoch of 256 submissions x 100 molecules, page of {size / 1000:.0f} kB, SQLite, {os.cpu_count()} cores:"
        )
        for path in ("/epochs/1", "/", "/epochs", "/epochs/1/submissions/1", "/weights", "/competitions"):
            print(f"  server, {path}: {_said(server_ms(site, path))}")
        if not Path(CHROMIUM).exists():
            print("  first paint: left out, no Chromium here (apt-get install chromium)")
            return
        paints, empty = _paints(site, "/epochs/1"), _paints(site, "/rounds")
    median = statistics.median(paints)
    print(f"  first contentful paint, /epochs/1: {_said(paints)}")
    print(f"  first contentful paint of a page without content, for comparison: {_said(empty)}")
    print(f"  target {TARGET_MS:.0f} ms: {'met' if median < TARGET_MS else 'MISSED'}; load {os.getloadavg()[0]:.1f}")
    print(f"  {platform.processor() or platform.machine()}, Python {platform.python_version()}")


def _paints(site: object, path: str) -> list[float]:
    """Milliseconds from the beginning of the navigation to the first content on the screen, each in a new window."""
    from tests.browser.chromium import chromium, visitor

    found = []
    with chromium() as browser:
        for _ in range(VISITS + 2):
            with visitor(browser, site) as guest:  # type: ignore[arg-type]
                guest.go(path)
                # asked again and again: waiting within the page would need eval, which its policy forbids
                while not (painted := guest.page.evaluate(_FIRST_PAINT)):
                    time.sleep(0.02)
                found.append(float(painted))
                assert not guest.take_complaints()
    return found[2:]


def _timed(ask: Callable[[], object], times: int) -> list[float]:
    found = []
    for _ in range(times + 2):
        begun = time.perf_counter()
        ask()
        found.append((time.perf_counter() - begun) * 1000)
    return found[2:]


def _said(values: list[float]) -> str:
    return f"median {statistics.median(values):.0f} ms, min {min(values):.0f}, max {max(values):.0f} of {len(values)}"


if __name__ == "__main__":
    main()
