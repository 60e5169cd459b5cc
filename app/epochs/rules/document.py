"""Rules files as plain data: YAML from anywhere, read so that a malformed file always ends in a sentence."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from app.domain import ValidatorError
from app.untrusted import quoted, shown

# No number in a rules file comes near this, and Python refuses to print one of more than 4,300 digits.
_LARGEST_NUMBER: Final = 2**63 - 1

_LONGEST_KEY: Final = 100

# What PyYAML's constructors let through where a scalar is not of its tag (`!!int x`, `2024-99-99`).
_CONVERSION_ERRORS: Final = (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError)


class RulesError(ValidatorError):
    """The rules file cannot be used; the message names the key and what it should be."""


class Section(BaseModel):
    """A part of a rules file: frozen, its unknown keys refused, its values taken as they are written."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)


P = TypeVar("P", bound=Section)


class _Loader(yaml.SafeLoader):
    """YAML's own types only; a scalar that is not what its tag says is an error of the file, with its line."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except _CONVERSION_ERRORS:
            value = quoted(getattr(node, "value", ""))
            kind = node.tag.removeprefix("tag:yaml.org,2002:")
            raise yaml.constructor.ConstructorError(None, None, f"{value} is not a {kind}", node.start_mark) from None


def read_document(text: str, origin: str) -> dict[str, Any]:
    """The sections of a rules file: mappings, lists, texts, numbers, booleans and null, and nothing else.

    Raises:
        RulesError: not YAML, or something in it that no rules file holds; names ``origin``.
    """
    try:
        document = yaml.load(text, _Loader)  # noqa: S506  (a SafeLoader)
    except (yaml.YAMLError, RecursionError) as error:
        raise RulesError(f"{origin} is not YAML: {_one_line(error)}") from None
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise RulesError(f"{origin} must hold sections such as 'competition:', not a bare value")
    _refuse_unusual(document, origin)
    return document


def parameters_from(model: type[P], document: dict[str, Any], origin: str) -> P:
    """The document as a rule set's parameters.

    Raises:
        RulesError: an unknown key, or a value of the wrong kind; names each.
    """
    try:
        return model.model_validate(document)
    except ValidationError as error:
        raise RulesError(f"{origin}: " + "; ".join(_sentence(item) for item in error.errors())) from None


def _refuse_unusual(document: dict[Any, Any], origin: str) -> None:
    """Refuse keys that are no text, numbers beyond measure, dates, sets, and a section that contains itself."""
    above: set[int] = set()
    # aliases can name one list a billion times
    seen: set[int] = set()

    def look(value: Any, where: str) -> None:
        if isinstance(value, dict):
            enter(value, where, value.items())
        elif isinstance(value, list):
            enter(value, where, enumerate(value))
        elif isinstance(value, int) and abs(value) > _LARGEST_NUMBER:
            raise RulesError(f"{origin}: {where} is a number of {value.bit_length()} bits; none here is so large")
        elif not isinstance(value, str | int | float | None):
            raise RulesError(f"{origin}: {where} is a {type(value).__name__}; quote it to make it a text")

    def enter(value: Any, where: str, entries: Iterable[tuple[Any, Any]]) -> None:
        if id(value) in above:
            raise RulesError(f"{origin}: {where} contains itself; write it out without the YAML alias")
        if id(value) in seen:
            return
        above.add(id(value))
        seen.add(id(value))
        for key, item in entries:
            if isinstance(value, dict) and not (isinstance(key, str) and key.isprintable() and len(key) < _LONGEST_KEY):
                raise RulesError(f"{origin}: {where} has a key that is not a name: a {type(key).__name__}")
            look(item, str(key) if value is document else f"{where}.{key}")
        above.discard(id(value))

    try:
        look(document, "the file")
    except RecursionError:
        raise RulesError(f"{origin} is nested too deeply to be a rules file") from None


def _sentence(item: Any) -> str:
    key = ".".join(str(part) for part in item["loc"]) or "the file"
    if item["type"] == "extra_forbidden":
        return f"unknown key {quoted(key)}; remove it or correct its spelling"
    return f"{key}: {item['msg'].removeprefix('Value error, ')} (found {shown(item['input'])})"


def _one_line(error: Exception) -> str:
    text = str(error)
    if isinstance(error, yaml.MarkedYAMLError) and error.problem:
        text = error.problem if error.problem_mark is None else f"line {error.problem_mark.line + 1}: {error.problem}"
    return next(iter(text.splitlines()), "") or type(error).__name__
