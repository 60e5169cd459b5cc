"""The pages that say what went wrong."""

from __future__ import annotations

from typing import Final

from fastapi import Request, Response
from starlette.exceptions import HTTPException

from app.api.pages.page import render

_HEADINGS: Final = {
    404: "Not found",
    405: "Not possible here",
    500: "Something went wrong",
    503: "The store does not answer",
}


class NotFound(HTTPException):
    """A page asks for something that is not in the store; the sentence says what."""

    def __init__(self, sentence: str) -> None:
        super().__init__(404, sentence)


def error_page(request: Request, status: int, sentence: str) -> Response:
    """A page with a heading for the status, the sentence, and the way back."""
    heading = _HEADINGS.get(status, f"Error {status}")
    response = render(request, "error.html", status=status, heading=heading, sentence=sentence)
    if status == 503:
        response.headers["Retry-After"] = "10"
    return response
