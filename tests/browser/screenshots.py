"""``make screenshots``: the pictures of docs/pages.md, in Chromium: the bundled epoch, made-up epochs and competitions.

python -m tests.browser.screenshots [FOLDER]
"""

from __future__ import annotations

import re
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Browser
from playwright.sync_api import Error as BrowserError

from app.store.database import Store
from tests.app.competitions.competition_fixtures import miner
from tests.app.page_stores import hotkey, known_validator, lively_competitions
from tests.browser.chromium import LOOKS, Look, chromium, visitor
from tests.browser.sites import PROJECT, Site, cluster_site

FOLDER = PROJECT / "docs" / "screenshots"
MOST_BYTES = 200_000


@dataclass(frozen=True)
class Shot:
    """One picture: its file, its page, and how the page is looked at."""

    name: str
    path: str
    look: Look


_DESKTOP_LIGHT, _DESKTOP_DARK, _PHONE_LIGHT, _PHONE_DARK = LOOKS


# The bundled epoch is the first of its store.
EPOCH = "/epochs/1"


def shots(refused: str) -> list[Shot]:
    """What is shown in the documentation; ``refused``: the hotkey of a submission whose molecule is known."""
    epoch = EPOCH
    return [
        Shot("now-desktop", "/", _DESKTOP_LIGHT),
        Shot("now-phone-dark", "/", _PHONE_DARK),
        Shot("epoch-desktop", epoch, _DESKTOP_LIGHT),
        Shot("epoch-desktop-dark", epoch, _DESKTOP_DARK),
        Shot("submission-desktop", f"{epoch}/submissions/1", _DESKTOP_LIGHT),
        Shot("submission-refused-phone", f"{epoch}/submissions/9", _PHONE_LIGHT),
        Shot("hotkey-desktop", f"/hotkeys/{hotkey(3)}", _DESKTOP_LIGHT),
        Shot("hotkey-phone-dark", f"/hotkeys/{refused}", _PHONE_DARK),
        Shot("competitions-desktop", "/competitions", _DESKTOP_LIGHT),
        Shot("competition-desktop-dark", "/competitions/voicebench", _DESKTOP_DARK),
        Shot("miner-desktop", f"/miners/{miner(13)}", _DESKTOP_LIGHT),
        Shot("miner-phone", f"/miners/{miner(13)}", _PHONE_LIGHT),
        Shot("rounds-desktop", "/rounds", _DESKTOP_LIGHT),
    ]


def take(browser: Browser, site: Site, folder: Path) -> list[Path]:
    """Every picture, as files."""
    drawn = f"{EPOCH}/submissions/9"
    refused = re.search(r'href="/hotkeys/([^"/]+)"', site.get(drawn).text)
    assert refused is not None, f"{drawn} leads to no miner"
    # the broker is asked beside the page: its workers are known from the second look on
    for _ in range(30):
        if "unknown" not in site.get("/").text:
            break
        time.sleep(0.5)
    taken = []
    for shot in shots(refused[1]):
        with visitor(browser, site, shot.look) as guest:
            guest.go(shot.path)
            if complaints := guest.take_complaints():
                raise BrowserError(f"{shot.path}: {complaints}")
            path = folder / f"{shot.name}.png"
            guest.page.screenshot(path=path, scale="css", animations="disabled")
            taken.append(path)
    return taken


def main() -> None:
    """Take them all; each must stay small enough for a repository."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as data, cluster_site(Path(data)) as site, chromium() as browser:
        store = Store(site.store_url)
        known_validator(store, epochs=20)
        lively_competitions(store)
        store.close()
        for path in take(browser, site, folder):
            size = path.stat().st_size
            print(f"{path.name}: {size / 1000:.0f} kB{'' if size < MOST_BYTES else '  TOO LARGE'}")


if __name__ == "__main__":
    main()
