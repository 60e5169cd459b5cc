"""The pages' style sheet, script and icon: files of the package, under addresses that change with their content."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Final

from fastapi import APIRouter, HTTPException, Response

_FOLDER: Final = Path(__file__).parent / "static"

_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

router = APIRouter(include_in_schema=False)


@cache
def _assets() -> dict[str, tuple[str, bytes]]:
    """Hashed name → media type and content of every file in ``static``."""
    found = {}
    for path in sorted(_FOLDER.iterdir()):
        if path.suffix in _TYPES:
            content = path.read_bytes()
            digest = hashlib.sha256(content).hexdigest()[:12]
            found[f"{path.stem}.{digest}{path.suffix}"] = (_TYPES[path.suffix], content)
    return found


@cache
def asset_path(name: str) -> str:
    """The address of a static file (``site.css`` → ``/static/site.0a1b….css``).

    Raises:
        KeyError: no such file is in the package.
    """
    stem, _, suffix = name.rpartition(".")
    for hashed in _assets():
        if hashed.startswith(f"{stem}.") and hashed.endswith(f".{suffix}") and len(hashed) == len(name) + 13:
            return f"/static/{hashed}"
    raise KeyError(name)


@router.api_route("/static/{name}", methods=["GET", "HEAD"])
def asset(name: str) -> Response:
    """One static file; its address names its content, so a browser need never ask again."""
    if name not in _assets():
        raise HTTPException(404, "no such file")
    media_type, content = _assets()[name]
    return Response(
        content,
        media_type=media_type,
        headers={
            "Cache-Control": "public, max-age=31536000, immutable",
            "X-Content-Type-Options": "nosniff",
            "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
        },
    )
