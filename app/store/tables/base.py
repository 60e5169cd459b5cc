"""What every table is made of: the base class, and the types of columns that both databases keep alike."""

from __future__ import annotations

import json
import zlib
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import DateTime, Dialect, LargeBinary, Text, TypeDecorator
from sqlalchemy.orm import DeclarativeBase

# Ids and UIDs are 32-bit integers in PostgreSQL; no row has a larger number.
LARGEST_ID: Final = 2**31 - 1


class UntrustedText(TypeDecorator[str]):
    """Text that others wrote: NUL and lone surrogates, which databases refuse, become the replacement mark."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        if value is None:
            return None
        return value.replace("\x00", "\ufffd").encode("utf-8", "replace").decode("utf-8")


class JsonText(TypeDecorator[Any]):
    """JSON in a text column. Infinities are refused: write them as the string ``-inf`` first."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        return None if value is None else json.dumps(value, allow_nan=False, separators=(",", ":"))

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        return None if value is None else json.loads(value)


class PackedJson(TypeDecorator[Any]):
    """JSON, compressed: an epoch's lists of molecules are long and much alike. Text of an older version is read too."""

    impl = LargeBinary
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> bytes | None:
        if value is None:
            return None
        return zlib.compress(json.dumps(value, allow_nan=False, separators=(",", ":")).encode(), level=6)

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        if value is None:
            return None
        text = value if isinstance(value, str) else bytes(value)
        return json.loads(text if isinstance(text, str) or text[:1] in b"[{" else zlib.decompress(text))


class UtcDateTime(TypeDecorator[datetime]):
    """An aware instant in UTC on both databases (SQLite forgets the zone)."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Table(DeclarativeBase):
    """Base of all tables."""
