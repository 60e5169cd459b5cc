"""What a page shows, as a CSV or JSON file."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from datetime import datetime
from enum import Enum
from typing import Any, Final

from fastapi import Response

from app.api.pages.wording import iso

# A spreadsheet takes a text that begins so for a formula (the full-width forms too).
_FORMULA_STARTS: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠", "|", "%")

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
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow([_cell(column) for column in columns])
    writer.writerows([_cell(value) for value in row] for row in rows)
    return Response(text.getvalue().encode("utf-8", "replace"), media_type="text/csv", headers=_named(f"{name}.csv"))


def json_response(name: str, document: Any) -> Response:
    """A JSON file. Dataclasses become objects; −inf is the string ``-inf``, as in result.json, and NaN null."""
    text = json.dumps(plain(document), indent=1, ensure_ascii=True, allow_nan=False)
    return Response(text + "\n", media_type="application/json", headers=_named(f"{name}.json"))


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


def _named(filename: str) -> dict[str, str]:
    kept = "".join(letter if letter.isascii() and (letter.isalnum() or letter in "._-") else "_" for letter in filename)
    return {**_HEADERS, "Content-Disposition": f'attachment; filename="{kept}"'}
