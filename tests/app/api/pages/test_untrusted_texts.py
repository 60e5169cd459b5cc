"""Untrusted text stays text: on every page no element and no attribute that the pages do not have anyway."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import httpx
import pytest
from starlette.testclient import TestClient

from app.api.application import create_app
from app.settings import get_settings
from app.store.database import Store, close_stores
from tests.app.page_stores import BENIGN, HOSTILE, hostile_epoch
from tests.stores import migrated

HTML = {"Accept": "text/html"}

# Direction marks, NUL, escapes: none may reach the reader's screen, wherever they stand.
UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]")


class Skeleton(HTMLParser):
    """The elements and attributes of a page, where it leads, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: Counter[str] = Counter()
        self.attributes: set[tuple[str, str]] = set()
        self.addresses: list[tuple[str, str]] = []
        self.comments: list[str] = []
        self.text: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements[tag] += 1
        for name, value in attrs:
            self.attributes.add((tag, name))
            if name in {"href", "src", "action", "formaction", "data-refresh", "xlink:href"}:
                self.addresses.append((tag, value or ""))

    def handle_comment(self, data: str) -> None:
        self.comments.append(data)

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def site(folder: Path, texts: tuple[str, ...]) -> str:
    """The address of a store filled with these texts."""
    url = f"sqlite:///{folder / 'store.sqlite'}"
    store = Store(url)
    migrated(store)
    hostile_epoch(store, texts)
    store.close()
    return url


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, dict[str, httpx.Response]]]:
    """Every page and file of a hostile store, and of one that is filled the same way with harmless words."""
    found = {}
    patch = pytest.MonkeyPatch()
    for name, texts, most in (("hostile", HOSTILE, 60), ("harmless", BENIGN, 60)):
        with visiting(site(tmp_path_factory.mktemp(name), texts), patch) as client:
            found[name] = crawl(client, most)
    patch.undo()
    yield found
    close_stores()
    get_settings.cache_clear()


