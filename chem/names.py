"""Molecule names: ``rxn:R:A:B`` and ``rxn:R:A:B:C``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

SAVI: Final = "savi"

# ASCII digits only: `\d` would also take Arabic-Indic numerals, which int() then reads.
_REACTION_PREFIX: Final = re.compile(r"rxn:([0-9]{1,19})(?::|\Z)")
_COMBINATORIAL: Final = re.compile(r"rxn:([0-9]{1,19}):([0-9]{1,19}):([0-9]{1,19})(?::([0-9]{1,19}))?\Z")


@dataclass(frozen=True, slots=True)
class CombinatorialName:
    """A reaction and two or three building blocks, by their numbers."""

    reaction: int
    reactants: tuple[int, ...]


def unquoted(name: str) -> str:
    """The name without the quotes some miners wrap it in."""
    return name.replace('"', "").replace("'", "")


def reaction_of(name: str) -> int | str | None:
    """The reaction a name claims: its number, ``savi`` without the ``rxn:`` prefix, None where it claims none."""
    name = unquoted(name)
    if not name.startswith("rxn:"):
        return SAVI
    match = _REACTION_PREFIX.match(name)
    return int(match[1]) if match else None


def parse_name(name: str) -> CombinatorialName | None:
    """The parsed name, or None where it is not of the combinatorial form."""
    match = _COMBINATORIAL.match(unquoted(name))
    if match is None:
        return None
    numbers = [int(part) for part in match.groups() if part is not None]
    return CombinatorialName(numbers[0], tuple(numbers[1:]))


def python_reaction_of(name: str) -> int | None:
    """The reaction a name claims, its number read as Python reads one (``04``, `` 4``, ``+4``, ``4_0``).

    None without ``rxn:`` at the very start; quotes are not taken off.
    """
    fields = name.split(":")
    return _python_int(fields[1]) if fields[0] == "rxn" and len(fields) > 1 else None


def parse_python_name(name: str) -> CombinatorialName | None:
    """The parsed name, quotes taken off, its numbers read as Python reads them; None where it is of no such form."""
    prefix, *fields = unquoted(name).split(":")
    numbers = [_python_int(field) for field in fields]
    if prefix != "rxn" or len(numbers) not in {3, 4} or None in numbers:
        return None
    reaction, *reactants = (number for number in numbers if number is not None)
    return CombinatorialName(reaction, tuple(reactants))


def _python_int(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None
