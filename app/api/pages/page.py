"""One page: its template, its headers, and who wants HTML at all."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeVar

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from starlette.routing import Match
from starlette.types import Scope

from app.api.pages import wording
from app.api.pages.assets import asset_path
from app.api.pages.epochs.stage_bars import RANKING_NAMES
from app.api.pages.identity import identity, nobody
from app.competitions.queueing import remedy_of
from app.domain import percent
from app.settings import get_settings
from app.untrusted import visible

Handler = TypeVar("Handler", bound=Callable[..., Any])

CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; style-src 'self'; img-src 'self'; script-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)

SECURITY_HEADERS: Final = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


# UniProt's own pattern of an accession number, which is all that is put into a link to it.
_ACCESSION: Final = re.compile(r"[OPQ][0-9][A-Z0-9]{3}[0-9]|[A-NR-Z][0-9]([A-Z][A-Z0-9]{2}[0-9]){1,2}")

# How the state of a part (app.store.records.PartState) is marked.
_BADGES: Final = {"valid": "good", "rejected": "bad", "pending": "busy", "scored": "good"}


@dataclass(frozen=True, slots=True)
class Place:
    """An entry of the navigation: its address and its name."""

    path: str
    name: str


NAVIGATION: Final = [
    Place("/", "Now"),
    Place("/epochs", "Epochs"),
    Place("/weights", "Weights"),
    Place("/competitions", "Competitions"),
]


class PageRouter(APIRouter):
    """A router of pages: GET and HEAD, and not part of the API's schema."""

    def page(self, path: str) -> Callable[[Handler], Handler]:
        """Serve the decorated function at ``path``; it returns a response, mostly :func:`render`'s."""

        def register(handler: Handler) -> Handler:
            self.add_api_route(path, handler, methods=["GET", "HEAD"], include_in_schema=False, response_model=None)
            return handler

        return register


class BrowserRoute(APIRoute):
    """A route that is there only for who prefers HTML; others fall through to the next route of the same path."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """The route's own answer, if the ``Accept`` header wants HTML."""
        if scope["type"] == "http" and prefers_html(Request(scope)):
            return super().matches(scope)
        return Match.NONE, {}


def prefers_html(request: Request) -> bool:
    """Whether ``text/html`` has a higher quality in ``Accept`` than ``application/json`` (RFC 9110 §12.5.1).

    A client that accepts everything alike, or says nothing, gets JSON, as the API's clients expect.
    """
    accept = ",".join(request.headers.getlist("accept"))
    return _quality(accept, "text", "html") > _quality(accept, "application", "json")


def _quality(accept: str, kind: str, subtype: str) -> float:
    best = (0, 0.0)
    for entry in accept.split(","):
        media, *parameters = (part.strip().lower() for part in entry.split(";"))
        found = {f"{kind}/{subtype}": 3, f"{kind}/*": 2, "*/*": 1}.get(media)
        if found is None:
            continue
        quality = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                try:
                    quality = float(parameter[2:])
                except ValueError:
                    quality = 0.0
        best = max(best, (found, quality))
    return best[1]


def render(request: Request, template: str, *, status: int = 200, **context: Any) -> Response:
    """The page made of a template and what it shows, with its security headers and an ETag.

    A page that says what broke asks the store for nothing.

    Every text in ``context`` is escaped and its invisible characters are shown; no template switches that off.
    """
    moment = datetime.now(UTC)
    html = (
        _environment()
        .get_template(template)
        .render(
            **context,
            now=moment,
            here=request.url.path,
            navigation=NAVIGATION,
            flower=flower_address(),
            who=identity() if status < 500 else nobody(),
        )
    )
    body = html.encode("utf-8", "replace")
    headers = {**SECURITY_HEADERS, "Cache-Control": "private, no-cache", "Vary": "Accept"}
    if status == 200:
        tag = f'W/"{hashlib.sha256(body).hexdigest()[:24]}"'
        headers["ETag"] = tag
        if tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
    return Response(body, status, headers, media_type="text/html")


def compile_templates() -> None:
    """Compile every template now, so that nobody waits for it at the first page."""
    environment = _environment()
    for name in environment.list_templates(extensions=["html"]):
        environment.get_template(name)


def flower_address() -> str:
    """Where this cluster's Flower is, for a link."""
    settings = get_settings()
    return settings.flower_url or f"http://{settings.flower_address}:{settings.flower_port}"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
        finalize=_shown,
    )
    environment.globals.update(asset=asset_path, infinity=float("inf"), badges=_BADGES, ranking_names=RANKING_NAMES)
    environment.filters.update(percent=percent, remedy_of=remedy_of)
    environment.tests["uniprot"] = lambda code: bool(_ACCESSION.fullmatch(str(code)))
    for name in (
        "number",
        "whole",
        "shortened",
        "duration",
        "ago",
        "utc",
        "iso",
        "parsed_instant",
        "clipped",
    ):
        environment.filters[name] = getattr(wording, name)
    return environment


def _shown(value: Any) -> Any:
    """What a template prints: a text with nothing unseen in it, a dash for None."""
    if value is None:
        return wording.NOTHING
    if isinstance(value, str) and not isinstance(value, Markup):
        return visible(value)
    return value
