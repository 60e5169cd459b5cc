"""The web application: its routers, and how it answers when something is wrong. Served by ``python -m app api``."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import DBAPIError, TimeoutError

from app.api.authentication import BASIC_SCHEME, HEADER_SCHEMES
from app.api.body_limit import BodyLimit
from app.api.validator import health_router, validator_router
from app.settings import get_settings
from app.store.database import StoreError

log = logging.getLogger("celery_validator.api")


def create_app(routers: Sequence[APIRouter] | None = None) -> FastAPI:
    """The application with the validator API, or with other routers (the scoring API, the pages)."""
    settings = get_settings()
    # FastAPI's own pages load their scripts from a CDN; the schema is at /openapi.json
    app = FastAPI(title="celery-validator", version="1", docs_url=None, redoc_url=None)
    app.add_middleware(BodyLimit, limit=settings.api_body_limit)
    app.add_exception_handler(RequestValidationError, _unprocessable)
    app.add_exception_handler(DBAPIError, _store_away)
    app.add_exception_handler(TimeoutError, _store_away)
    app.add_exception_handler(StoreError, _store_away)
    for router in [health_router, validator_router] if routers is None else routers:
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


async def _store_away(request: Request, error: Exception) -> JSONResponse:
    log.error("%s %s: the store does not answer: %s", request.method, request.url.path, error)
    return JSONResponse({"detail": "the store does not answer; try again"}, 503, headers={"Retry-After": "10"})
