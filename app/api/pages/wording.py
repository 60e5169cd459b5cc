"""How the pages write numbers, times and untrusted text. Pure functions, used as template filters."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Final

NOTHING: Final = "–"

_STEPS: Final = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def clipped(text: str, most: int = 400) -> str:
    """The text's beginning, and how long it is, where it is longer than a page should show."""
    return text if len(text) <= most else f"{text[:most]}… ({len(text):,} characters)"


def number(value: float | None, places: int = 4) -> str:
    """A number at so many decimal places; ``−∞`` for a missing score, a dash for None."""
    if value is None or math.isnan(value):
        return NOTHING
    if math.isinf(value):
        return "−∞" if value < 0 else "∞"
    return f"{value:,.{places}f}"


def whole(value: int) -> str:
    """A whole number with its thousands apart: ``6,859,361``."""
    return f"{value:,}"


def shortened(text: str, head: int = 6, tail: int = 5) -> str:
    """A long name by its two ends, as explorers show hotkeys: ``5FHneW…M694t``."""
    return text if len(text) <= head + tail + 1 else f"{text[:head]}…{text[-tail:]}"


def duration(length: timedelta | float | None) -> str:
    """A length of time in its two largest units: ``2 h 5 min``; below ten seconds with one decimal."""
    if length is None:
        return NOTHING
    seconds = length.total_seconds() if isinstance(length, timedelta) else length
    if seconds < 10:
        return f"{max(seconds, 0.0):.1f} s"
    left = round(seconds)
    parts: list[str] = []
    for size, unit in _STEPS:
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count} {unit}")
        if len(parts) == 2 or (parts and not count):
            break
    return " ".join(parts)


def ago(instant: datetime, now: datetime) -> str:
    """How far an instant lies back, or ahead, in one unit: ``3 min ago``, ``in 2 h``."""
    seconds = (now - instant).total_seconds()
    if abs(seconds) < 5:
        return "just now"
    size, unit = next(step for step in _STEPS if abs(seconds) >= step[0])
    count = int(abs(seconds) // size)
    return f"{count} {unit} ago" if seconds > 0 else f"in {count} {unit}"


def utc(instant: datetime) -> str:
    """``2025-10-02 09:15:04 UTC``."""
    return instant.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def iso(instant: datetime) -> str:
    """ISO 8601 to the second, in UTC, as ``<time datetime>`` and the downloads have it."""
    return instant.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parsed_instant(text: str) -> datetime | None:
    """The instant of an ISO 8601 text (a push time, say); None where it is none."""
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        return None
    return instant if instant.tzinfo is not None else instant.replace(tzinfo=UTC)
