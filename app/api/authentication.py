"""Who calls: a hotkey that signed the request, admitted by a policy.

Used by the validator API and by the scoring API; they differ in the policy alone.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Collection, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Final, NoReturn, Protocol

from fastapi import HTTPException, Request, Response, Security, status
from fastapi.routing import APIRoute
from fastapi.security import APIKeyHeader, HTTPBasic, HTTPBasicCredentials
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from app.settings import get_settings
from app.store.callers import Callers
from app.store.database import get_store
from app.store.metagraph import Metagraph
from app.untrusted import NotJson, read_json
from chain.hotkey import request_message, signature_bytes
from chain.subtensor import is_address, signed_by_hotkey

# How long a signed request may be used, and how far a caller's clock may run ahead of ours.
LIFETIME_SECONDS: Final = 60
_AHEAD_SECONDS: Final = 10

# Where a request keeps its caller once that is settled: a signature cannot be used a second time.
_CALLER: Final = "authenticated_hotkey"

_TIMESTAMP: Final = re.compile(r"[0-9]{1,12}(?:\.[0-9]{1,9})?\Z")

# The schemes' names in the OpenAPI schema; the three headers only mean something together.
BASIC_SCHEME: Final = "Basic"
HEADER_SCHEMES: Final = ("XHotkey", "XTimestamp", "XSignature")

_basic = HTTPBasic(
    scheme_name=BASIC_SCHEME,
    auto_error=False,
    description="user: hotkey (SS58); password: 0x and its signature of itself",
)
_hotkey = APIKeyHeader(scheme_name="XHotkey", name="X-Hotkey", auto_error=False, description="hotkey (SS58)")
_timestamp = APIKeyHeader(
    scheme_name="XTimestamp", name="X-Timestamp", auto_error=False, description="unix time; valid for 60 s"
)
_signature = APIKeyHeader(
    scheme_name="XSignature",
    name="X-Signature",
    auto_error=False,
    description='0x and the signature of "{hotkey}:{unix_time}:{method}:{path}:{sha256(body)}"; for one use',
)


class AccessPolicy(Protocol):
    """Decides whether a hotkey, known to be the caller's, may call."""

    def objection(self, hotkey: str, session: Session) -> str | None:
        """Why the hotkey may not call; None where it may."""
        ...


@dataclass(frozen=True, slots=True)
class PermittedValidators:
    """Hotkeys of a subnet with a validator permit and a stake (alpha)."""

    netuid: int
    min_stake: float

    def objection(self, hotkey: str, session: Session) -> str | None:
        """Why the hotkey may not call; None where it may."""
        neuron = Metagraph(session, self.netuid).neuron_of(hotkey)
        if neuron is None:
            return f"{hotkey} is not registered on subnet {self.netuid}"
        if not neuron.validator_permit:
            return f"{hotkey} has no validator permit"
        if neuron.stake < self.min_stake:
            return f"{hotkey} has a stake of {neuron.stake:.0f}; {self.min_stake:.0f} are needed"
        return None


@dataclass(frozen=True, slots=True)
class NamedHotkeys:
    """Hotkeys that the operator named."""

    hotkeys: Collection[str]

    def objection(self, hotkey: str, session: Session) -> str | None:
        """Why the hotkey may not call; None where it may."""
        return None if hotkey in self.hotkeys else f"{hotkey} is not a hotkey this node works for"


@dataclass(frozen=True, slots=True)
class _Claim:
    """Who the caller claims to be, and the proof. ``expires_at`` is None for Basic, which never expires."""

    hotkey: str
    message: bytes
    signature: bytes
    expires_at: float | None


class _StrictRequest(Request):
    """A request whose JSON says everything once: of two values under one name, each reader might take another."""

    async def json(self) -> Any:
        try:
            return read_json(await self.body(), unique_names=True)
        except NotJson as error:
            problem = {"type": "json_invalid", "loc": ["body"], "msg": f"JSON decode error: {error}"}
            raise HTTPException(status.HTTP_422_UNPROCESSABLE_CONTENT, [problem]) from None


