"""A long list in pages."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import Request

from app.api.pages.errors import NotFound


@dataclass(frozen=True, slots=True)
class Paging:
    """Which part of a list is shown: page ``number`` of ``pages``, each ``size`` entries long."""

    path: str
    number: int
    pages: int
    size: int

    @property
    def offset(self) -> int:
        """Entries before this page."""
        return (self.number - 1) * self.size


def paging(request: Request, entries: int, size: int) -> Paging:
    """The page that ``?page=`` asks for, the first without it.

    Raises:
        NotFound: there is no such page.
    """
    pages = max(1, -(-entries // size))
    asked = request.query_params.get("page", "1")
    if not (asked.isascii() and asked.isdigit() and len(asked) < 10 and 1 <= int(asked) <= pages):
        raise NotFound(f"This list has {pages} page(s); there is no such page in it.")
    return Paging(request.url.path, int(asked), pages, size)
