"""What a page shows, as a CSV or JSON file."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from datetime import datetime
from enum import Enum
from itertools import chain
from pathlib import Path
from typing import Any, Final

from fastapi import Request, Response
from fastapi.responses import FileResponse, StreamingResponse
from filelock import FileLock

from app.api.pages.wording import iso
from app.settings import get_settings

# A spreadsheet takes a text that begins so for a formula (the full-width forms too).
_FORMULA_STARTS: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠", "|", "%")

# Results of closed epochs, some 10 MB each.
_FILES_KEPT: Final = 64

_HEADERS: Final = {
    "Cache-Control": "private, no-cache",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def csv_response(name: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Response:
    """A CSV file (UTF-8, header line). A text that a spreadsheet would take for a formula gets a ``'`` before it.

    −inf is written ``-inf``, None is an empty cell, instants are ISO 8601 in UTC.
    """

    def pieces() -> Iterator[bytes]:
        for row in chain([columns], rows):
            text = io.StringIO()
            csv.writer(text).writerow([_cell(value) for value in row])
            yield text.getvalue().encode("utf-8", "replace")

    return StreamingResponse(pieces(), media_type="text/csv", headers=_named(f"{name}.csv"))


def json_response(name: str, document: Any) -> Response:
    """A JSON file. Dataclasses become objects; −inf is the string ``-inf``, as in result.json, and NaN null."""
    text = json.dumps(plain(document), indent=1, ensure_ascii=True, allow_nan=False)
    return Response(text + "\n", media_type="application/json", headers=_named(f"{name}.json"))


def streamed_json(name: str, document: Mapping[str, Any] | Iterator[Any]) -> Response:
    """A JSON file that is never held whole: an object whose iterators are lists, or one list, written entry by entry.

    Whatever grows with the history or with the number of miners is an iterator that reads as it goes.
    """
    pieces = _object_pieces(document) if isinstance(document, Mapping) else chain(_list_pieces(document, ""), ["\n"])
    return StreamingResponse(pieces, media_type="application/json", headers=_named(f"{name}.json"))


def _object_pieces(document: Mapping[str, Any]) -> Iterator[str]:
    yield "{"
    for number, (key, value) in enumerate(document.items()):
        yield f"{',' if number else ''}\n {json.dumps(str(key))}: "
        if isinstance(value, Iterator):
            yield from _list_pieces(value, " ")
        else:
            yield _text(value, " ")
    yield "\n}\n"


def _list_pieces(entries: Iterable[Any], indent: str) -> Iterator[str]:
    yield "["
    number = 0
    for number, entry in enumerate(entries, 1):
        yield f"{',' if number > 1 else ''}\n{indent} {_text(entry, indent + ' ')}"
    yield f"\n{indent}]" if number else "]"


def _text(value: Any, indent: str) -> str:
    return json.dumps(plain(value), indent=1, ensure_ascii=True, allow_nan=False).replace("\n", f"\n{indent}")


def file_response(request: Request, name: str, identity: object, pieces: Iterable[str]) -> Response:
    """A document that does not change, written to ``DATA_DIR/results`` once and served from there.

    ``identity`` is all that decides the document; its digest is the ETag. ``pieces`` are asked for only where no file
    with this identity is there.
    """
    digest = hashlib.sha256(repr(identity).encode("utf-8", "replace")).hexdigest()[:32]
    headers = {**_named(name), "ETag": f'"{digest}"'}
    if f'"{digest}"' in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    folder = get_settings().data_dir.expanduser().resolve() / "results"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{digest}.json"
    # many ask at once when an epoch closes; one of them writes
    with FileLock(folder / "lock"):
        if not path.exists():
            _write(path, pieces)
            _forget_oldest(folder)
    return FileResponse(path, headers=headers, media_type="application/json")


def _write(path: Path, pieces: Iterable[str]) -> None:
    partial = path.with_suffix(".partial")
    with partial.open("w", encoding="utf-8", errors="replace") as stream:
        stream.writelines(pieces)
    partial.replace(path)


def _forget_oldest(folder: Path) -> None:
    for path in sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime)[:-_FILES_KEPT]:
        path.unlink(missing_ok=True)


def plain(value: Any) -> Any:
    """The value in what JSON can hold."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return value if math.isfinite(value) else ("-inf" if value < 0 else "inf")
    if isinstance(value, datetime):
        return iso(value)
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(entry) for entry in value]
    return value


def _cell(value: object) -> object:
    found = plain(value)
    if isinstance(value, float) or found is None:
        return "" if found is None else found
    if isinstance(found, dict | list):
        found = json.dumps(found, ensure_ascii=False)
    if isinstance(found, str) and found.lstrip(" ").startswith(_FORMULA_STARTS):
        return f"'{found}"
    return found


def file_headers() -> dict[str, str]:
    """The headers of a file that is read where it is, such as a feed."""
    return dict(_HEADERS)


def _named(filename: str) -> dict[str, str]:
    kept = "".join(letter if letter.isascii() and (letter.isalnum() or letter in "._-") else "_" for letter in filename)
    return {**_HEADERS, "Content-Disposition": f'attachment; filename="{kept}"'}