@contextmanager
def visiting(url: str, patch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    patch.setenv("DATABASE_URL", url)
    # nobody listens there: the home page must not wait for a broker
    patch.setenv("BROKER_URL", "redis://127.0.0.1:1/0")
    get_settings.cache_clear()
    with TestClient(create_app(), headers=HTML) as client:
        yield client


def crawl(client: TestClient, most: int) -> dict[str, httpx.Response]:
    """Follow links within the site: so many pages, and 3 files, of one kind (the address's first and last part)."""
    found: dict[str, httpx.Response] = {}
    kinds: Counter[str] = Counter()
    pending = ["/"]
    while pending:
        path = pending.pop(0)
        parts = path.split("?")[0].split("/")
        is_file = path.endswith((".csv", ".json", ".svg"))
        kind = f"{parts[1]} {len(parts)} {parts[-1] if is_file and len(parts) > 3 else is_file}"
        if path in found or kinds[kind] >= (3 if is_file else most):
            continue
        kinds[kind] += 1
        found[path] = client.get(path)
        if found[path].headers["content-type"].startswith("text/html"):
            for href in re.findall(r'(?:href|src|data-refresh)="([^"]*)"', found[path].text):
                link = unescape(href).split("#")[0]
                if link.startswith("/") and not link.startswith("//"):
                    pending.append(link)
    return found


def pages(answers: dict[str, httpx.Response]) -> dict[str, Skeleton]:
    """The pages among the answers."""
    return {
        path: Skeleton(answer.text)
        for path, answer in answers.items()
        if answer.headers["content-type"].startswith("text/html")
    }


def test_no_element_and_no_attribute_that_was_not_ours(answers: dict[str, dict[str, httpx.Response]]) -> None:
    ours, ours_with = set(), set()
    for skeleton in pages(answers["harmless"]).values():
        ours |= skeleton.elements.keys()
        ours_with |= skeleton.attributes
    assert len(ours) > 25
    hostile = pages(answers["hostile"])
    assert len(hostile) > 60
    for path, skeleton in hostile.items():
        assert skeleton.elements.keys() <= ours, path
        assert skeleton.attributes <= ours_with, path
        assert not skeleton.comments, path
        if not is_part(path):
            once = [skeleton.elements[name] for name in ("html", "head", "body", "main", "h1", "script")]
            assert once == [1] * 6, path


def is_part(path: str) -> bool:
    """Whether an address is that of a fragment, which is set into a page."""
    return path.startswith("/fragments/")


def test_no_address_leads_away(answers: dict[str, dict[str, httpx.Response]]) -> None:
    for path, skeleton in pages(answers["hostile"]).items():
        for tag, address in skeleton.addresses:
            parts = urlsplit(address)
            assert parts.scheme in {"", "http"}, (path, tag, address)
            assert parts.netloc in {"", "127.0.0.1:5555"}, (path, tag, address)
            assert address.startswith(("/", "#", "http://127.0.0.1:5555", "?")), (path, tag, address)
            assert not address.startswith(("//", "/\\")), (path, tag, address)


def test_nothing_unseen_and_no_template_is_worked(answers: dict[str, dict[str, httpx.Response]]) -> None:
    words = ""
    for path, answer in answers["hostile"].items():
        if answer.headers["content-type"].startswith("text/html"):
            assert not UNSEEN.search(answer.text), path
            assert "1234000" not in answer.text, path
            words += answer.text
    # they are shown, not swallowed
    for shown in ("⟨U+202E⟩", "{{ 1234 * 1000 }}", "&lt;evil&gt;"):
        assert shown in words


def test_no_page_is_swollen(answers: dict[str, dict[str, httpx.Response]]) -> None:
    for path, answer in answers["hostile"].items():
        if answer.headers["content-type"].startswith("text/html"):
            assert len(answer.content) < 2_000_000, (path, len(answer.content))


def test_every_answer_forbids_what_is_not_ours(answers: dict[str, dict[str, httpx.Response]]) -> None:
    for path, answer in answers["hostile"].items():
        assert answer.status_code in {200, 404}, (path, answer.status_code)
        assert answer.headers["x-content-type-options"] == "nosniff", path
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'"), path
        assert "unsafe-eval" not in policy, path
        if not path.startswith("/static/") and "svg" not in answer.headers["content-type"]:
            assert "unsafe-inline" not in policy, path


def test_files_are_whole_and_no_spreadsheet_computes_them(answers: dict[str, dict[str, httpx.Response]]) -> None:
    tables = documents = 0
    for path, answer in answers["hostile"].items():
        kind = answer.headers["content-type"]
        if kind.startswith("text/csv"):
            tables += 1
            head, *rows = csv.reader(io.StringIO(answer.text))
            assert all(len(row) == len(head) for row in rows), path
            for row in rows:
                for cell in row:
                    assert not cell.startswith(("=", "+", "@", "\t", "\r")), (path, cell[:60])
                    assert not (cell.startswith("-") and not is_number(cell)), (path, cell[:60])
        elif kind.startswith("application/json"):
            documents += 1
            json.loads(answer.text)
            # result.json is the document that the epoch's end wrote, letter by letter
            assert answer.text.isascii() or path.endswith("/result.json"), path
        if kind.startswith(("text/csv", "application/json")):
            assert re.fullmatch(r'attachment; filename="[A-Za-z0-9._-]+"', answer.headers["content-disposition"]), path
    assert tables > 10
    assert documents > 10


def is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def test_pages_of_hostile_names_are_found(answers: dict[str, dict[str, httpx.Response]]) -> None:
    """The names really are in addresses, and lead to the pages that bear them."""
    seen = {unquote(path.removeprefix("/miners/")) for path, a in answers["hostile"].items() if a.status_code == 200}
    assert len(seen & set(HOSTILE)) > len(HOSTILE) / 2
