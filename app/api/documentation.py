"""``/docs``: the OpenAPI description to read and try, with Swagger UI's files from the package ``fastapi_offline``.

Also ``/robots.txt`` and ``/favicon.ico``.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Final

from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException

from app.api.pages.page import CONTENT_SECURITY_POLICY, SECURITY_HEADERS

# Swagger UI's style sheet holds its icons; everything else is as on the pages.
_HEADERS: Final = SECURITY_HEADERS | {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY.replace("img-src 'self'", "img-src 'self' data:")
}

_PAGE: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}: API</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,"><link rel="stylesheet" href="docs/swagger-ui.css"></head>
<body><div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"></script><script src="docs/start.js"></script></body></html>
"""

_START: Final = b'SwaggerUIBundle({url: "openapi.json", dom_id: "#swagger-ui", deepLinking: true});\n'

_TYPES: Final = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8"}

_READ: Final = ["GET", "HEAD"]

router = APIRouter(include_in_schema=False)


@cache
def _file(name: str) -> bytes:
    return _START if name == "start.js" else (files("fastapi_offline") / "static" / name).read_bytes()


@router.api_route("/docs", methods=_READ)
def docs(request: Request) -> Response:
    """The description of this API, for people."""
    return Response(_PAGE.format(title=request.app.title), media_type="text/html", headers=_HEADERS)


@router.api_route("/docs/{name}", methods=_READ)
def docs_file(name: str) -> Response:
    """What the page is made of."""
    if name not in {"swagger-ui.css", "swagger-ui-bundle.js", "start.js"}:
        raise HTTPException(404, "no such file")
    headers = {**_HEADERS, "Cache-Control": "public, max-age=86400"}
    return Response(_file(name), media_type=_TYPES[name.rpartition(".")[2]], headers=headers)


@router.api_route("/favicon.ico", methods=_READ)
def favicon() -> Response:
    """The site's icon, for clients that ask for it without having read a page; it is an SVG."""
    headers = {**SECURITY_HEADERS, "Cache-Control": "public, max-age=86400"}
    return Response(
        (files("app.api.pages") / "static" / "icon.svg").read_bytes(), media_type="image/svg+xml", headers=headers
    )


@router.api_route("/robots.txt", methods=_READ)
def robots() -> Response:
    """Search engines are asked to stay out: pages of epochs are many, and change."""
    return Response("User-agent: *\nDisallow: /\n", media_type="text/plain")
