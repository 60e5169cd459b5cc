"""The web application: its routers, and how it answers when something is wrong. Served by ``python -m app api``."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exception_handlers import http_exception_handler
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from sqlalchemy.exc import DBAPIError, TimeoutError
from starlette.exceptions import HTTPException

from app.api import documentation
from app.api.authentication import BASIC_SCHEME, HEADER_SCHEMES
from app.api.pages import page_routers
from app.api.pages.errors import error_page
from app.api.pages.page import prefers_html
from app.api.request_edge import BODY_SECONDS, RequestEdge
from app.api.validator import health_router, reads_router, validator_router
from app.competitions.profile import profile_of
from app.settings import get_settings
from app.store.database import StoreError

log = logging.getLogger("celery_validator.api")


def create_app(routers: Sequence[APIRouter] | None = None) -> FastAPI:
    """The application with the validator API and the pages, or with other routers (the scoring API)."""
    settings = get_settings()
    # FastAPI's own page loads its scripts from a CDN; app.api.documentation serves them itself
    app = FastAPI(title="celery-validator", version="1", docs_url=None, redoc_url=None)
    app.add_middleware(RequestEdge, limit=settings.api_body_limit, seconds=BODY_SECONDS)
    app.add_exception_handler(RequestValidationError, _unprocessable)
    app.add_exception_handler(DBAPIError, _store_unavailable)
    app.add_exception_handler(TimeoutError, _store_unavailable)
    app.add_exception_handler(StoreError, _store_unavailable)
    if routers is None:
        routers = [health_router, validator_router, reads_router(profile_of(settings))]
        if settings.pages:
            # first: a browser gets the home page at /, every other client the health
            routers = [*page_routers(), *routers]
            app.state.pages = True
            app.add_exception_handler(HTTPException, _refused)
            app.add_exception_handler(Exception, _broken)
    for router in [*routers, documentation.router]:
        app.include_router(router)
    plain = app.openapi
    app.openapi = lambda: _with_alternatives(plain())  # type: ignore[method-assign]
    return app


def _with_alternatives(schema: dict[str, Any]) -> dict[str, Any]:
    """Say what FastAPI cannot: either Basic, or all three headers together."""
    for operations in schema["paths"].values():
        for operation in operations.values():
            if "security" in operation:
                operation["security"] = [{name: [] for name in HEADER_SCHEMES}, {BASIC_SCHEME: []}]
    return schema


async def _unprocessable(_: Request, error: Exception) -> JSONResponse:
    # without the input: it may hold what JSON cannot (NaN, lone surrogates), or be a secret
    assert isinstance(error, RequestValidationError)
    detail = [
        {"loc": [_plain(part) for part in item["loc"]], "msg": _plain(item["msg"]), "type": item["type"]}
        for item in error.errors()
    ]
    return JSONResponse({"detail": detail}, 422)


def _plain(value: object) -> str:
    return str(value).encode("ascii", "backslashreplace").decode()[:200]


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if prefers_html(request):
        unknown = error.detail == "Not Found"
        sentence = "There is no page at this address." if unknown else str(error.detail)
        return error_page(request, error.status_code, sentence)
    return await http_exception_handler(request, error)


async def _broken(request: Request, error: Exception) -> Response:
    if prefers_html(request):
        return error_page(request, 500, "This page could not be made; the API's log says why.")
    return PlainTextResponse("Internal Server Error", 500)


async def _store_unavailable(request: Request, error: Exception) -> Response:
    log.error("%s %s: the store does not answer: %s", request.method, request.url.path, error)
    if getattr(request.app.state, "pages", False) and prefers_html(request):
        return error_page(request, 503, "The database does not answer. The validator's work goes on once it does.")
    return JSONResponse({"detail": "the store does not answer; try again"}, 503, headers={"Retry-After": "10"})
