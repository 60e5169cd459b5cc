"""A long list in pages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Final, TypeVar

from fastapi import Request
from sqlalchemy.orm import Session

from app.api.pages.errors import NotFound
from app.store.database import get_store

# A download reads so many entries in one session: no session outlives a part of it.
READ_TOGETHER: Final = 200

T = TypeVar("T")


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


def every(read: Callable[[Session, int, int], Sequence[T]], most: int | None = None) -> Iterator[T]:
    """All entries of a list, at most ``most``, as ``read(session, limit, offset)`` gives them."""
    for offset in count(0, READ_TOGETHER) if most is None else range(0, most, READ_TOGETHER):
        with get_store().reading() as session:
            found = read(session, READ_TOGETHER, offset)
        yield from found
        if len(found) < READ_TOGETHER:
            return
