"""What others sent: how it appears in a message, and how its JSON is read."""

from __future__ import annotations

import json
import re
from reprlib import Repr
from typing import Any, Final

# Beside what Python calls unprintable: fillers that show nothing and variation selectors. All of it can hide in,
# reorder or break a line of text.
_HIDDEN: Final = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)

# Python writes integers of up to 4,300 digits in decimal and refuses longer ones; these are shown in full.
_SHOWN_BITS: Final = 256


def visible(text: str, keep: str = "") -> str:
    """The text with every control, bidirectional, invisible or unassigned character as ``⟨U+202E⟩``.

    Those in ``keep`` stay.
    """
    if text.isprintable() and (text.isascii() or not _HIDDEN.search(text)):
        return text
    return "".join(
        letter if letter in keep or (letter.isprintable() and not _HIDDEN.match(letter)) else f"⟨U+{ord(letter):04X}⟩"
        for letter in text
    )


def shown(value: object, longest: int = 80) -> str:
    """Any value on one line of at most ``longest`` characters, safe in messages, logs, terminals and databases.

    Text and bytes without quotes, an exception with its type. Never raises, whatever the value.
    """
    try:
        text = visible(_plain(value, longest))
    # a value's own repr() may raise anything, and a refusal must not fail because of what it refuses
    except Exception:  # noqa: BLE001
        text = f"a value of type {type(value).__name__}"
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def quoted(value: object, longest: int = 80) -> str:
    """:func:`shown` in quotes."""
    return f"'{shown(value, longest)}'"


def _plain(value: object, longest: int) -> str:
    if isinstance(value, str):
        return value[: longest + 1]
    if isinstance(value, bytes | bytearray):
        # four bytes a character at most
        return bytes(value[: 4 * longest + 4]).decode("utf-8", "backslashreplace")[: longest + 1]
    if isinstance(value, BaseException):
        return f"{type(value).__name__}: {value}"[: longest + 1]
    return _Bounded().repr(value)


class _Bounded(Repr):
    """A bounded ``repr`` that also takes integers of any size."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlong = self.maxstring = self.maxother = 200

    def repr_int(self, value: int, _level: int) -> str:
        return str(value) if value.bit_length() <= _SHOWN_BITS else f"an integer of {value.bit_length()} bits"


class NotJson(ValueError):
    """A document is not JSON that can be read; the message says where or why."""


def read_json(document: str | bytes | bytearray, *, lenient: bool = False, unique_names: bool = False) -> Any:
    """A JSON document as Python values; where ``lenient``, NaN and lone surrogates are the caller's to judge.

    With ``unique_names`` an object that names something twice is refused.

    Raises:
        NotJson: not JSON, not UTF-8, nested too deeply, a number that is not finite or has more digits than Python
            reads, or text that is not Unicode (half a surrogate pair, which no file or database takes).
    """
    try:
        value = json.loads(
            document,
            parse_constant=float if lenient else _refuse_constant,
            object_pairs_hook=_named_once if unique_names else None,
        )
        if not lenient and _may_hold_surrogates(document):
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise NotJson("it is nested too deeply") from None
    except UnicodeEncodeError:
        raise NotJson("it holds half of a surrogate pair") from None
    except json.JSONDecodeError as error:
        raise NotJson(f"{error.msg} (line {error.lineno}, column {error.colno})") from None
    except ValueError as error:
        # an integer of thousands of digits, bytes that are not UTF-8, NaN
        raise NotJson(shown(str(error), 160)) from None
    return value


def _named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"it names {quoted(twice)} twice")
    return found


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number of JSON")


def _may_hold_surrogates(document: str | bytes | bytearray) -> bool:
    # bytes may be UTF-16, where a zero stands between backslash and u
    escaped = "\\u" in document if isinstance(document, str) else b"\\" in document
    return escaped or not document.isascii()
