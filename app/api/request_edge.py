"""The edge of every request: how large and slow its body may be, clients that leave, what every answer says, counts."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.observability.metrics import REQUEST_SECONDS, REQUESTS

_TOO_SLOW: Final = 408
_TOO_LARGE: Final = 413

# What the log and the metrics call a request whose client disconnected; the client no longer sees it.
_CLIENT_LEFT: Final = 499

# Seconds for one body.
BODY_SECONDS: Final = 20.0

# A connection that is closed with bytes unread may take the answer with it: so long (s) they are read and thrown away.
_DISCARDING_SECONDS: Final = 1.0


class RequestEdge:
    """ASGI middleware: 413 for a body above ``limit`` bytes, announced or not; 408 for one that takes ``seconds``.

    An answer that comes before the body is over ends the connection. A client that leaves while it sends is no error:
    its request is a 499. Requests are counted by route template, never by the path that was typed. Every answer says
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
        headers = dict(scope["headers"])
        announced = headers.get(b"content-length", b"0")
        has_body = b"transfer-encoding" in headers or announced != b"0"
        body = _Body(receive, self._limit, self._seconds, self._too_large)
        began, status, unread = time.perf_counter(), 500, False

        async def answer(message: Message) -> None:
            nonlocal status, unread
            if message["type"] == "http.response.start":
                # FastAPI takes the exception of a client that left for a fault of the body
                status = message["status"] = _CLIENT_LEFT if body.left else message["status"]
                unread = has_body and not body.over
                headers = MutableHeaders(scope=message)
                headers.setdefault("X-Content-Type-Options", "nosniff")
                if unread:
                    headers["Connection"] = "close"
            elif unread and not message.get("more_body", False):
                await send({**message, "more_body": True})
                await body.discard()
                message = {"type": "http.response.body"}
            await send(message)

        try:
            if announced.isdigit() and int(announced[:20]) > self._limit:
                await JSONResponse({"detail": self._too_large}, _TOO_LARGE)(scope, receive, answer)
            else:
                await self._app(scope, body, answer)
        except ClientDisconnect:
            await Response(status_code=_CLIENT_LEFT)(scope, receive, answer)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            REQUESTS.labels(route, str(status)).inc()
            REQUEST_SECONDS.labels(route).observe(time.perf_counter() - began)

    @property
    def _too_large(self) -> str:
        return f"the body is larger than {self._limit} bytes"


class _Body:
    """``receive`` for one request, until its body is over; what comes after it passes through.

    ``left``: the client disconnected before the body's end.
    """

    def __init__(self, receive: Receive, limit: int, seconds: float, too_large: str) -> None:
        self._receive = receive
        self._limit = limit
        self._seconds = seconds
        self._too_large = too_large
        self._received = 0
        self._until: float | None = None
        self.over = False
        self.left = False

    async def __call__(self) -> Message:
        if self.over:
            return await self._receive()
        now = asyncio.get_running_loop().time()
        self._until = self._until or now + self._seconds
        try:
            async with asyncio.timeout_at(self._until):
                message = await self._next()
        except TimeoutError:
            raise HTTPException(_TOO_SLOW, f"the body did not come within {self._seconds:g} s") from None
        if self._received > self._limit:
            raise HTTPException(_TOO_LARGE, self._too_large)
        return message

    async def discard(self) -> None:
        """Read on for a moment, and at most as much as a body may have, until the body is over."""
        self._received = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(_DISCARDING_SECONDS):
                while not self.over and self._received <= self._limit:
                    await self._next()

    async def _next(self) -> Message:
        message = await self._receive()
        self._received += len(message.get("body", b""))
        self.over = not message.get("more_body", False)
        self.left = self.left or message["type"] == "http.disconnect"
        return message
