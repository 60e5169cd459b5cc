"""How the pages write numbers, times and untrusted text; and what their files hold."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from fastapi import Response
from fastapi.responses import StreamingResponse
from hypothesis import given
from hypothesis import strategies as st

from app.api.pages.downloads import csv_response, json_response
from app.api.pages.wording import ago, clipped, duration, iso, number, parsed_instant, utc
from app.domain import RejectionCode, percent

NOON = datetime(2025, 10, 28, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0.0 s"), (0.26, "0.3 s"), (9.94, "9.9 s"), (10, "10 s"), (59.6, "1 min"), (61, "1 min 1 s"),
        (3599.6, "1 h"), (3600, "1 h"), (7500, "2 h 5 min"), (86_400, "1 d"), (90_061, "1 d 1 h"), (3605, "1 h"),
        (-3, "0.0 s"), (None, "–"), (timedelta(minutes=2), "2 min"),
    ],
)  # fmt: skip
def test_a_duration_is_in_two_units_at_most(seconds: Any, shown: str) -> None:
    assert duration(seconds) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "just now"), (-3, "just now"), (59, "59 s ago"), (60, "1 min ago"), (7199, "1 h ago"), (-90, "in 1 min"),
        (864_000, "10 d ago"),
    ],
)  # fmt: skip
def test_how_long_ago(seconds: float, shown: str) -> None:
    assert ago(NOON - timedelta(seconds=seconds), NOON) == shown


def test_numbers_and_instants() -> None:
    assert number(1234.56789) == "1,234.5679"
    assert number(-math.inf) == "−∞"
    assert number(None) == number(math.nan) == "–"
    assert percent(0.25) == "25.0 %"
    assert clipped("x" * 500, 10) == "x" * 10 + "… (500 characters)"
    assert clipped("x" * 10, 10) == "x" * 10
    there = NOON.astimezone(timezone(timedelta(hours=2)))
    assert utc(there) == "2025-10-28 12:00:00 UTC"
    assert iso(there) == "2025-10-28T12:00:00Z"
    assert parsed_instant("2025-10-28T12:00:00Z") == NOON
    assert parsed_instant("2025-10-28T12:00:00") == NOON
    assert parsed_instant("yesterday") is None
    assert parsed_instant("") is None


def cells(value: object) -> str:
    return list(csv.reader(io.StringIO(_body(csv_response("n", ("a",), [(value,)])).decode())))[1][0]


def _body(answer: Response) -> bytes:
    """What a client gets of a streamed answer."""

    async def collected() -> bytes:
        assert isinstance(answer, StreamingResponse)
        return b"".join([bytes(piece) async for piece in answer.body_iterator])  # type: ignore[arg-type]

    return asyncio.run(collected())


@given(st.text(max_size=20))
def test_no_cell_begins_as_a_formula_does(text: str) -> None:
    found = cells(text)
    assert not found.lstrip(" ").startswith(("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠"))
    assert (
        found.removeprefix("'").replace("\r\n", "\n") in {text, text.removeprefix("'"), text.replace("\r\n", "\n")}
        or "\r" in text
    )


def test_cells_hold_what_they_should() -> None:
    assert cells(-math.inf) == "-inf"
    assert cells(-1.5) == "-1.5"
    assert cells(0.1 + 0.2) == "0.30000000000000004"
    assert cells(None) == ""
    assert cells(math.nan) == ""
    assert cells(NOON) == "2025-10-28T12:00:00Z"
    assert cells(RejectionCode.HASH_MISMATCH) == "hash_mismatch"
    assert cells({"=1+1": 2}) == '{"=1+1": 2}'
    assert cells("\ud800") == "?"
    header = _body(csv_response("n", ("=cmd()",), []))
    assert header == b"'=cmd()\r\n"


def test_json_has_no_infinity_and_a_file_no_strange_name() -> None:
    @dataclass(frozen=True)
    class Thing:
        score: float
        at: datetime

    answer = json_response(
        'evil";\r\nname/../x', {"thing": Thing(-math.inf, NOON), 3: (math.nan, {1}), "s": "\u2028</script>"}
    )
    document = json.loads(bytes(answer.body), parse_constant=pytest.fail)
    assert document == {
        "thing": {"score": "-inf", "at": "2025-10-28T12:00:00Z"},
        "3": [None, [1]],
        "s": "\u2028</script>",
    }
    assert answer.headers["content-disposition"] == 'attachment; filename="evil____name_.._x.json"'