class Authentication:
    """The caller's hotkey, or 401 (no proof), 403 (not admitted), 429 (too often).

    A FastAPI dependency; on routes of class :meth:`route` it is settled before anything untrusted is parsed.
    ``policy`` is asked for at each request, when the settings are known.
    """

    def __init__(self, policy: Callable[[], AccessPolicy]) -> None:
        self._policy = policy

    async def __call__(
        self,
        request: Request,
        basic: Annotated[HTTPBasicCredentials | None, Security(_basic)],
        hotkey: Annotated[str | None, Security(_hotkey)],
        timestamp: Annotated[str | None, Security(_timestamp)],
        signature: Annotated[str | None, Security(_signature)],
    ) -> str:
        """The caller's hotkey."""
        settled = getattr(request.state, _CALLER, None)
        if isinstance(settled, str):
            return settled
        if hotkey is not None or timestamp is not None or signature is not None:
            proof = _proof(hotkey or "", timestamp or "", signature or "")
            # the body is what costs time and memory: only of a hotkey that may call is it read
            await run_in_threadpool(self._object, hotkey or "")
            claim = _from_headers(request, await request.body(), hotkey or "", timestamp or "", proof)
        elif basic is not None and get_settings().api_basic:
            claim = _from_basic(basic)
        elif basic is not None:
            _unauthorized("HTTP Basic is turned off here; sign the request: X-Hotkey, X-Timestamp, X-Signature")
        else:
            _unauthorized("sign the request: X-Hotkey, X-Timestamp, X-Signature")
        await run_in_threadpool(self._admit, claim)
        setattr(request.state, _CALLER, claim.hotkey)
        return claim.hotkey

    def route(self) -> type[APIRoute]:
        """The class of routes that ask who calls before they look at the request."""
        authenticate = self

        class AuthenticatedRoute(APIRoute):
            def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
                handle = super().get_route_handler()

                async def authenticated(request: Request) -> Response:
                    request = _StrictRequest(request.scope, request.receive)
                    await authenticate(
                        request,
                        await _basic(request),
                        await _hotkey(request),
                        await _timestamp(request),
                        await _signature(request),
                    )
                    return await handle(request)

                return authenticated

        return AuthenticatedRoute

    def _object(self, hotkey: str) -> None:
        with get_store().reading() as session:
            if objection := self._policy().objection(hotkey, session):
                raise HTTPException(status.HTTP_403_FORBIDDEN, objection)

    def _admit(self, claim: _Claim) -> None:
        if not signed_by_hotkey(claim.hotkey, claim.message, claim.signature):
            _unauthorized("the signature is not this hotkey's over this request")
        # whatever is refused below leaves no trace: the transaction goes with the exception
        with get_store().writing() as session:
            if objection := self._policy().objection(claim.hotkey, session):
                raise HTTPException(status.HTTP_403_FORBIDDEN, objection)
            callers = Callers(session)
            if claim.expires_at is not None:
                digest = hashlib.sha256(claim.signature).hexdigest()
                if not callers.use_signature(digest, datetime.fromtimestamp(claim.expires_at, UTC)):
                    _unauthorized("this signature was used before; sign each request by itself")
            limit = get_settings().api_rate_limit
            if callers.count_request(claim.hotkey) > limit:
                wait = 60 - int(time.time()) % 60
                raise HTTPException(
                    status.HTTP_429_TOO_MANY_REQUESTS,
                    f"more than {limit} requests in this minute; try again in {wait} s",
                    headers={"Retry-After": str(wait)},
                )


def _proof(hotkey: str, timestamp: str, signature: str) -> bytes:
    """The signature's bytes, from headers that are well formed and fresh."""
    proof = signature_bytes(signature)
    if proof is None or not _TIMESTAMP.match(timestamp) or not is_address(hotkey):
        _unauthorized("X-Hotkey, X-Timestamp (unix time) and X-Signature (0x and 128 hex digits) must all be there")
    age = time.time() - float(timestamp)
    if not -_AHEAD_SECONDS <= age <= LIFETIME_SECONDS:
        _unauthorized(f"the request is {age:.0f} s old; it is valid for {LIFETIME_SECONDS} s (compare the clocks)")
    return proof


def _from_headers(request: Request, body: bytes, hotkey: str, timestamp: str, proof: bytes) -> _Claim:
    raw_path = request.scope.get("raw_path") or request.scope["path"].encode()
    path = raw_path.split(b"?", 1)[0].decode("ascii", "replace")
    message = request_message(hotkey, timestamp, request.method, path, body)
    return _Claim(hotkey, message, proof, float(timestamp) + LIFETIME_SECONDS)


def _from_basic(basic: HTTPBasicCredentials) -> _Claim:
    proof = signature_bytes(basic.password)
    if proof is None or not is_address(basic.username):
        _unauthorized("the user must be a hotkey, the password 0x and its signature of itself")
    return _Claim(basic.username, basic.username.encode(), proof, None)


def _unauthorized(detail: str) -> NoReturn:
    raise HTTPException(status.HTTP_401_UNAUTHORIZED, detail, headers={"WWW-Authenticate": "Basic"})
