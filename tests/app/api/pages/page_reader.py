"""A page as a parser sees it, for the tests of the pages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lxml.html
from sqlalchemy import Engine, event
from starlette.testclient import TestClient

BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"}


class PageReader:
    """A parsed page: its headings, links, and tables by caption."""

    def __init__(self, html: str) -> None:
        self.root = lxml.html.document_fromstring(html)

    def text(self, xpath: str = "//body") -> str:
        """The text of the first element found, white space folded."""
        return folded(self.root.xpath(xpath)[0].text_content())

    def links(self) -> list[str]:
        """Where the page's links lead."""
        return [str(link) for link in self.root.xpath("//a/@href")]

    def table(self, caption: str) -> list[list[str]]:
        """The body cells of the table whose caption holds this text, as text."""
        return [[folded(cell.text_content()) for cell in row.xpath("./td|./th")] for row in self.rows(caption)]

    def rows(self, caption: str) -> list[Any]:
        """The body rows of the table whose caption holds this text."""
        found = [table for table in self.root.xpath("//table") if caption in folded(table.xpath("./caption")[0].text)]
        assert len(found) == 1, (caption, [folded(one.text_content()) for one in self.root.xpath("//caption")])
        return list(found[0].xpath("./tbody/tr"))

    def facts(self, heading: str) -> dict[str, str]:
        """The definition list of the section with this heading's id."""
        names = self.root.xpath(f"//section[@aria-labelledby='{heading}']//dl/dt")
        return {folded(name.text_content()): folded(name.getnext().text_content()) for name in names}


def folded(text: str) -> str:
    """The text with every run of white space as one blank."""
    return re.sub(r"\s+", " ", text or "").strip()


def read(client: TestClient, path: str, status: int = 200) -> PageReader:
    """The page at a path, as a browser asks for it."""
    answer = client.get(path, headers=BROWSER)
    assert answer.status_code == status, answer.text[:2000]
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    return PageReader(answer.text)


@contextmanager
def counted(engine: Engine) -> Iterator[list[str]]:
    """The statements that are executed in the block, transactions' own aside."""
    statements: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if not statement.startswith(("BEGIN", "COMMIT", "ROLLBACK", "PRAGMA")):
            statements.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        event.remove(engine, "before_cursor_execute", note)
