"""The HTTP services: validator API with its pages, and the scoring API."""

from __future__ import annotations

from pydantic import Field

from app.settings.concern import Concern
from app.settings.values import CommaSeparated, Host, Port


class ApiSettings(Concern):
    """Where the services listen, for whom, and how much they take."""

    api_host: Host = Field("127.0.0.1", description="address the API listens on")
    api_port: Port = Field(8000, description="port the API listens on")
    api_basic: bool = Field(True, description="accept HTTP Basic with a hotkey signature, which can be replayed")
    api_rate_limit: int = Field(1200, ge=1, le=10_000_000, description="requests a minute that one hotkey may make")
    api_body_limit: int = Field(1_048_576, ge=1024, le=1 << 30, description="largest request body in bytes")
    min_stake: float = Field(
        20_000.0, ge=0, allow_inf_nan=False, description="stake (alpha) that a caller of the validator API needs"
    )
    pages: bool = Field(True, description="the API serves the pages too, to anyone who can reach its address")
    scoring_api_host: Host = Field("127.0.0.1", description="address the scoring API listens on")
    scoring_api_port: Port = Field(8003, description="port the scoring API listens on")
    scoring_api_callers: CommaSeparated = Field(
        (), description="hotkeys the scoring API works for, separated by commas; this wallet's own when empty"
    )
