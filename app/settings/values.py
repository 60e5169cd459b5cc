"""Kinds of values that settings have, each refused with a sentence where it is wrong."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import timedelta
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, ByteSize, Field
from pydantic_settings import NoDecode

from app.untrusted import quoted

# Ten years: longer times are slips of the pen, and overflow a date.
_LONGEST: Final = timedelta(days=3650)

_HOST: Final = re.compile(r"[A-Za-z0-9_.:%\[\]-]{1,253}")
_NETWORK: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
NONE: Final = "none"


def web_address(url: str) -> str:
    """An http(s) address without a trailing slash."""
    if not _is_address(url, {"http", "https"}):
        raise ValueError(f"{quoted(url)} is not an http(s) address")
    return url.rstrip("/")


def _web_addresses(urls: Iterable[str]) -> tuple[str, ...]:
    found = tuple(web_address(url) for url in urls)
    if not found:
        raise ValueError("needs at least one address")
    return found


def _network(text: str) -> str:
    for part in text.split(","):
        if not _NETWORK.fullmatch(part.strip()) and not _is_address(part.strip(), {"ws", "wss"}):
            raise ValueError(f"{quoted(part)} is neither a network's name, such as finney, nor a ws:// address")
    return text


def _endpoints(urls: tuple[str, ...] | None) -> tuple[str, ...] | None:
    if urls == (NONE,):
        return ()
    for url in urls or ():
        if not _is_address(url, {"ws", "wss"}):
            raise ValueError(f"{quoted(url)} is not a ws:// or wss:// address; {NONE!r} means no other endpoint")
    return urls


def _host(text: str) -> str:
    if not _HOST.fullmatch(text):
        raise ValueError(f"{quoted(text)} is not a host's name or IP address")
    return text


def _engine(url: str) -> str:
    if not _is_address(url, {"unix", "tcp", "ssh", "http", "https"}):
        raise ValueError(f"{quoted(url)} is not a Docker Engine's address, such as unix:///var/run/docker.sock")
    return url


def _is_address(url: str, schemes: set[str]) -> bool:
    try:
        parts = urlsplit(url)
        # reading the port checks it
        return parts.scheme in schemes and bool(parts.netloc or parts.path) and parts.port != 0
    except ValueError:
        return False


def _matching(pattern: str, what: str) -> AfterValidator:
    compiled = re.compile(pattern)

    def check(text: str) -> str:
        if not compiled.fullmatch(text):
            raise ValueError(f"{quoted(text)} is not {what}")
        return text

    return AfterValidator(check)


def _split(value: Any) -> Any:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


Duration = Annotated[timedelta, Field(gt=timedelta(0), le=_LONGEST)]
DurationOrZero = Annotated[timedelta, Field(ge=timedelta(0), le=_LONGEST)]
CommaSeparated = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
WebAddress = Annotated[str, AfterValidator(web_address)]
WebAddresses = Annotated[CommaSeparated, AfterValidator(_web_addresses)]
Network = Annotated[str, AfterValidator(_network)]
Endpoints = Annotated[tuple[str, ...] | None, NoDecode, BeforeValidator(_split), AfterValidator(_endpoints)]
Host = Annotated[str, AfterValidator(_host)]
EngineAddress = Annotated[str, AfterValidator(_engine)]
FileName = Annotated[str, _matching(r"(?!\.{1,2}\Z)[^/\\]{1,128}", "a name without slashes")]
ClusterName = Annotated[
    str, _matching(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", "a name of letters, digits, dots and dashes")
]
NetworkName = Annotated[str, _matching(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}", "the name of a Docker network")]
RuntimeName = Annotated[str, _matching(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}", "the name of a container runtime")]
SampleSets = Annotated[str, _matching(r"[\w/]+:[0-9]+(\s*,\s*[\w/]+:[0-9]+)*", "SET:SIZE, several separated by commas")]
Port = Annotated[int, Field(ge=1, le=65535)]
Size = Annotated[ByteSize, Field(ge=0, le=1 << 60)]
