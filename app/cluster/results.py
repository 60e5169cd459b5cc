"""Celery's Redis result backends, for counting a chord's parts alone: the store has what tasks found.

Celery's own subscribe to the result of every part when a chord is sent, and keep both for as long as the process lives.
"""

from __future__ import annotations

from typing import Any, Final

from celery.backends import redis


class _Counting:
    def add_pending_result(self, result: Any, **_: Any) -> Any:
        """Wait for nothing: nobody asks for a result."""
        return result


class RedisResults(_Counting, redis.RedisBackend):  # type: ignore[misc]
    """On one Redis."""


class SentinelResults(_Counting, redis.SentinelBackend):  # type: ignore[misc]
    """On a Redis that sentinels watch."""


BACKENDS: Final = {
    "redis": f"{__name__}:RedisResults",
    "rediss": f"{__name__}:RedisResults",
    "sentinel": f"{__name__}:SentinelResults",
}
