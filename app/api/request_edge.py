"""The edge of every request: how large and slow its body may be, clients that go away, headers of every answer."""

from __future__ import annotations

import asyncio
from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_TOO_SLOW: Final = 408
_TOO_LARGE: Final = 413

# What the log and the metrics call a request whose client went away; the client no longer sees it.
_CLIENT_LEFT: Final = 499

BODY_SECONDS: Final = 20.0


class RequestEdge:
    """ASGI middleware: 413 for a body above ``limit`` bytes, announced or not; 408 for one that takes ``seconds``.

    A client that goes away while it sends is no error: the metrics count its request as a 499. Every answer says
    ``nosniff``.
    """

    def __init__(self, app: ASGIApp, limit: int, seconds: float = BODY_SECONDS) -> None:
        self._app = app
        self._limit = limit
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, counting its body."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).setdefault("X-Content-Type-Options", "nosniff")
            await send(message)

        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if announced.isdigit() and int(announced[:20]) > self._limit:
            await JSONResponse({"detail": self._too_large}, _TOO_LARGE)(scope, receive, answer)
            return
        try:
            await self._app(scope, _Body(receive, self._limit, self._seconds, self._too_large), answer)
        except ClientDisconnect:
            await Response(status_code=_CLIENT_LEFT)(scope, receive, answer)

    @property
    def _too_large(self) -> str:
        return f"the body is larger than {self._limit} bytes"


class _Body:
    """``receive`` for one request, until its body is over; what comes after it passes through."""

    def __init__(self, receive: Receive, limit: int, seconds: float, too_large: str) -> None:
        self._receive = receive
        self._limit = limit
        self._seconds = seconds
        self._too_large = too_large
        self._received = 0
        self._until: float | None = None
        self._over = False

    async def __call__(self) -> Message:
        if self._over:
            return await self._receive()
        now = asyncio.get_running_loop().time()
        self._until = self._until or now + self._seconds
        try:
            async with asyncio.timeout_at(self._until):
                message = await self._receive()
        except TimeoutError:
            # what the client still sends is not read: the connection ends with this answer
            raise HTTPException(
                _TOO_SLOW, f"the body did not come within {self._seconds:g} s", headers={"Connection": "close"}
            ) from None
        self._received += len(message.get("body", b""))
        if self._received > self._limit:
            raise HTTPException(_TOO_LARGE, self._too_large)
        self._over = not message.get("more_body", False)
        return message
