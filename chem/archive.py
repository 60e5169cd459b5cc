"""The archive of molecules already used for a target: column ``InChI_Key`` of a CSV."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Final

from app.domain import ValidatorError

KEY_COLUMN: Final = "InChI_Key"


class ArchiveUnreadable(ValidatorError):
    """The archive exists but cannot be read; ``archive_unavailable`` of the rules says what follows."""


def read_archive(path: Path) -> frozenset[str]:
    """The InChIKeys in an archive file; a file that does not exist is an empty archive.

    Raises:
        ArchiveUnreadable: not a CSV in UTF-8, or without the column.
    """
    if not path.exists():
        return frozenset()
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            if KEY_COLUMN not in (reader.fieldnames or ()):
                raise ArchiveUnreadable(f"archive {path} has no column {KEY_COLUMN!r}")
            return frozenset(row[KEY_COLUMN] for row in reader if row[KEY_COLUMN])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ArchiveUnreadable(f"archive {path} cannot be read: {error}") from None
