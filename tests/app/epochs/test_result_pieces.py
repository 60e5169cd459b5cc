"""result.json in pieces is the same text, bit by bit."""

from __future__ import annotations

from typing import Any

import pytest

from app.epochs.result import report_pieces, report_text

HEAD: dict[str, Any] = {
    "schema": 1,
    "challenge": {"targets": ["A"]},
    "submissions": [],
    "warnings": ['"submissions": []'],
}


@pytest.mark.parametrize(
    "submissions",
    [
        [],
        [{"uid": 1, "molecules": []}],
        [{"uid": 1, "text": "a\u2028b\n\x85"}, {"uid": 2, "molecules": [{"name": "x"}]}],
    ],
)
def test_the_pieces_are_the_document(submissions: list[dict[str, Any]]) -> None:
    pieces = list(report_pieces(HEAD, iter(submissions)))
    assert "".join(pieces) == report_text(HEAD | {"submissions": submissions})
    assert len(pieces) == len(submissions) + 2
