"""Whether a model's server says that it is healthy: asked with a bound on time and bytes, redirects not followed."""

from __future__ import annotations

import asyncio
from typing import Final

from app.untrusted import NotJson, read_json

HEALTH_PATH: Final = "/api/v1/health"
_BYTES: Final = 1 << 16


def is_healthy(base_url: str, seconds: float) -> bool:
    """True where ``GET /api/v1/health`` answers 200 and ``{"status": "healthy"}``, all of it within ``seconds``."""
    try:
        return asyncio.run(_asked(base_url.rstrip("/") + HEALTH_PATH, seconds))
    except (TimeoutError, OSError):
        return False


async def _asked(url: str, seconds: float) -> bool:
    import httpx2

    try:
        async with (
            asyncio.timeout(seconds),
            httpx2.AsyncClient(follow_redirects=False, trust_env=False, timeout=None) as client,
            client.stream("GET", url, headers={"Accept-Encoding": "identity"}) as response,
        ):
            if response.status_code != 200:
                return False
            body = bytearray()
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > _BYTES:
                    return False
    except httpx2.HTTPError:
        return False
    try:
        answer = read_json(body)
    except NotJson:
        return False
    return isinstance(answer, dict) and answer.get("status") == "healthy"
