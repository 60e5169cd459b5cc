"""A protein's multiple sequence alignment (A3M), as boltz reads it."""

from __future__ import annotations

import functools
import io
import logging
from typing import Any, Final

from boltz.data import const
from boltz.data.parse.a3m import _parse_a3m

from app.domain import ValidatorError

MAX_ROWS: Final = 8192
"""Rows that are read; the model then draws 1024 of them with the record's seed."""

_log = logging.getLogger(__name__)


class AlignmentError(ValidatorError):
    """The alignment is not A3M."""


@functools.lru_cache(maxsize=4)
def parsed_alignment(sequence: str, a3m: str) -> Any | None:
    """boltz's ``MSA``; None where the first row is not the sequence, which boltz then treats as having no alignment.

    Raises:
        AlignmentError: the text cannot be read as A3M.
    """
    first = next((line.strip() for line in a3m.splitlines() if line.strip() and line[0] not in "#>"), "")
    if first != sequence:
        _log.warning(
            "the alignment's first row (%d residues) is not the target's sequence (%d residues): scored without it, "
            "as boltz does",
            len(first),
            len(sequence),
        )
        return None
    unknown = set("".join(line for line in a3m.splitlines() if line[:1] not in "#>").upper())
    unknown -= {*const.prot_letter_to_token, "-", " ", "\t"}
    if unknown:
        raise AlignmentError(
            f"the alignment contains {', '.join(map(ascii, sorted(unknown)))}; A3M has residues and '-'"
        )
    return _parse_a3m(io.StringIO(a3m), None, MAX_ROWS)
