"""The submission archive as rules read it: the molecules already used for a target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from app.epochs.rules.rule_set import FactsReader
from chain.sources import ArchiveUnavailable
from chem.archive import ArchiveUnreadable, read_archive


def molecules_file(target: str) -> str:
    """The archive of molecules used for a target, by its name among the epoch's facts."""
    return f"archive/{target}_molecules.csv"


def nanobodies_file(target: str) -> str:
    """The archive of nanobodies scored for a target, by its name among the epoch's facts."""
    return f"archive/{target}_nanobodies.csv"


def used_molecules(
    facts: FactsReader, targets: Sequence[str], unavailable: Literal["accept", "reject"]
) -> tuple[frozenset[str] | None, str | None]:
    """InChIKeys used for any of the targets, and a warning for the report.

    None instead of keys: an archive cannot be read, and the rules refuse every molecule then. A file that does not
    exist is an empty archive.
    """
    used: set[str] = set()
    try:
        for target in targets:
            path = facts.file(molecules_file(target))
            used |= frozenset() if path is None else read_archive(path)
    except (ArchiveUnreadable, ArchiveUnavailable) as error:
        accept = unavailable == "accept"
        consequence = "molecules were taken as unused" if accept else "every submission was refused"
        return frozenset() if accept else None, f"{error}; {consequence} (archive_unavailable)"
    return frozenset(used), None
